"""A safetensors writer whose bytes depend on its input alone: same tensors, same file, same hash.

The savers of safetensors write several ``__metadata__`` entries in random order, and refuse tensors that
share memory. Here the metadata is sorted, and names of one tensor are written once and recorded as aliases.
Where neither arises, the file is byte for byte the one that `safetensors.torch.save_file` writes.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

import torch

from cosemzoo.checkpoints.entries import DTYPE_BITS
from cosemzoo.checkpoints.header import FORMAT_KEY, METADATA_KEY, PREFIX_BYTES, parse_header
from cosemzoo.errors import UnsupportedModel
from cosemzoo.strict_json import is_text

#: The format's names of the element types that safetensors both writes from and reads into torch.
_DTYPE_NAMES: Final[Mapping[torch.dtype, str]] = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
}
_DTYPE_ORDER: Final = {name: place for place, name in enumerate(DTYPE_BITS)}

#: Bytes that are converted, hashed and written at a time. For so few elements torch starts no threads, which
#: on a busy machine wait for one another longer than they work.
_PIECE_BYTES: Final = 64 * 1024


def write_safetensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> str:
    """Write tensors to a file, which appears whole or not at all.

    Names of one and the same tensor (same memory, shape and strides) are stored once, under the first of them
    in alphabetical order, and the others recorded in the file's metadata (`Header.aliases`). Views that
    overlap without being the same are stored as separate tensors. Memory beyond the tensors stays constant.

    Parameters
    ----------
    path : Path
        Where to; an existing file is replaced.
    tensors : mapping of str to torch.Tensor
        A state dict, in any order, on any device.
    metadata : mapping of str to str, optional
        Further entries of the file's ``__metadata__``.
    dtype : torch.dtype, optional
        What floating-point tensors are converted to as they are written; by default each keeps its own.
    progress : callable, optional
        Told of every piece that was written, by its number of bytes.

    Returns
    -------
    str
        SHA-256 of the file, hexadecimal.

    Raises
    ------
    UnsupportedModel
        If tensors are sparse, quantised, without values or of a type that the format lacks, or if names or
        metadata cannot be stored; its `problems` are all of them, and nothing was written.
    InvalidSafetensors
        If the header would be longer than the format allows; nothing was written.
    OSError
        If the file cannot be written; what was there before is untouched.
    """
    metadata = {FORMAT_KEY: "pt", **(metadata or {})}
    check_storable(tensors, metadata)
    aliases = find_shared(tensors)
    taken = [(alias, metadata[alias]) for alias, name in aliases.items() if metadata.get(alias, name) != name]
    if taken:
        raise UnsupportedModel(
            [
                (alias, f"is another name of {aliases[alias]}, but the metadata has {value!r} for it")
                for alias, value in taken
            ]
        )
    dtypes = {name: written_dtype(tensors[name], dtype) for name in tensors.keys() - aliases.keys()}
    kept = sorted(dtypes, key=lambda name: (-_DTYPE_ORDER[_DTYPE_NAMES[dtypes[name]]], name))
    header = _header_bytes(
        path, {name: (tensors[name], dtypes[name]) for name in kept}, {**metadata, **aliases}
    )
    digest = hashlib.sha256(header)
    with _replacing(path) as file:
        file.write(header)
        for name in kept:
            for piece in _pieces(tensors[name]):
                data = bits_of(piece.to(dtypes[name])).numpy().data
                digest.update(data)
                file.write(data)
                if progress:
                    progress(len(data))
    return digest.hexdigest()


def check_storable(tensors: Mapping[str, object], metadata: Mapping[str, str] | None = None) -> None:
    """Check that a file can hold these tensors and this metadata, without reading any values.

    Raises
    ------
    UnsupportedModel
        If not; its `problems` are all that were found.
    """
    problems = [(name, why) for name, tensor in tensors.items() for why in _obstacles(name, tensor)]
    problems.extend(_metadata_obstacles({FORMAT_KEY: "pt", **(metadata or {})}))
    if problems:
        raise UnsupportedModel(problems)


def written_dtype(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Give the element type that a tensor is written with where `dtype` is asked for."""
    return dtype if dtype and tensor.is_floating_point() else tensor.dtype


def _obstacles(name: str, tensor: object) -> Iterator[str]:
    if not is_text(name) or name == METADATA_KEY:
        yield "cannot be a tensor's name in a safetensors file"
    if not isinstance(tensor, torch.Tensor):
        yield f"is a {type(tensor).__name__}, not a tensor"
    elif tensor.layout != torch.strided:
        yield f"is sparse ({tensor.layout}); call to_dense() first"
    elif tensor.is_quantized:
        yield "is quantised; call dequantize() first"
    elif tensor.is_meta:
        yield "is on the meta device and has no values"
    elif type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        # What such a tensor shows as its memory need not be its values (sharded, fake, packed).
        yield f"is a {type(tensor).__name__}, not a plain tensor"
    elif tensor.dtype not in _DTYPE_NAMES:
        yield f"is {tensor.dtype}, which safetensors does not store"


def _metadata_obstacles(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key, value in metadata.items():
        if not (is_text(key) and is_text(value)):
            yield key, f"has {value!r} in the metadata, which holds text only"
    if metadata[FORMAT_KEY] != "pt":
        yield FORMAT_KEY, f"is {metadata[FORMAT_KEY]!r} in the metadata, but the tensors are PyTorch's (pt)"


def find_shared(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Give every name that is not the kept one of its tensor, with the kept one."""
    groups: dict[Hashable, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            groups.setdefault(_identity(tensor), []).append(name)
    aliases = {}
    for names in groups.values():
        # "format" has its own meaning in the metadata, so that it cannot be recorded as an alias.
        kept = min(names, key=lambda name: (name != FORMAT_KEY, name))
        aliases.update({name: kept for name in names if name != kept})
    return aliases


def _identity(tensor: torch.Tensor) -> Hashable:
    # An axis of length one may have any stride: it is never stepped along.
    strides = tuple(
        stride if length > 1 else 0 for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
    )
    return (
        tensor.device,
        tensor.data_ptr(),
        tensor.dtype,
        tuple(tensor.shape),
        strides,
        tensor.is_conj(),
        tensor.is_neg(),
    )


def _header_bytes(
    path: Path, tensors: Mapping[str, tuple[torch.Tensor, torch.dtype]], metadata: Mapping[str, str]
) -> bytes:
    header: dict[str, object] = {METADATA_KEY: dict(sorted(metadata.items()))}
    offset = 0
    for name, (tensor, dtype) in tensors.items():
        end = offset + tensor.numel() * dtype.itemsize
        header[name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % PREFIX_BYTES)
    data = len(text).to_bytes(PREFIX_BYTES, "little") + text
    # Nothing is written that could not be read: a header can be longer than the format allows.
    parse_header(data, file_size=len(data) + offset, source=str(path))
    return data


def aligned_pieces(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Cut tensors of one shape and dtype, in the order of their elements, into the same small pieces."""
    if all(tensor.is_contiguous() for tensor in tensors):
        tensors = tuple(tensor.view(-1) for tensor in tensors)
    first = tensors[0]
    if first.nbytes <= _PIECE_BYTES:
        yield tensors
        return
    rows = _PIECE_BYTES * len(first) // first.nbytes
    for start in range(0, len(first), max(rows, 1)):
        yield from aligned_pieces(
            *(tensor[start : start + rows] if rows else tensor[start] for tensor in tensors)
        )


def bits_of(piece: torch.Tensor) -> torch.Tensor:
    """Give the bytes of a tensor's elements in their order; a view of its memory where that is possible."""
    dense = piece.cpu().resolve_conj().resolve_neg().contiguous()
    # Not view(-1), which keeps an odd stride where there is but one element.
    flat = dense.as_strided((dense.numel(),), (1,))
    return flat.view(torch.uint8)


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    return (piece for (piece,) in aligned_pieces(tensor))


#: Bytes that go to the system at a time.
_WRITE_BYTES: Final = 8 * 1024 * 1024


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` once it is complete and on the disk."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        # Large writes: what lies in large pieces of the page cache is mapped and loaded faster.
        with temporary.open("xb", buffering=_WRITE_BYTES) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
