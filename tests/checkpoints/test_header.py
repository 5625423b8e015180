import copy
import ctypes
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, TensorSpec, deserialize, safe_open, serialize

from cosemzoo.checkpoints.header import (
    DTYPE_BITS,
    LONGEST_HEADER,
    FrozenMapping,
    Header,
    header_length,
    parse_header,
    read_header,
)
from cosemzoo.errors import InvalidSafetensors

# Typed here, since safetensors gives it no types.
read_by_reference: Callable[[bytes], list[tuple[str, Any]]] = deserialize


def with_length(text: bytes, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + data


def file_of(members: object, data: bytes = b"") -> bytes:
    text = json.dumps(members, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return with_length(text + b" " * (-len(text) % 8), data)


def parse(raw: bytes) -> Header:
    return parse_header(raw, file_size=len(raw), source="example")


def problems_of(raw: bytes) -> tuple[str, ...]:
    with pytest.raises(InvalidSafetensors) as caught:
        parse(raw)
    return caught.value.problems


def accepts(raw: bytes) -> bool:
    try:
        parse(raw)
    except InvalidSafetensors:
        return False
    return True


def reference_accepts(raw: bytes) -> bool:
    try:
        read_by_reference(raw)
    except SafetensorError:
        return False
    return True


def by_name(raw: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """What the reference reads: dtype, shape and bytes of every tensor."""
    views = read_by_reference(raw)
    return {name: (view["dtype"], tuple(view["shape"]), bytes(view["data"])) for name, view in views}


def by_name_here(raw: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    header = parse(raw)
    data = raw[header.data_start :]
    return {
        name: (entry.dtype, entry.shape, data[entry.start : entry.end])
        for name, entry in header.tensors.items()
    }


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EIGHT = bytes(range(8))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """Members of a valid header, in any order, and the data."""
    members: dict[str, Any] = {}
    offset = 0
    for name in draw(st.lists(texts.filter(lambda name: name != "__metadata__"), unique=True, max_size=5)):
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        if DTYPE_BITS[dtype] < 8:
            shape.append(draw(st.sampled_from([0, 4, 8])))
        bits = DTYPE_BITS[dtype]
        for length in shape:
            bits *= length
        members[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + bits // 8]}
        offset += bits // 8
    if draw(st.booleans()):
        members["__metadata__"] = draw(st.dictionaries(texts, texts, max_size=3))
    order = draw(st.permutations(list(members)))
    data = draw(st.binary(min_size=offset, max_size=offset))
    return {name: members[name] for name in order}, data


@given(layouts())
def test_every_file_that_follows_the_rules_reads_as_the_reference_reads_it(
    layout: tuple[dict[str, Any], bytes],
) -> None:
    raw = file_of(*layout)
    assert by_name_here(raw) == by_name(raw)
    assert parse(raw).metadata == layout[0].get("__metadata__", {})


HOSTILE: list[Any] = [
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    2**32,
    2**61,
    2**63,
    2**64 - 1,
    2**64,
    -1,
    1.0,
    True,
    None,
    "8",
    [],
    {},
]


@settings(deadline=None, max_examples=500)
@given(layout=layouts(), data=st.data())
def test_with_one_value_changed_a_file_is_accepted_exactly_where_the_reference_accepts_it(
    layout: tuple[dict[str, Any], bytes], data: st.DataObject
) -> None:
    members, payload = copy.deepcopy(layout[0]), layout[1]
    tensors = [name for name in members if name != "__metadata__"]
    if tensors:
        entry = members[data.draw(st.sampled_from(tensors))]
        key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        hostile = data.draw(st.sampled_from(HOSTILE))
        if key == "dtype":
            # An object as the dtype is one of the few things that only the reference lets through.
            entry[key] = data.draw(st.sampled_from(["F32", "f32", "F128", "", 4, None, ["F32"]]))
        elif data.draw(st.booleans()):
            del entry[key]
        elif entry[key] and data.draw(st.booleans()):
            entry[key][data.draw(st.integers(0, len(entry[key]) - 1))] = hostile
        else:
            entry[key] = data.draw(st.sampled_from([hostile, [hostile], [hostile, 8], [0, hostile]]))
    else:
        members["__metadata__"] = data.draw(st.sampled_from([*HOSTILE, {"a": 1}, {"a": None}, {"a": {}}]))
        if members["__metadata__"] is None:
            members["__metadata__"] = {}
    raw = file_of(members, payload)
    assert accepts(raw) == reference_accepts(raw)


@settings(deadline=None, max_examples=500)
@given(layout=layouts(), data=st.data())
def test_a_damaged_file_is_refused_or_read_as_the_reference_reads_it(
    layout: tuple[dict[str, Any], bytes], data: st.DataObject
) -> None:
    raw = bytearray(file_of(*layout))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "remove", "repeat"])):
            case "flip" if raw:
                raw[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del raw[place:]
            case "insert":
                raw[place:place] = data.draw(
                    st.sampled_from([b"\x00", b" ", b"{", b"}", b'"', b",", b"9", b"-", b"\\", b"\xff"])
                )
            case "remove":
                del raw[place : place + data.draw(st.integers(1, 9))]
            case "repeat":
                raw[place:place] = raw[place : place + data.draw(st.integers(1, 30))]
            case _:
                pass
    damaged = bytes(raw)
    if accepts(damaged):
        assert by_name_here(damaged) == by_name(damaged)


@given(st.binary(max_size=200))
@example(b"\x80\x02}q\x00.")
def test_random_bytes_are_refused_or_read_as_the_reference_reads_them(raw: bytes) -> None:
    if accepts(raw):
        assert by_name_here(raw) == by_name(raw)


@given(st.binary(max_size=60))
def test_random_bytes_in_a_header_are_refused_or_read_as_the_reference_reads_them(text: bytes) -> None:
    raw = with_length(b'{"' + text)
    if accepts(raw):
        assert by_name_here(raw) == by_name(raw)


WRITABLE = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e5m2": 1, "float8_e4m3fn": 1, "float8_e8m0fnu": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "complex64": 8, "float64": 8, "int64": 8, "uint64": 8,
    "float4_e2m1fn_x2": 1,
}  # fmt: skip


@settings(deadline=None)
@given(
    tensors=st.dictionaries(
        texts.filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(WRITABLE)), st.lists(st.integers(0, 3), max_size=3)),
        max_size=6,
    ),
    metadata=st.none() | st.dictionaries(texts, texts, max_size=4),
)
def test_whatever_the_writer_of_safetensors_writes_is_read(
    tensors: dict[str, tuple[str, list[int]]], metadata: dict[str, str] | None
) -> None:
    buffer = ctypes.create_string_buffer(bytes(range(216)), 216)
    specs = {}
    for name, (dtype, lengths) in tensors.items():
        # Two 4-bit values share a byte, so that there is an axis to double.
        shape = [*lengths, 2] if dtype.startswith("float4") and not lengths else lengths
        size = WRITABLE[dtype]
        for length in shape:
            size *= length
        specs[name] = TensorSpec(dtype=dtype, shape=shape, data_ptr=ctypes.addressof(buffer), data_len=size)
    raw = bytes(serialize(specs, metadata))
    if not tensors and metadata == {}:
        # The one thing it writes that it cannot read itself.
        assert not reference_accepts(raw)
        assert not accepts(raw)
        return
    assert by_name_here(raw) == by_name(raw)
    assert by_name_here(raw).keys() == tensors.keys()
    assert parse(raw).metadata == (metadata or {})


@pytest.mark.parametrize("dtype", DTYPE_BITS)
def test_every_dtype_of_the_format_is_read(dtype: str) -> None:
    size = DTYPE_BITS[dtype]
    raw = file_of({"w": {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}, bytes(range(size)))
    assert by_name_here(raw) == by_name(raw) == {"w": (dtype, (8,), bytes(range(size)))}


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    path.write_bytes(with_length(b"{}"))
    header = read_header(path)
    assert (dict(header.tensors), dict(header.metadata), header.data_start) == ({}, {}, 10)
    with safe_open(path, framework="np") as opened:
        assert list(opened.keys()) == []


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    raw = file_of(
        {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
            "b": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        },
        b"ab",
    )
    assert list(parse(raw).tensors) == ["b", "a"]


def test_the_whole_file_gives_what_its_first_bytes_give(tmp_path: Path) -> None:
    raw = file_of({"w": ENTRY, "__metadata__": {"format": "pt"}}, EIGHT)
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw)
    start = raw[: header_length(raw[:8], "example")]
    assert read_header(path) == parse_header(start, file_size=len(raw), source="example")


def entry(**changes: object) -> dict[str, object]:
    return {**ENTRY, **changes}


TWO = {"a": entry(), "b": entry(data_offsets=[8, 16])}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        pytest.param(b"", "too short for a header", id="an empty file"),
        pytest.param(b"\x02\0\0\0", "too short for a header", id="a file of four bytes"),
        pytest.param(with_length(b""), "0 bytes long, too short", id="an empty header"),
        pytest.param(with_length(b"{"), "1 bytes long, too short", id="a header of one byte"),
        pytest.param((LONGEST_HEADER + 1).to_bytes(8, "little"), "format allows", id="too long a header"),
        pytest.param((2**64 - 1).to_bytes(8, "little"), "format allows", id="the longest length"),
        pytest.param(b"PK\x03\x04\0\0\x08\x08", "a PyTorch checkpoint", id="a zip archive"),
        pytest.param(b"\x80\x02}q\0(X\x05", "a Python pickle", id="a pickle"),
        pytest.param(b"version https://git-lfs", "git-lfs pointer", id="a git-lfs pointer"),
        pytest.param(b"<!DOCTYPE html>", "a web page", id="a web page"),
        pytest.param(LONGEST_HEADER.to_bytes(8, "little") + b"{}", "truncated", id="a cut header"),
        pytest.param(with_length(b"[]"), "does not start with '{'", id="an array"),
        pytest.param(with_length(b" {}"), "does not start with '{'", id="a blank before the header"),
        pytest.param(with_length(b'{"\xff":1}'), "not UTF-8 (byte 2)", id="bytes that are not UTF-8"),
        pytest.param(with_length(b'{"w":'), "is not JSON", id="half of a header"),
        pytest.param(with_length(b"{}\n"), "padded with", id="padding with a line break"),
        pytest.param(with_length(b"{}\0\0"), "is not JSON", id="padding with zeros"),
        pytest.param(with_length(b"{} {}"), "is not JSON", id="two headers"),
        pytest.param(with_length(b'{"w":NaN}'), "holds NaN", id="not a number"),
        pytest.param(with_length(b'{"w":' + b"[" * 99999), "nested too deeply", id="deep nesting"),
        pytest.param(
            with_length(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":' + b"{}}", EIGHT),
            "'w' appears more than once",
            id="a repeated name",
        ),
        pytest.param(
            with_length(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"shape":[2]}}', EIGHT),
            "repeats the field 'shape'",
            id="a repeated field",
        ),
        pytest.param(
            with_length(b'{"__metadata__":{"a":"1","a":"2"}}'),
            "__metadata__ repeats the key 'a'",
            id="repeated metadata",
        ),
        pytest.param(
            with_length(b'{"__metadata__":{},"__metadata__":{}}'),
            "'__metadata__' appears more than once",
            id="two metadata",
        ),
        pytest.param(file_of({"__metadata__": None}), "not an object of strings", id="no metadata"),
        pytest.param(file_of({"__metadata__": {"a": 1}}), "has 1 for 'a'", id="a number as metadata"),
        pytest.param(
            file_of({"__metadata__": ENTRY}, EIGHT), "keeps for metadata", id="a tensor as metadata"
        ),
        pytest.param(
            with_length(b'{"__metadata__":{"\\ud800":"a"}}'), "not valid text", id="half a character"
        ),
        pytest.param(
            file_of({"w": ["F32", [2], [0, 8]]}, EIGHT), "not an object with", id="an entry in order"
        ),
        pytest.param(
            file_of({"w": {"dtype": "F32", "shape": [2]}}, EIGHT), "no data_offsets", id="no offsets"
        ),
        pytest.param(
            file_of({"w": entry(strides=[1])}, EIGHT), "unknown field 'strides'", id="another field"
        ),
        pytest.param(file_of({"w": entry(dtype="F31")}, EIGHT), "unknown dtype 'F31'", id="an unknown dtype"),
        pytest.param(file_of({"w": entry(dtype=[])}, EIGHT), "unknown dtype []", id="a list as dtype"),
        pytest.param(file_of({"w": entry(shape=[2.0])}, EIGHT), "not a list of non-", id="a float as length"),
        pytest.param(
            file_of({"w": entry(shape=[True, 2])}, EIGHT), "not a list of non-", id="true as length"
        ),
        pytest.param(file_of({"w": entry(shape=[-2])}, EIGHT), "not a list of non-", id="a negative length"),
        pytest.param(
            with_length(b'{"w":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}'),
            "not a list of non-",
            id="minus nought as length",
        ),
        pytest.param(
            file_of({"w": entry(shape=[2**64, 0], data_offsets=[0, 0])}), "not a list of non-", id="2**64"
        ),
        pytest.param(
            file_of({"w": entry(shape=[2**32, 2**32, 0], data_offsets=[0, 0])}),
            "too large for 64-bit",
            id="sizes that overflow before a nought",
        ),
        pytest.param(
            file_of({"w": entry(shape=[3])}, EIGHT), "takes 12 bytes", id="too little data for a shape"
        ),
        pytest.param(
            file_of({"w": entry(dtype="F4", shape=[3], data_offsets=[0, 1])}, b"a"),
            "12 bits are not a whole number of bytes",
            id="half a byte",
        ),
        pytest.param(
            file_of({"w": entry(data_offsets=[8, 0])}, EIGHT), "end before they start", id="reversed"
        ),
        pytest.param(file_of({"w": entry(data_offsets=[0])}, EIGHT), "not two non-negative", id="one offset"),
        pytest.param(file_of({"w": entry()}, EIGHT[:7]), "1 bytes shorter", id="cut data"),
        pytest.param(file_of({"w": entry()}, EIGHT + b"!"), "1 bytes longer", id="data behind the tensors"),
        pytest.param(
            file_of({**TWO, "b": entry(data_offsets=[4, 12])}, bytes(12)), "overlap", id="an overlap"
        ),
        pytest.param(file_of({**TWO, "b": entry(data_offsets=[9, 17])}, bytes(17)), "no tensor", id="a hole"),
        pytest.param(
            file_of({"a": entry(), "b": entry(shape=[0], data_offsets=[4, 4])}, EIGHT),
            "overlap",
            id="an empty tensor inside another",
        ),
        pytest.param(with_length(b'{"\\ud800":{}}'), "not valid Unicode", id="a name of half a character"),
    ],
)
def test_what_the_format_forbids_is_refused_and_named(raw: bytes, problem: str) -> None:
    assert any(problem in found for found in problems_of(raw))


def test_every_problem_of_a_file_is_listed() -> None:
    raw = file_of(
        {"a": entry(dtype="F31"), "b": entry(shape=[3]), "__metadata__": {"key": 5}, "c": 7}, bytes(8)
    )
    found = "\n".join(problems_of(raw))
    for part in ("'a' has the unknown dtype", "'b' is F32 of shape [3]", "has 5 for 'key'", "'c' is 7"):
        assert part in found


def test_only_part_of_a_header_is_refused() -> None:
    raw = file_of({"w": ENTRY}, EIGHT)
    with pytest.raises(InvalidSafetensors, match="only 20 of the"):
        parse_header(raw[:20], file_size=len(raw), source="example")


def test_a_header_of_a_million_digits_is_refused_in_no_time() -> None:
    raw = with_length(b'{"w":{"dtype":"F32","shape":[' + b"9" * 10**6 + b'],"data_offsets":[0,8]}}', EIGHT)
    (problem,) = problems_of(raw)
    assert len(problem) < 200


def test_names_from_the_file_are_shown_escaped_and_short() -> None:
    (problem,) = problems_of(file_of({"\x1b[31m" + "x" * 10_000: 1}))
    assert "\x1b" not in problem
    assert len(problem) < 300


def test_dropped_names_in_the_metadata_are_aliases() -> None:
    metadata = {"head.weight": "w", "format": "w", "w": "v", "note": "no tensor's name"}
    raw = file_of({"w": ENTRY, "v": entry(data_offsets=[8, 16]), "__metadata__": metadata}, EIGHT * 2)
    assert parse(raw).aliases == {"head.weight": "w"}


def test_a_header_can_be_pickled_copied_and_not_changed() -> None:
    header = parse(file_of({"w": ENTRY, "__metadata__": {"format": "pt"}}, EIGHT))
    assert pickle.loads(pickle.dumps(header)) == header
    assert copy.deepcopy(header) == header
    assert repr(FrozenMapping({"a": 1})) == "{'a': 1}"
    with pytest.raises(TypeError):
        header.tensors["w"] = header.tensors["w"]  # type: ignore[index]


def test_reading_headers_and_shards_imports_no_torch() -> None:
    code = (
        "import sys, cosemzoo.checkpoints.header, cosemzoo.checkpoints.shards\n"
        "print(sorted({'torch', 'numpy', 'safetensors', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
