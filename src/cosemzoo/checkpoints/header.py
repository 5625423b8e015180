"""The header of a safetensors file: names, dtypes, shapes and offsets of the tensors, without their data.

A file is eight bytes (a little-endian length N), N bytes of JSON, and the data. The rules are those of the
format's description and of its reference implementation (safetensors 0.8). This reader accepts nothing that
the reference refuses, and refuses a few headers that the reference lets through, because no writer makes them
and two readers may take them differently:

- a repeated tensor name, or a repeated key in ``__metadata__`` (the reference keeps the last);
- white space before the first ``{``, and padding other than spaces;
- fields beyond ``dtype``, ``shape`` and ``data_offsets``;
- a tensor given as an array of its three fields, a dtype given as an object, and a null ``__metadata__``.
"""

from collections.abc import Container, ItemsView, Iterator, KeysView, Mapping, ValuesView
from pathlib import Path
from typing import Final, TypeVar, cast

from attrs import field, frozen

from cosemzoo.checkpoints.entries import DTYPE_BITS, FIELDS, TensorEntry, read_entries
from cosemzoo.errors import InvalidSafetensors
from cosemzoo.garbage import garbage_kept
from cosemzoo.strict_json import NotStrictJSON, decode, is_text, show

__all__ = [
    "DTYPE_BITS",
    "FORMAT_KEY",
    "FrozenMapping",
    "Header",
    "TensorEntry",
    "find_aliases",
    "header_length",
    "parse_header",
    "read_header",
]

_V = TypeVar("_V")

#: The metadata entry that names the framework ("pt"): never an alias, even where a tensor is called "pt".
FORMAT_KEY: Final = "format"
#: Where a header keeps its metadata, among the tensors; no tensor can have this name.
METADATA_KEY: Final = "__metadata__"
#: Bytes of the length before the header.
PREFIX_BYTES: Final = 8
#: The longest header the format allows, in bytes.
LONGEST_HEADER: Final = 100_000_000

_LOOKS_LIKE = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02", "a Python pickle, perhaps a PyTorch checkpoint"),
    (b"version ", "a git-lfs pointer in place of the file"),
    (b"<", "a web page"),
)


class FrozenMapping(Mapping[str, _V]):
    """A read-only copy of a mapping that, unlike `types.MappingProxyType`, can be pickled and deep-copied."""

    __slots__ = ("_members",)

    def __init__(self, members: Mapping[str, _V]) -> None:
        self._members = dict(members)

    def __getitem__(self, key: str) -> _V:
        return self._members[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    # The views that `Mapping` gives go through Python for every member.
    def keys(self) -> KeysView[str]:
        """Give a view of the keys."""
        return self._members.keys()

    def values(self) -> ValuesView[_V]:
        """Give a view of the members."""
        return self._members.values()

    def items(self) -> ItemsView[str, _V]:
        """Give a view of both."""
        return self._members.items()

    def __repr__(self) -> str:
        return repr(self._members)


@frozen
class Header:
    """Everything a safetensors file says before its data.

    Attributes
    ----------
    tensors : mapping of str to TensorEntry
        Every tensor, in the order of its bytes in the file.
    metadata : mapping of str to str
        The file's ``__metadata__``; empty where it has none.
    data_start : int
        Bytes before the data: the length prefix and the header.
    file_size : int
        Bytes of the whole file.
    """

    tensors: Mapping[str, TensorEntry] = field(converter=FrozenMapping[TensorEntry])
    metadata: Mapping[str, str] = field(converter=FrozenMapping[str])
    data_start: int
    file_size: int

    @property
    def aliases(self) -> Mapping[str, str]:
        """Other names of the file's tensors: alias to the name the tensor is stored under.

        Tensors that share their memory are stored once. The savers of safetensors (`save_model`) and of
        huggingface_hub record each dropped name in ``__metadata__``, with the kept name as its value.
        """
        return find_aliases(self.metadata, self.tensors)


def find_aliases(metadata: Mapping[str, object], tensors: Container[str]) -> Mapping[str, str]:
    """Give the entries of `metadata` that are aliases: not a tensor's name, and mapped to a tensor's name."""
    return FrozenMapping(
        {
            alias: name
            for alias, name in metadata.items()
            if isinstance(name, str) and name in tensors and alias not in tensors and alias != FORMAT_KEY
        }
    )


def header_length(prefix: bytes, source: str) -> int:
    """Give the number of bytes before the data, from the first eight bytes of a file.

    Parameters
    ----------
    prefix : bytes
        The start of the file, eight bytes or more.
    source : str
        What the file is called in an error.

    Raises
    ------
    InvalidSafetensors
        If there are fewer than eight bytes, or they give a length the format does not allow.

    Examples
    --------
    >>> header_length(bytes([64, 0, 0, 0, 0, 0, 0, 0]), "example")
    72
    """
    if len(prefix) < PREFIX_BYTES:
        raise InvalidSafetensors(source, [f"the file is {len(prefix)} bytes long, too short for a header"])
    length = int.from_bytes(prefix[:PREFIX_BYTES], "little")
    if length > LONGEST_HEADER:
        problem = f"the header would be {length} bytes long, the format allows {LONGEST_HEADER}"
        raise InvalidSafetensors(source, [problem + _guess(prefix)])
    if length < len("{}"):
        raise InvalidSafetensors(source, [f"the header is {length} bytes long, too short for a JSON object"])
    return PREFIX_BYTES + length


def read_header(path: Path) -> Header:
    """Read the header of a file on disk, and nothing of its data.

    Raises
    ------
    InvalidSafetensors
        If the file breaks a rule of the format; its `problems` are all that were found.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        data = file.read(PREFIX_BYTES)
        data += file.read(header_length(data, str(path)) - PREFIX_BYTES)
    return parse_header(data, file_size=size, source=str(path))


@garbage_kept()
def parse_header(data: bytes, *, file_size: int, source: str) -> Header:
    """Parse the start of a file.

    Parameters
    ----------
    data : bytes
        At least the first `header_length` bytes of the file.
    file_size : int
        Bytes of the whole file.
    source : str
        What the file is called in an error.

    Raises
    ------
    InvalidSafetensors
        If the file breaks a rule of the format; its `problems` are all that were found.

    Examples
    --------
    >>> text = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    >>> data = len(text).to_bytes(8, "little") + text
    >>> header = parse_header(data, file_size=len(data) + 8, source="example")
    >>> header.tensors["w"].shape
    (2,)
    """
    data_start = header_length(data, source)
    if data_start > file_size:
        problem = f"the header should end at byte {data_start}, the file ends at byte {file_size}: truncated"
        raise InvalidSafetensors(source, [problem + _guess(data)])
    if data_start > len(data):
        raise InvalidSafetensors(source, [f"only {len(data)} of the {data_start} bytes of the header came"])
    text = data[PREFIX_BYTES:data_start].rstrip(b" ")
    if not text.startswith(b"{"):
        raise InvalidSafetensors(source, ["the header does not start with '{'" + _guess(data)])
    try:
        decoded = decode(text)
    except NotStrictJSON as error:
        raise InvalidSafetensors(source, [f"the header {error}"]) from error
    # A text that starts with "{" decodes to an object or not at all.
    members = cast("dict[str, object]", decoded.value)
    repeated = decoded.repeated_in()
    problems = [f"{show(key)} appears more than once" for key in repeated.get(id(members), [])]
    if not text.endswith(b"}"):
        problems.append(f"the header is padded with {show(text[-1:])}, not with spaces")
    metadata = members.pop(METADATA_KEY, {})
    problems.extend(_metadata_problems(metadata, repeated.get(id(metadata), [])))
    entries, entry_problems = read_entries(members, repeated, file_size - data_start)
    problems.extend(entry_problems)
    if problems:
        raise InvalidSafetensors(source, problems)
    tensors = {entry.name: entry for entry in entries}
    return Header(tensors, cast("dict[str, str]", metadata), data_start, file_size)


def _metadata_problems(metadata: object, repeated: list[str]) -> Iterator[str]:
    if not isinstance(metadata, dict):
        yield f"{METADATA_KEY} is {show(metadata)}, not an object of strings"
        return
    for key in repeated:
        yield f"{METADATA_KEY} repeats the key {show(key)}"
    wrong = [key for key, value in metadata.items() if not (is_text(key) and is_text(value))]
    if wrong and set(FIELDS) <= set(metadata):
        yield f"a tensor is named {METADATA_KEY!r}, which the format keeps for metadata"
        return
    for key in wrong:
        yield f"{METADATA_KEY} has {show(metadata[key])} for {show(key)}, not valid text"


def _guess(data: bytes) -> str:
    return next((f" (it looks like {what})" for start, what in _LOOKS_LIKE if data.startswith(start)), "")
