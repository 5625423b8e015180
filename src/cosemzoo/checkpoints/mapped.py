"""Stored tensors as torch tensors over the mapped file: nothing is copied, nothing is unpickled."""

import math
import mmap
import os
import weakref
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from attrs import frozen

from cosemzoo.checkpoints.header import PREFIX_BYTES, header_length, parse_header
from cosemzoo.checkpoints.mounts import Read, reads_in_order
from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidSafetensors

# Names of the safetensors format, and torch's. What this torch does not have is left out.
_TORCH_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
#: torch's element type by its name in the safetensors format.
TORCH_DTYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {name: getattr(torch, ours) for name, ours in _TORCH_NAMES.items() if hasattr(torch, ours)}
)

# Linux's madvise(2), since 5.14: read every page now, and say so when one cannot be.
_MADV_POPULATE_READ = 22
_POPULATE_BYTES = 64 << 20
#: Bytes that are read at a time where a file is read in order.
READ_BYTES: Final = 4 << 20


@frozen(eq=False)
class _MappedFile:
    path: Path
    opened: BufferedReader
    mapped: mmap.mmap
    data_start: int
    address: int


class MappedWeights:
    """The tensors of a checkpoint's files, mapped privately: writing to one never reaches the file.

    Parameters
    ----------
    table : WeightsTable
        What the files were found to hold.
    paths : mapping of str to Path
        Where each of its files is.
    read : {"auto", "mmap", "sequential"}
        How `read_ahead` and `values` read them; tensors are mapped in any case.

    Attributes
    ----------
    in_order : bool
        Whether the files are read in the order of their bytes.

    Raises
    ------
    InvalidSafetensors
        If a file is malformed, or no longer what `table` says.
    OSError
        If a file cannot be opened or mapped.
    """

    def __init__(self, table: WeightsTable, paths: Mapping[str, Path], read: Read = "mmap") -> None:
        self._table = table
        self._files = {file: self._open(Path(paths[file]), file) for file in table.files}
        self.in_order = any(reads_in_order(file.path, read) for file in self._files.values())
        self._buffer = bytearray()

    def tensor(self, name: str) -> torch.Tensor:
        """Give a stored tensor, by the name it is stored under.

        Returns
        -------
        torch.Tensor
            On the CPU, over the mapped file; it keeps the mapping alive.

        Raises
        ------
        InvalidSafetensors
            If this torch has no such element type.
        """
        stored = self._table.tensors[name]
        entry = stored.entry
        dtype = TORCH_DTYPES.get(entry.dtype)
        if dtype is None:
            problem = f"torch {torch.__version__} has no type for {name}, which is {entry.dtype}"
            raise InvalidSafetensors(str(self._files[stored.file].path), [problem])
        if entry.nbytes == 0:
            return torch.empty(entry.shape, dtype=dtype, device="cpu")
        file = self._files[stored.file]
        flat = torch.frombuffer(
            file.mapped,
            dtype=dtype,
            count=math.prod(entry.shape),
            offset=file.data_start + entry.start,
        )
        return flat.reshape(entry.shape)

    def read_ahead(self) -> None:
        """Read every page, so that a page that cannot be read is an error here and not a signal later.

        Raises
        ------
        InvalidSafetensors
            If a file became shorter than it was.
        OSError
            If a page cannot be read.
        """
        self._buffer = bytearray(READ_BYTES if self.in_order else 0)
        for file in self._files.values():
            if self.in_order or not _populate(file.mapped):
                _read_through(file)

    def values(self, part: torch.Tensor) -> torch.Tensor:
        """Give the values of a part of a tensor, for use before the next call.

        Parameters
        ----------
        part : torch.Tensor
            Contiguous elements of one of these tensors, `READ_BYTES` at most, are read from the file where
            files are read in order. Anything else is given back as it is.

        Notes
        -----
        After `read_ahead` this never raises. What could be read then and cannot be read now is left to the
        mapping, and so ends the process: what is being filled is never seen half filled.
        """
        size = part.nbytes
        if not self.in_order or not 0 < size <= len(self._buffer) or not part.is_contiguous():
            return part
        address = part.data_ptr()
        for file in self._files.values():
            start = address - file.address
            if 0 <= start < len(file.mapped):
                with suppress(OSError):
                    if _fill(memoryview(self._buffer)[:size], file, start):
                        read = torch.frombuffer(self._buffer, dtype=part.dtype, count=part.numel())
                        return read.view(part.shape)
        return part

    def _open(self, path: Path, file: str) -> _MappedFile:
        # What is read later is this file, whatever is put under its name meanwhile.
        opened = path.open("rb")
        weakref.finalize(self, opened.close)
        data_start = _check_header(opened, path, self._table, file)
        mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        address = torch.frombuffer(mapped, dtype=torch.uint8).data_ptr()
        return _MappedFile(path, opened, mapped, data_start, address)


def state_dict_of(table: WeightsTable, weights: MappedWeights) -> dict[str, torch.Tensor]:
    """Give every stored tensor by name, and under its aliases too."""
    state = {name: weights.tensor(name) for name in table.tensors}
    return state | {alias: state[name] for alias, name in table.aliases.items()}


def _check_header(opened: BufferedReader, path: Path, table: WeightsTable, file: str) -> int:
    """Give the place where the data starts, if the file is the one that the table was read from."""
    size = os.fstat(opened.fileno()).st_size
    start = opened.read(PREFIX_BYTES)
    start += opened.read(header_length(start, str(path)) - PREFIX_BYTES)
    header = parse_header(start, file_size=size, source=str(path))
    expected = {name: stored.entry for name, stored in table.tensors.items() if stored.file == file}
    if header.tensors != expected:
        raise InvalidSafetensors(str(path), ["it changed on disk: its header is not the one that was read"])
    return header.data_start


def _populate(mapped: mmap.mmap) -> bool:
    try:
        # Not all at once: meanwhile no other thread runs, and no signal is handled.
        for start in range(0, len(mapped), _POPULATE_BYTES):
            mapped.madvise(_MADV_POPULATE_READ, start, min(_POPULATE_BYTES, len(mapped) - start))
    except (OSError, ValueError, AttributeError):
        # An older kernel, another system, or a page that cannot be read: reading tells which.
        return False
    return True


def _read_through(file: _MappedFile) -> None:
    size, buffer = len(file.mapped), memoryview(bytearray(READ_BYTES))
    for start in range(0, size, READ_BYTES):
        if not _fill(buffer[: size - start], file, start):
            raise InvalidSafetensors(str(file.path), ["it changed on disk: it is shorter than it was"])


def _fill(buffer: memoryview, file: _MappedFile, start: int) -> bool:
    """Read the bytes of a file from `start` on into a buffer; tell whether there were enough."""
    file.opened.raw.seek(start, os.SEEK_SET)
    while buffer and (count := file.opened.raw.readinto(buffer)):
        buffer = buffer[count:]
    return not buffer
