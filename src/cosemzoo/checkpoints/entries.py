"""The tensor entries of a safetensors header, and the rules they keep: alone, and together over the data."""

import math
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Final, NamedTuple, TypeGuard

from cosemzoo.strict_json import is_text, show

#: Bits per element of every dtype of the format, in the order of the reference implementation, whose writer
#: sorts tensors by it, last dtype first.
DTYPE_BITS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)

#: The fields of a tensor entry, all of them needed.
FIELDS: Final = ("dtype", "shape", "data_offsets")
_FIELDS = frozenset(FIELDS)

_LARGEST_64_BIT = 2**64 - 1


class TensorEntry(NamedTuple):
    """Where one tensor lies in its file, and what it is; a tuple, as there can be 100,000 of them.

    Attributes
    ----------
    name : str
        Its name, as in the state dict.
    dtype : str
        The format's name of the element type, a key of `DTYPE_BITS`.
    shape : tuple of int
        Elements along each axis; empty for a scalar.
    start, end : int
        Its bytes, counted from the start of the data (`Header.data_start`).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return self.end - self.start

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_entries(
    members: Mapping[str, object], repeated: Mapping[int, list[str]], data_size: int
) -> tuple[list[TensorEntry], list[str]]:
    """Read the tensors of a decoded header.

    Parameters
    ----------
    members : mapping of str to object
        The header's members without ``__metadata__``.
    repeated : mapping of int to list of str
        The keys that an object repeats, by the `id` of the object.
    data_size : int
        Bytes of data in the file.

    Returns
    -------
    list of TensorEntry
        In the order of their bytes; only meaningful where there are no problems.
    list of str
        Every problem found.
    """
    entries: list[TensorEntry] = []
    spans: list[tuple[int, int, str]] = []
    problems: list[str] = []
    for name, value in members.items():
        # There can be 100,000 of them, and nearly none is wrong: why one is, is looked for only then.
        entry = None if id(value) in repeated else _entry(name, value)
        if entry is not None:
            entries.append(entry)
            spans.append((entry.start, entry.end, name))
            continue
        problems.extend(f"tensor {show(name)} {problem}" for problem in _problems(name, value, repeated))
        offsets = value.get("data_offsets") if isinstance(value, dict) else None
        if _is_span(offsets):
            spans.append((offsets[0], offsets[1], name))
    spans.sort()
    problems.extend(_coverage_problems(spans, data_size, complete=len(spans) == len(members)))
    entries.sort(key=attrgetter("start", "end", "name"))
    return entries, problems


def _entry(name: str, value: object) -> TensorEntry | None:
    """Give the entry that keeps every rule; None where one is broken."""
    if not isinstance(value, dict) or value.keys() != _FIELDS or not is_text(name):
        return None
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not (isinstance(dtype, str) and dtype in DTYPE_BITS and _are_sizes(shape) and _is_span(offsets)):
        return None
    start, end = offsets
    bits = _bits(dtype, shape)
    if bits > _LARGEST_64_BIT or bits != 8 * (end - start):
        return None
    return TensorEntry(name, dtype, tuple(shape), start, end)


def _problems(name: str, value: object, repeated: Mapping[int, list[str]]) -> Iterator[str]:
    """Say every rule that an entry breaks."""
    if isinstance(value, dict):
        wrong = [*_key_problems(value, repeated.get(id(value), [])), *_value_problems(value)]
        if not wrong:
            wrong.extend(_size_problems(*(value[key] for key in FIELDS)))
        yield from wrong
    else:
        yield f"is {show(value)}, not an object with dtype, shape and data_offsets"
    if not is_text(name):
        yield "has a name that is not valid Unicode"


def _key_problems(fields: Mapping[str, object], repeated: Iterable[str]) -> Iterator[str]:
    for key in repeated:
        yield f"repeats the field {show(key)}"
    for key in FIELDS:
        if key not in fields:
            yield f"has no {key}"
    for key in fields:
        if key not in FIELDS:
            yield f"has the unknown field {show(key)}"


def _value_problems(fields: Mapping[str, object]) -> Iterator[str]:
    if "dtype" in fields:
        dtype = fields["dtype"]
        if not (isinstance(dtype, str) and dtype in DTYPE_BITS):
            yield f"has the unknown dtype {show(dtype)}"
    if "shape" in fields and not _are_sizes(fields["shape"]):
        yield f"has the shape {show(fields['shape'])}, not a list of non-negative 64-bit integers"
    if "data_offsets" in fields:
        offsets = fields["data_offsets"]
        if not (_are_sizes(offsets) and len(offsets) == 2):
            yield f"has the data_offsets {show(offsets)}, not two non-negative 64-bit integers"
        elif not _is_span(offsets):
            yield f"has the data_offsets {show(offsets)}, which end before they start"


def _size_problems(dtype: str, shape: list[int], offsets: list[int]) -> Iterator[str]:
    bits, held = _bits(dtype, shape), offsets[1] - offsets[0]
    if bits > _LARGEST_64_BIT:
        yield f"has the shape {show(shape)}, too large for 64-bit sizes"
    elif bits % 8:
        yield f"is {dtype} of shape {show(shape)}: {bits} bits are not a whole number of bytes"
    elif bits != 8 * held:
        yield (
            f"is {dtype} of shape {show(shape)}, which takes {bits // 8} bytes, "
            f"but its data_offsets {show(offsets)} hold {held}"
        )


def _bits(dtype: str, shape: list[int]) -> int:
    """Give the bits that a tensor takes; more than 64-bit sizes hold where a reader with such overflows."""
    elements = 1
    for length in shape:
        elements *= length
        # Step by step, as such a reader multiplies: it overflows before a later zero saves it.
        if elements > _LARGEST_64_BIT:
            break
    return elements * DTYPE_BITS[dtype]


def _coverage_problems(
    spans: Iterable[tuple[int, int, str]], data_size: int, *, complete: bool
) -> Iterator[str]:
    covered, last = 0, ""
    for start, end, name in spans:
        if start < covered:
            yield f"tensor {show(name)} starts at byte {start}, inside tensor {show(last)}: they overlap"
        # Where a tensor's place is unknown, a hole may be that tensor's.
        elif start > covered and complete:
            yield f"bytes {covered} to {start}, before tensor {show(name)}, belong to no tensor"
        if end > covered:
            covered, last = end, name
    if covered > data_size:
        yield f"the file is {covered - data_size} bytes shorter than its header says: truncated"
    elif covered < data_size and complete:
        yield f"the file is {data_size - covered} bytes longer than its header says"


def _is_span(value: object) -> TypeGuard[list[int]]:
    return _are_sizes(value) and len(value) == 2 and value[0] <= value[1]


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    if not isinstance(value, list):
        return False
    for size in value:  # noqa: SIM110 - of 100,000 tensors, and a generator takes twice as long
        # `type`, not `isinstance`: JSON's true is no size, though Python's is an int.
        if type(size) is not int or not 0 <= size <= _LARGEST_64_BIT:
            return False
    return True
