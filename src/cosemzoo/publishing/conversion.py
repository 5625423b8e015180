"""From a training's checkpoint to the weights file of the zoo: each tensor once, under its canonical name.

Everything that can be refused is refused before the target is touched.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import torch
from attrs import field, fields_dict, frozen

from cosemzoo.checkpoints.header import FrozenMapping
from cosemzoo.checkpoints.shards import SUFFIX
from cosemzoo.checkpoints.training import TrainingCheckpoint, read_training_checkpoint
from cosemzoo.checkpoints.writer import check_storable, write_safetensors, written_dtype
from cosemzoo.errors import (
    DiskFull,
    InvalidOption,
    NonFiniteValues,
    UnreadableCheckpoint,
    UnsafeConversion,
)
from cosemzoo.loading.layouts import AS_IS
from cosemzoo.publishing.inspection import inspect_values
from cosemzoo.publishing.naming import Naming
from cosemzoo.zoo.digests import FileState, hash_file
from cosemzoo.zoo.failures import NO_ROOM, free_bytes

#: What weights can be converted to, by name.
DTYPES: Final[Mapping[str, torch.dtype]] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}

#: Room for the header of the file, in bytes, beside that for its tensors.
_HEADER_ROOM: Final = 1024 * 1024


@frozen(kw_only=True)
class Conversion:
    """What a conversion found, and what it wrote.

    Attributes
    ----------
    source : str
        The checkpoint, as it was given.
    source_sha256 : str
        SHA-256 of its file; of shards, that of the lines ``<SHA-256>  <name>``, sorted by name.
    kind : str
        What it is, in words.
    iteration : int or None
        How many steps the training had made, where the checkpoint says so.
    dropped : tuple of str
        What is not weights and was left out, one line each.
    names : int
        How many names of tensors the checkpoint has.
    prefix : str
        What wrappers had put before every name, and was removed.
    layout : str or None
        The naming scheme that was recognised; None for an unknown network, which keeps its names.
    tensors : mapping of str to tuple of int
        Shapes of the tensors that were written, by their canonical names.
    aliases : mapping of str to str
        Other names of these tensors, to the canonical ones.
    parameters : int
        Number of elements.
    bytes : int
        Size of the file.
    sha256 : str
        Of the file, hexadecimal.
    dtype : str or None
        What floating-point tensors were converted to; None where each kept its own.
    largest_relative_error : float or None
        Where values were converted, the largest difference from a value, by that value; of all that are
        finite and not 0.
    largest_error_tensor : str or None
        The tensor that it occurs in.
    nonfinite : tuple of (str, int, int)
        (tensor, how many NaN, how many infinities), for those that have any.
    """

    source: str
    source_sha256: str
    kind: str
    iteration: int | None
    dropped: tuple[str, ...]
    names: int
    prefix: str
    layout: str | None
    tensors: Mapping[str, tuple[int, ...]] = field(converter=FrozenMapping[tuple[int, ...]])
    aliases: Mapping[str, str] = field(converter=FrozenMapping[str])
    parameters: int
    bytes: int
    sha256: str
    dtype: str | None
    largest_relative_error: float | None
    largest_error_tensor: str | None
    nonfinite: tuple[tuple[str, int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        values = {name: getattr(self, name) for name in fields_dict(type(self))}
        return values | {
            "dropped": list(self.dropped),
            "tensors": {name: list(shape) for name, shape in self.tensors.items()},
            "aliases": dict(self.aliases),
            "nonfinite": [list(count) for count in self.nonfinite],
        }


def convert(
    source: str | os.PathLike[str],
    target: Path,
    *,
    dtype: str | None = None,
    allow_nonfinite: bool = False,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Conversion:
    """Convert a training's checkpoint to a safetensors file whose bytes depend on the checkpoint alone.

    Parameters
    ----------
    source : str or os.PathLike
        As for `read_training_checkpoint`.
    target : Path
        The file to write, which ends in ``.safetensors``; one that is there is replaced, once the new one is
        complete.
    dtype : str, optional
        What floating-point tensors are converted to, a key of `DTYPES`; by default each keeps its own.
    allow_nonfinite : bool
        Whether NaN and infinities are kept and counted, instead of refused.
    metadata : mapping of str to str, optional
        Further entries of the file's ``__metadata__``.
    progress : callable, optional
        Called with the number of bytes done and the number of all bytes.

    Raises
    ------
    InvalidOption
        If `target` or `dtype` cannot be.
    UnreadableCheckpoint, UnsafePickle, InvalidSafetensors
        As `read_training_checkpoint` does.
    UnsupportedModel
        If there are tensors that the format cannot hold.
    AliasConflict
        If names that are one tensor in the network hold different bits.
    NonFiniteValues
        If there are NaN or infinities, and they are not allowed.
    UnsafeConversion
        If there are finite values that `dtype` cannot hold.
    UnreadableCheckpoint
        Also if the source changes while it is read.
    DiskFull
        If there is no room for the file.
    OSError
        If the source cannot be read, or the target not be written.
    """
    target = Path(target)
    _check_target(target)
    if dtype not in {None, *DTYPES}:
        raise InvalidOption("dtype", dtype, f"one of {', '.join(DTYPES)}, or not given")
    kind = DTYPES[dtype] if dtype else None
    checkpoint = read_training_checkpoint(source)
    _check_another_file(target, checkpoint)
    before = _states(checkpoint.files)
    check_storable(checkpoint.tensors, metadata)
    names = Naming.of(checkpoint.tensors)
    tensors, aliases = names.collapse(checkpoint.tensors, str(source))
    metadata = metadata or {}
    if metadata.keys() & aliases.keys():
        raise InvalidOption("metadata", dict(metadata), "entries that are not also names of tensors")
    size = sum(tensor.numel() * written_dtype(tensor, kind).itemsize for tensor in tensors.values())
    room = _Room(str(source), target, size + _HEADER_ROOM)
    room.check()
    told = _Progress(sum(tensor.nbytes for tensor in tensors.values()) + size, progress)
    source_sha256 = _hash_files(checkpoint.files)
    values = inspect_values(tensors, kind, told)
    if values.beyond:
        raise UnsafeConversion(values.beyond)
    if values.nonfinite and not allow_nonfinite:
        raise NonFiniteValues(str(source), values.nonfinite)
    temporary = target.with_name(f".{uuid4().hex}{SUFFIX}")
    try:
        with room.errors():
            sha256 = write_safetensors(temporary, tensors, {**metadata, **aliases}, dtype=kind, progress=told)
        if _states(checkpoint.files) != before:
            step = "Take a copy that nobody writes to, and convert that."
            raise UnreadableCheckpoint(str(source), "it changed while it was read", step)
        with room.errors():
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return Conversion(
        source=str(source),
        source_sha256=source_sha256,
        kind=checkpoint.kind,
        iteration=checkpoint.iteration,
        dropped=checkpoint.dropped,
        names=len(checkpoint.tensors),
        prefix=names.prefix,
        layout=None if names.layout is AS_IS else names.layout.name,
        tensors={name: tuple(tensors[name].shape) for name in sorted(tensors)},
        aliases=dict(sorted(aliases.items())),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        bytes=target.stat().st_size,
        sha256=sha256,
        dtype=dtype,
        largest_relative_error=values.error,
        largest_error_tensor=values.error_tensor,
        nonfinite=values.nonfinite,
    )


def _check_target(target: Path) -> None:
    if target.suffix != SUFFIX:
        raise InvalidOption("target", str(target), f"a file whose name ends in {SUFFIX}")
    if target.is_dir():
        raise InvalidOption("target", str(target), "the file to write, and there is a folder of this name")
    if not target.parent.is_dir():
        raise InvalidOption("target", str(target), "a file in a folder that is there: make the folder first")


def _check_another_file(target: Path, checkpoint: TrainingCheckpoint) -> None:
    if target.exists() and any(target.samefile(file) for file in checkpoint.files):
        raise InvalidOption("target", str(target), "another file than the checkpoint that is read")


def _states(files: Iterable[Path]) -> list[FileState]:
    return [FileState.of(file.stat()) for file in files]


def _hash_files(files: Iterable[Path]) -> str:
    digests = {file.name: hash_file(file)[0] for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


class _Progress:
    """Adds up bytes, and tells of them."""

    def __init__(self, all_bytes: int, tell: Callable[[int, int], None] | None) -> None:
        self._done, self._all, self._tell = 0, all_bytes, tell

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        if self._tell:
            self._tell(self._done, self._all)


@frozen
class _Room:
    """The disk that the file goes to."""

    source: str
    target: Path
    needed: int

    def check(self) -> None:
        if self._free() < self.needed:
            raise self._full()

    @contextmanager
    def errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in NO_ROOM:
                raise self._full() from error
            # Of the writer's temporary file nobody has heard.
            raise OSError(error.errno, error.strerror, str(self.target)) from error

    def _full(self) -> DiskFull:
        return DiskFull(self.source, str(self.target.parent), self.needed, self._free())

    def _free(self) -> int:
        return free_bytes(self.target.parent)
