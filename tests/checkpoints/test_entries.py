import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.checkpoints.entries import DTYPE_BITS, TensorEntry, read_entries
from cosemzoo.strict_json import show


def test_an_entry_knows_its_bytes_and_elements() -> None:
    entry = TensorEntry("w", "F32", (2, 3, 4), 8, 104)
    assert (entry.nbytes, entry.parameters) == (96, 24)
    assert TensorEntry("s", "F32", (), 0, 4).parameters == 1


def test_entries_of_no_bytes_at_one_place_come_in_the_order_of_their_names() -> None:
    empty = {"dtype": "I8", "shape": [0], "data_offsets": [0, 0]}
    entries, problems = read_entries({"b": empty, "a": dict(empty)}, {}, 0)
    assert ([entry.name for entry in entries], problems) == (["a", "b"], [])


@given(st.permutations(["a", "b", "c"]), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_the_order_of_the_header_does_not_matter(order: list[str], lengths: list[int]) -> None:
    members = {}
    start = 0
    for name, length in zip("abc", lengths, strict=True):
        members[name] = {"dtype": "U8", "shape": [length], "data_offsets": [start, start + length]}
        start += length
    expected = read_entries(members, {}, start)
    assert expected[1] == []
    assert read_entries({name: members[name] for name in order}, {}, start) == expected


sizes = st.sampled_from([0, 1, 8, -1, 2**64 - 1, 2**64, True, 1.0, None])
some_sizes = st.lists(sizes, max_size=3)
wrong_fields = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F4", "F31", 3, None]),
        "shape": st.one_of(some_sizes, st.none(), st.just((8,))),
        "data_offsets": some_sizes,
        "strides": st.just([1]),
    },
)
right = {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}
values = st.one_of(
    st.none(),
    st.just([0, 8]),
    wrong_fields.map(lambda wrong: right | wrong),
    st.sampled_from([*right]).map(lambda left: {key: right[key] for key in right if key != left}),
)


def test_an_entry_whose_name_is_not_valid_unicode_is_none() -> None:
    (problem,) = read_entries({"\ud800": right}, {}, 8)[1]
    assert problem == f"tensor {show(chr(0xD800))} has a name that is not valid Unicode"


@given(name=st.sampled_from(["w", "", "\ud800"]), value=values, repeats=st.booleans())
def test_no_tensor_goes_missing_without_a_problem_that_names_it(
    *, name: str, value: object, repeats: bool
) -> None:
    entries, problems = read_entries({name: value}, {id(value): ["dtype"]} if repeats else {}, 8)
    named = [problem for problem in problems if problem.startswith(f"tensor {show(name)} ")]
    assert entries or named


def test_a_hole_is_no_problem_of_its_own_where_a_tensors_place_is_unknown() -> None:
    members: dict[str, object] = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [4, 5]},
        "b": {"dtype": "U8", "shape": [4]},
    }
    assert read_entries(members, {}, 5)[1] == ["tensor 'b' has no data_offsets"]


@pytest.mark.parametrize("dtype", [dtype for dtype, bits in DTYPE_BITS.items() if bits < 8])
def test_elements_smaller_than_a_byte_must_fill_their_bytes(dtype: str) -> None:
    bits = DTYPE_BITS[dtype]
    whole = {"w": {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, bits]}}
    assert read_entries(whole, {}, bits)[1] == []
    broken = {"w": {"dtype": dtype, "shape": [3], "data_offsets": [0, bits]}}
    (problem,) = read_entries(broken, {}, bits)[1]
    assert "not a whole number of bytes" in problem


def test_values_from_a_file_are_shown_cut_and_escaped() -> None:
    assert len(show("x" * 10_000)) <= 122
    assert show("\x1b\ud800") == "'\\x1b\\ud800'"
    assert len(show([[["deep"]] * 100] * 100)) < 300
