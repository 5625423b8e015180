"""Stored tensors as torch tensors over the mapped file: nothing is copied, nothing is unpickled."""

import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch

from cosemzoo.checkpoints.header import PREFIX_BYTES, header_length, parse_header
from cosemzoo.checkpoints.shards import StoredTensor, WeightsTable
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
_READ_BYTES = 4 << 20


class MappedWeights:
    """The tensors of a checkpoint's files, mapped privately: writing to one never reaches the file.

    Parameters
    ----------
    table : WeightsTable
        What the files were found to hold.
    paths : mapping of str to Path
        Where each of its files is.

    Raises
    ------
    InvalidSafetensors
        If a file is malformed, or no longer what `table` says.
    OSError
        If a file cannot be opened or mapped.
    """

    def __init__(self, table: WeightsTable, paths: Mapping[str, Path]) -> None:
        self._table = table
        self._paths = {file: Path(paths[file]) for file in table.files}
        self._maps: dict[str, mmap.mmap] = {}
        self._starts: dict[str, int] = {}
        for file, path in self._paths.items():
            self._maps[file], self._starts[file] = _map(path, table, file)

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
            raise InvalidSafetensors(str(self._paths[stored.file]), [problem])
        if entry.nbytes == 0:
            return torch.empty(entry.shape, dtype=dtype, device="cpu")
        flat = torch.frombuffer(
            self._maps[stored.file],
            dtype=dtype,
            count=math.prod(entry.shape),
            offset=self._starts[stored.file] + entry.start,
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
        for file, mapped in self._maps.items():
            try:
                mapped.madvise(_MADV_POPULATE_READ)
            except (OSError, ValueError, AttributeError):
                # An older kernel, another system, or a page that cannot be read: reading tells which.
                _read_through(self._paths[file], len(mapped))


def state_dict_of(table: WeightsTable, weights: MappedWeights) -> dict[str, torch.Tensor]:
    """Give every stored tensor by name, and under its aliases too."""
    state = {name: weights.tensor(name) for name in table.tensors}
    return state | {alias: state[name] for alias, name in table.aliases.items()}


def _map(path: Path, table: WeightsTable, file: str) -> tuple[mmap.mmap, int]:
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        start = opened.read(PREFIX_BYTES)
        start += opened.read(header_length(start, str(path)) - PREFIX_BYTES)
        header = parse_header(start, file_size=size, source=str(path))
        expected = {name: stored for name, stored in table.tensors.items() if stored.file == file}
        if expected != {name: StoredTensor(file, entry) for name, entry in header.tensors.items()}:
            raise InvalidSafetensors(
                str(path), ["it changed on disk: its header is not the one that was read"]
            )
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY), header.data_start


def _read_through(path: Path, size: int) -> None:
    buffer = bytearray(_READ_BYTES)
    with path.open("rb", buffering=0) as opened:
        while found := opened.readinto(buffer):
            size -= found
    if size > 0:
        raise InvalidSafetensors(str(path), ["it changed on disk: it is shorter than it was"])
