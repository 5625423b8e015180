"""Which files of a checkpoint are its weights, and how their headers become one table."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from cosemzoo.checkpoints.header import Header
from cosemzoo.checkpoints.shards import SUFFIX, ShardIndex, WeightsTable, merge_headers, parse_shard_index

#: The weights in one file, and the index of weights in several; the first is read where there are both.
SINGLE_FILE: Final = "model.safetensors"
SHARD_INDEX: Final = "model.safetensors.index.json"
#: What the network computes, beside the weights: not weights itself.
GOLDEN_FILE: Final = "golden.safetensors"

ReadText = Callable[[str], bytes]
ReadHeader = Callable[[str], Header]


def find_shards(names: Collection[str], read_text: ReadText, source: str) -> ShardIndex | None:
    """Give the index of the shards among the files `names`, or None where the weights are not sharded.

    Raises
    ------
    InvalidSafetensors
        If the index is malformed.
    """
    if SINGLE_FILE in names or SHARD_INDEX not in names:
        return None
    return parse_shard_index(read_text(SHARD_INDEX), f"{source}/{SHARD_INDEX}")


def other_weights(names: Iterable[str]) -> list[str]:
    """Give those of the files `names` that hold weights under a name that is not looked for."""
    return sorted(filter(holds_weights, names))


def holds_weights(name: str) -> bool:
    """Whether a file of this name holds weights."""
    return name.endswith(SUFFIX) and name != GOLDEN_FILE


def read_table(
    names: Collection[str], shards: ShardIndex | None, read_header: ReadHeader, source: str
) -> WeightsTable:
    """Give the table of all tensors.

    Parameters
    ----------
    names : collection of str
        The files that there are.
    shards : ShardIndex or None
        As `find_shards` gave it.
    read_header : callable
        Gives the header of a file by its name.
    source : str
        What the checkpoint is called in an error.

    Raises
    ------
    InvalidSafetensors
        If a file breaks a rule of the format, or index and shards disagree.
    """
    if shards is None:
        return WeightsTable.single(SINGLE_FILE, read_header(SINGLE_FILE))
    headers = {name: read_header(name) for name in shards.files if name in names}
    return merge_headers(shards, headers, f"{source}/{SHARD_INDEX}")


def shapes_of(weights: WeightsTable) -> Mapping[str, tuple[int, ...]]:
    """Give the shape of every tensor, by each of its names."""
    shapes = {name: tensor.entry.shape for name, tensor in weights.tensors.items()}
    return shapes | {alias: shapes[name] for alias, name in weights.aliases.items()}
