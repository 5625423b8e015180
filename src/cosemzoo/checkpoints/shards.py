"""The weights of one checkpoint as one table, whether they lie in one file or in several shards."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple, Self, cast

from attrs import field, frozen

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.header import METADATA_KEY, FrozenMapping, Header, find_aliases
from cosemzoo.errors import InvalidSafetensors
from cosemzoo.strict_json import NotStrictJSON, decode, is_text, show

SUFFIX: Final = ".safetensors"
_LONGEST_FILE_NAME: Final = 255


@frozen
class ShardIndex:
    """What `model.safetensors.index.json` says.

    Attributes
    ----------
    weight_map : mapping of str to str
        Tensor name to the name of the file that holds it.
    metadata : mapping of str to object
        The index's own metadata: sizes, and aliases as in `Header.aliases`; empty where it has none.
    """

    weight_map: Mapping[str, str] = field(converter=FrozenMapping[str])
    metadata: Mapping[str, object] = field(converter=FrozenMapping[object])

    @property
    def files(self) -> tuple[str, ...]:
        """The names of the shards, sorted."""
        return tuple(sorted(set(self.weight_map.values())))


class StoredTensor(NamedTuple):
    """One tensor, and the file it lies in.

    Attributes
    ----------
    file : str
        Name of the file, within the checkpoint.
    entry : TensorEntry
    """

    file: str
    entry: TensorEntry


@frozen
class WeightsTable:
    """Every tensor of a checkpoint, once.

    Attributes
    ----------
    tensors : mapping of str to StoredTensor
        In reading order: file by file, each in the order of its bytes.
    aliases : mapping of str to str
        Other names of the same tensors: alias to the name it is stored under.
    files : tuple of str
        Names of the files, sorted.
    """

    tensors: Mapping[str, StoredTensor] = field(converter=FrozenMapping[StoredTensor])
    aliases: Mapping[str, str] = field(converter=FrozenMapping[str])
    files: tuple[str, ...]

    @classmethod
    def single(cls, file: str, header: Header) -> Self:
        """Give the table of a checkpoint that is one file."""
        tensors = {name: StoredTensor(file, entry) for name, entry in header.tensors.items()}
        return cls(tensors, header.aliases, (file,))

    @property
    def parameters(self) -> int:
        """Number of elements, aliases counted once."""
        return sum(tensor.entry.parameters for tensor in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of data, without headers."""
        return sum(tensor.entry.nbytes for tensor in self.tensors.values())


def parse_shard_index(text: bytes, source: str) -> ShardIndex:
    """Parse `model.safetensors.index.json`.

    Parameters
    ----------
    text : bytes
        The whole file.
    source : str
        What the file is called in an error.

    Raises
    ------
    InvalidSafetensors
        If it is not JSON, repeats a key, lacks a ``weight_map``, or names a file that is not a plain name
        ending in ``.safetensors``; its `problems` are all that were found.

    Examples
    --------
    >>> parse_shard_index(b'{"weight_map": {"w": "model-00001-of-00001.safetensors"}}', "example").files
    ('model-00001-of-00001.safetensors',)
    """
    try:
        decoded = decode(text)
    except NotStrictJSON as error:
        raise InvalidSafetensors(source, [f"the index {error}"]) from error
    if not isinstance(decoded.value, dict):
        raise InvalidSafetensors(source, [f"the index is {show(decoded.value)}, not an object"])
    problems = [f"the key {show(key)} appears more than once" for _, key in decoded.repeated]
    weight_map = decoded.value.get("weight_map")
    problems.extend(_weight_map_problems(weight_map))
    metadata = decoded.value.get("metadata", {})
    if not isinstance(metadata, dict):
        problems.append(f"metadata is {show(metadata)}, not an object")
    if problems:
        raise InvalidSafetensors(source, problems)
    return ShardIndex(cast("dict[str, str]", weight_map), metadata)


def merge_headers(index: ShardIndex, headers: Mapping[str, Header], source: str) -> WeightsTable:
    """Join the headers of all shards into one table.

    Parameters
    ----------
    index : ShardIndex
    headers : mapping of str to Header
        File name to header, for every shard.
    source : str
        What the index is called in an error.

    Raises
    ------
    InvalidSafetensors
        If a shard is missing, or index and shards disagree about where a tensor is, or about an alias; its
        `problems` are all that were found.
    """
    holders: dict[str, list[str]] = {}
    for file in sorted(headers):
        for name in headers[file].tensors:
            holders.setdefault(name, []).append(file)
    problems = [f"the shard {show(file)} is missing" for file in index.files if file not in headers]
    problems.extend(_place_problems(index, headers, holders))
    if problems:
        raise InvalidSafetensors(source, problems)
    tensors = {name: StoredTensor(file, headers[file].tensors[name]) for name, (file,) in holders.items()}
    metadata: list[Mapping[str, object]] = [index.metadata]
    metadata.extend(headers[file].metadata for file in index.files)
    aliases: dict[str, str] = {}
    for part in metadata:
        for alias, name in find_aliases(part, tensors).items():
            if aliases.setdefault(alias, name) != name:
                problems.append(f"{show(alias)} is an alias of both {show(aliases[alias])} and {show(name)}")
    if problems:
        raise InvalidSafetensors(source, problems)
    return WeightsTable(tensors, aliases, index.files)


def _weight_map_problems(weight_map: object) -> Iterator[str]:
    if not isinstance(weight_map, dict) or not weight_map:
        yield f"weight_map is {show(weight_map)}, not an object of file names by tensor name"
        return
    for name, file in weight_map.items():
        if not is_text(name) or name == METADATA_KEY:
            yield f"weight_map has {show(name)}, which cannot be a tensor's name"
        if not _is_plain_file_name(file):
            yield f"weight_map has {show(file)} for {show(name)}, not a plain file name ending in {SUFFIX}"


def _is_plain_file_name(file: object) -> bool:
    return (
        is_text(file)
        and file.endswith(SUFFIX)
        # A name with a drive, a folder or a leading dot could reach or hide beside what was downloaded.
        and not file.startswith(".")
        and not any(character in '/\\:*?"<>|' or not character.isprintable() for character in file)
        and len(file.encode()) <= _LONGEST_FILE_NAME
    )


def _place_problems(
    index: ShardIndex, headers: Mapping[str, Header], holders: Mapping[str, list[str]]
) -> Iterator[str]:
    for name in sorted(index.weight_map.keys() | holders.keys()):
        listed, found = index.weight_map.get(name), holders.get(name, [])
        if len(found) > 1:
            yield f"tensor {show(name)} is in more than one shard: {', '.join(map(show, found))}"
        elif not found:
            if listed in headers:
                yield f"tensor {show(name)} is not in {show(listed)}, where the index says it is"
        elif listed is None:
            yield f"tensor {show(name)} is in {show(found[0])}, but not in the index"
        elif found != [listed]:
            yield f"tensor {show(name)} is in {show(found[0])}, the index says in {show(listed)}"
