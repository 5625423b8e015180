import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.strict_json import NotStrictJSON, decode, is_text

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(values.filter(lambda value: "Infinity" not in json.dumps(value)))
def test_what_json_writes_is_decoded_unchanged(value: object) -> None:
    decoded = decode(json.dumps(value).encode())
    assert decoded.value == value
    assert decoded.repeated == ()


@given(st.binary(max_size=50))
def test_random_bytes_are_decoded_or_refused(text: bytes) -> None:
    with contextlib.suppress(NotStrictJSON):
        decode(text)


def test_repeated_keys_are_found_in_the_object_that_repeats_them() -> None:
    decoded = decode(b'{"a": {"b": 1, "b": 2, "c": 3}, "d": {"b": 1}, "a\\u0000": 1}')
    assert isinstance(decoded.value, dict)
    assert decoded.repeated_in() == {id(decoded.value["a"]): ["b"]}
    assert decoded.value["a"] == {"b": 2, "c": 3}


def test_keys_that_differ_only_in_spelling_are_one_key() -> None:
    assert [key for _, key in decode(b'{"a": 1, "\\u0061": 2}').repeated] == ["a"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "is not JSON (Expecting value"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1,}', "is not JSON"),
        (b"[1] [2]", "is not JSON (Extra data"),
        (b'"\x01"', "is not JSON (Invalid control character"),
        (b"[NaN]", "holds NaN"),
        (b"[-Infinity]", "holds -Infinity"),
        (b'"\xed\xa0\x80"', "is not UTF-8 (byte 1)"),
        (b"[" * 200_000, "is nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused_with_the_reason(text: bytes, why: str) -> None:
    with pytest.raises(NotStrictJSON) as caught:
        decode(text)
    assert why in str(caught.value)


@pytest.mark.parametrize("text", [b"-0", b"9" * 21, b"-" + b"9" * 100_000])
def test_what_other_readers_take_for_no_integer_is_none_here(text: bytes) -> None:
    assert type(decode(text).value) is float


@pytest.mark.parametrize("number", [0, 1, -1, 2**64 - 1, -(2**63)])
def test_integers_of_64_bits_are_exact(number: int) -> None:
    decoded = decode(str(number).encode()).value
    assert (type(decoded), decoded) == (int, number)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", True), ("er_mem", True), ("µm 🧫 \x00", True), ("\ud800", False), ("a\udc80", False), (1, False)],
)
def test_text_is_what_utf8_can_hold(value: object, *, expected: bool) -> None:
    assert is_text(value) is expected
