"""Checkpoints as trainings leave them: which of a file's contents are the weights, whatever wrote it."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from attrs import field, frozen

from cosemzoo.checkpoints.header import PREFIX_BYTES, FrozenMapping, read_header
from cosemzoo.checkpoints.mapped import MappedWeights, state_dict_of
from cosemzoo.checkpoints.pickles import (
    PICKLE_START,
    SAVE_AGAIN,
    ZIP_START,
    StandInWeights,
    read_pickle,
    refuse_bare_pickle,
)
from cosemzoo.checkpoints.shards import SUFFIX, WeightsTable, merge_headers, parse_shard_index
from cosemzoo.errors import UnreadableCheckpoint
from cosemzoo.strict_json import show

_SINGLE: Final = f"model{SUFFIX}"
_INDEX_SUFFIX: Final = f"{SUFFIX}.index.json"
_START_BYTES: Final = 64 * 1024
#: Where trainings keep the state dict among other things, and what such a checkpoint is called.
_PLACES: Final[Mapping[str, str]] = {
    "model": "COSEM or DaCapo checkpoint",
    "state_dict": "checkpoint with a state_dict",
    "model_state_dict": "checkpoint with a model_state_dict",
}
_LIGHTNING: Final = ("pytorch-lightning_version", "global_step")
#: What modules keep beside their weights (`torch.nn.Module.get_extra_state`): anything at all.
_EXTRA_STATE: Final = "_extra_state"
_FOREIGN: Final = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", SAVE_AGAIN),
    (b"\x93NUMPY", "a NumPy array (.npy)", SAVE_AGAIN),
    (b"version https://git-lfs", "a git-lfs pointer in place of the file", "Run: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "Unpack it first."),
    (b"<", "a web page or an XML document", "Download the file itself."),
)


@frozen
class TrainingCheckpoint:
    """The weights of a training's checkpoint, and what else it held.

    Attributes
    ----------
    path : Path
        As it was given.
    kind : str
        What it is, in words.
    tensors : mapping of str to torch.Tensor
        The state dict in its order, mapped from the file where the format allows it; names of one tensor
        share their memory.
    dropped : tuple of str
        What is not weights and is left out, one line each.
    iteration : int or None
        How many steps the training had made, where the checkpoint says so (Lightning's ``global_step``).
    files : tuple of Path
        The files that hold the weights: one, or all shards.
    """

    path: Path
    kind: str
    tensors: Mapping[str, torch.Tensor] = field(converter=FrozenMapping[torch.Tensor])
    dropped: tuple[str, ...]
    iteration: int | None
    files: tuple[Path, ...]


def read_training_checkpoint(path: str | os.PathLike[str]) -> TrainingCheckpoint:
    """Find the weights in a checkpoint; none of its code is run, and no values are read yet.

    Parameters
    ----------
    path : str or os.PathLike
        A file of torch.save (a COSEM or DaCapo checkpoint, a DaCapo ``Weights`` object, a Lightning
        checkpoint, a state dict), a safetensors file, or the folder or index of sharded safetensors.

    Raises
    ------
    UnsafePickle
        If it is a pickle that asks for more than tensors and plain values.
    UnreadableCheckpoint
        If it is something else, is damaged, or if it is not certain which of its contents are the weights.
    InvalidSafetensors
        If it is a safetensors file, or shards of one, that break a rule of the format.
    OSError
        If it cannot be read.

    Notes
    -----
    Files of before torch 1.6 cannot be mapped: they are read into memory whole.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UnreadableCheckpoint(str(path), "there is no such file", "Check the path.")
    if path.name.endswith(_INDEX_SUFFIX):
        return _read_shards(path, path)
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if path.suffix == SUFFIX or start[PREFIX_BYTES : PREFIX_BYTES + 2] == b'{"':
        return _read_safetensors(path, path)
    if start.startswith((ZIP_START, PICKLE_START)):
        return _find_weights(path, read_pickle(path))
    refuse_bare_pickle(start, str(path))
    what, step = _guess(start)
    raise UnreadableCheckpoint(str(path), f"it is {what}", step)


def _guess(start: bytes) -> tuple[str, str]:
    if not start.strip(b"\0"):
        return "empty", "Copy it again."
    for signature, what, step in _FOREIGN:
        if start.startswith(signature):
            return what, step
    if start[257:262] == b"ustar":
        return "a tar archive", f"Unpack it; if torch before 0.2 wrote it: {SAVE_AGAIN}"
    if b"\0" not in start:
        return "a text file, or something else that torch.save did not write", SAVE_AGAIN
    return "neither a file of torch.save nor a safetensors file", SAVE_AGAIN


# --- safetensors -------------------------------------------------------------------------------------------


def _read_folder(folder: Path) -> TrainingCheckpoint:
    names = sorted(path.name for path in folder.iterdir())
    indices = [name for name in names if name.endswith(_INDEX_SUFFIX)]
    single = [name for name in names if name.endswith(SUFFIX)]
    # As a folder of the zoo is read: the one file, where there are both.
    if _SINGLE in single:
        return _read_safetensors(folder, folder / _SINGLE)
    if len(indices) == 1:
        return _read_shards(folder, folder / indices[0])
    if not indices and len(single) == 1:
        return _read_safetensors(folder, folder / single[0])
    problem = f"the folder holds {len(indices)} indices of shards and {len(single)} safetensors files"
    has = f" ({', '.join(names[:10])}{', …' if len(names) > 10 else ''})" if names else " (it is empty)"
    raise UnreadableCheckpoint(str(folder), problem + has, "Give the checkpoint's file itself.")


def _read_safetensors(path: Path, file: Path) -> TrainingCheckpoint:
    table = WeightsTable.single(file.name, read_header(file))
    return _safetensors(path, "safetensors", table, file.parent)


def _read_shards(path: Path, index_path: Path) -> TrainingCheckpoint:
    folder = index_path.parent
    index = parse_shard_index(index_path.read_bytes(), str(index_path))
    there = [file for file in index.files if (folder / file).is_file()]
    headers = {file: read_header(folder / file) for file in there}
    return _safetensors(path, "sharded safetensors", merge_headers(index, headers, str(index_path)), folder)


def _safetensors(path: Path, kind: str, table: WeightsTable, folder: Path) -> TrainingCheckpoint:
    paths = {file: folder / file for file in table.files}
    tensors = state_dict_of(table, MappedWeights(table, paths))
    if not tensors:
        raise UnreadableCheckpoint(str(path), "it holds no tensors", SAVE_AGAIN)
    return TrainingCheckpoint(path, kind, tensors, (), None, tuple(paths.values()))


# --- pickles -----------------------------------------------------------------------------------------------


def _find_weights(path: Path, value: object) -> TrainingCheckpoint:
    if isinstance(value, StandInWeights):
        members = _members(getattr(value, "state", None))
        inner = members.pop("model", None)
        kind = "DaCapo Weights object"
        if not isinstance(inner, dict):
            problem = f"it is a DaCapo Weights object whose model is {_describe(inner)}"
            raise UnreadableCheckpoint(str(path), problem, SAVE_AGAIN)
    else:
        members = _members(value)
        found = _place(path, value, members)
        if found is None:
            return _checkpoint(path, "plain state dict", members, ())
        inner = members.pop(found)
        lightning = found == "state_dict" and any(key in members for key in _LIGHTNING)
        kind = "Lightning checkpoint" if lightning else _PLACES[found]
    dropped = tuple(f"{_text(key)}: {_describe(other)}" for key, other in members.items())
    steps = members.get("global_step") if kind == "Lightning checkpoint" else None
    return _checkpoint(path, kind, _members(inner), dropped, steps if type(steps) is int else None)


def _place(path: Path, value: object, members: Mapping[object, object]) -> str | None:
    """Give the key under which a checkpoint keeps its state dict; None where it is one itself."""
    if not isinstance(value, dict):
        problem = f"it holds {_describe(value)}, not a dict"
        raise UnreadableCheckpoint(str(path), problem, SAVE_AGAIN)
    direct = any(isinstance(member, torch.Tensor) for member in members.values())
    inner = {key: _members(member).keys() for key, member in members.items() if _is_state_dict(member)}
    known = [key for key in _PLACES if key in inner]
    # A second one with the same names (say, of averaged weights) is as good a candidate.
    others = [key for key in inner if key not in known and any(inner[key] == inner[name] for name in known)]
    if direct and not known:
        return None
    if not direct and len(known) == 1 and not others:
        return known[0]
    holds = "; ".join(f"{_text(key)}: {_describe(member)}" for key, member in list(members.items())[:20])
    more = f"; and {len(members) - 20} more" if len(members) > 20 else ""
    found = "it is not certain which of these are the weights" if known else "it holds no state dict"
    raise UnreadableCheckpoint(str(path), f"{found}: it holds {holds or 'nothing'}{more}", SAVE_AGAIN)


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and any(
        isinstance(member, torch.Tensor) for member in _members(value).values()
    )


def _checkpoint(
    path: Path,
    kind: str,
    state: Mapping[object, object],
    dropped: tuple[str, ...],
    iteration: int | None = None,
) -> TrainingCheckpoint:
    tensors: dict[str, torch.Tensor] = {}
    others, problems = [], []
    for name, value in state.items():
        if isinstance(value, torch.Tensor) and isinstance(name, str):
            # Parameters become tensors, and attributes that a pickle gave to one are gone.
            tensors[name] = torch.Tensor.detach(value)
        elif isinstance(value, torch.Tensor):
            problems.append(f"{_text(name)} is no name, but {_describe(name)}")
        elif not _text(name).endswith(_EXTRA_STATE) and (
            isinstance(value, dict) or any(True for _ in _tensors_in(value))
        ):
            problems.append(f"{_text(name)} is {_describe(value)}")
        else:
            others.append(f"{_text(name)}: {_describe(value)}, no tensor")
    if problems:
        problem = f"its state dict holds more than tensors: {'; '.join(problems)}"
        raise UnreadableCheckpoint(str(path), problem, SAVE_AGAIN)
    if not tensors:
        raise UnreadableCheckpoint(str(path), "its state dict holds no tensors", SAVE_AGAIN)
    return TrainingCheckpoint(path, kind, tensors, (*dropped, *others), iteration, (path,))


def _members(value: object) -> dict[object, object]:
    # The methods of dict itself: a pickle can put other attributes of these names on an OrderedDict.
    return dict(dict.items(value)) if isinstance(value, dict) else {}


def _text(key: object) -> str:
    return key if isinstance(key, str) else show(key)


def _describe(value: object) -> str:
    """Say what a value is, without its values where it is a container."""
    tensors = list(_tensors_in(value))
    if tensors:
        count = "1 tensor" if len(tensors) == 1 else f"{len(tensors):,} tensors"
        return f"{count}, {sum(tensor.nbytes for tensor in tensors):,} bytes"
    if value is None or isinstance(value, bool | int | float | str):
        return show(value)
    if isinstance(value, dict | list | tuple | set):
        return f"{type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"


def _tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Give every tensor in nested containers once; a pickle can nest them deeply, and in themselves."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, StandInWeights):
            waiting.append(getattr(item, "state", None))
        elif isinstance(item, dict):
            waiting.extend(_members(item).values())
        elif isinstance(item, list | tuple | set):
            waiting.extend(item)
