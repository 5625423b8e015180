"""Pickles of torch.save, read without running any of their code: this is the one place that unpickles.

What a pickle asks for is read off its instructions first, so that a refusal names all of it. What remains is
read by torch's own reader of weights, which builds tensors and plain values alone. The one class beyond these
is DaCapo's ``Weights``, for which a stand-in is made that keeps the state of an instance and does nothing.
"""

import io
import os
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from pickletools import genops
from typing import BinaryIO, Final

import torch

from cosemzoo.errors import UnreadableCheckpoint, UnsafePickle

#: What a file of torch.save starts with: a zip archive, or, before torch 1.6, a pickle.
ZIP_START: Final = b"PK"
PICKLE_START: Final = b"\x80"
SAVE_AGAIN: Final = "Where it was made, save the state dict alone: torch.save(model.state_dict(), path)."

_DACAPO_WEIGHTS: Final = "dacapo.store.weights_store.Weights"
#: A file of before torch 1.6: a magic number, a version, the system's sizes, the object, its data's keys.
_LEGACY_PICKLES: Final = 5
_PROTOCOL: Final = 2
_PIECE_BYTES: Final = 1024 * 1024
#: Where the header before a file in a zip archive has the lengths of the two fields that follow it.
_ZIP_LENGTHS: Final = 26
#: How torch's reader fails on instructions and archives that nobody wrote.
_DAMAGE: Final = (
    UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class StandInWeights:
    """Stands in for DaCapo's ``Weights``: keeps the state of the pickled instance, and does nothing.

    Attributes
    ----------
    state : object
        The attributes that the instance had, by name, if the pickle is one that DaCapo wrote.
    """

    # Without a __dict__, no pickle can put methods of its own on an instance.
    __slots__ = ("state",)

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_pickle(path: Path) -> object:
    """Read what torch.save wrote, memory-mapped where the file is of torch 1.6 or later.

    Parameters
    ----------
    path : Path
        A file that starts with `ZIP_START` or `PICKLE_START`.

    Returns
    -------
    object
        Of tensors on the CPU, plain values and containers, and `StandInWeights`.

    Raises
    ------
    UnsafePickle
        If it asks for anything else; `wanted` is all of it.
    UnreadableCheckpoint
        If it is damaged, or was not written by torch.save.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        zipped = file.read(len(ZIP_START)) == ZIP_START
        file.seek(0)
        pickles: BinaryIO = io.BytesIO(_pickle_of_zip(path, file)) if zipped else file
        wanted = _wanted(pickles)
        pickles.seek(len(PICKLE_START))
        protocol = int.from_bytes(pickles.read(1))
    with torch.serialization.safe_globals([(StandInWeights, _DACAPO_WEIGHTS)]), warnings.catch_warnings():
        # Of protocols and of versions of torch: what matters of them ends in an error.
        warnings.simplefilter("ignore")
        refused = _refused(wanted)
        if refused:
            raise UnsafePickle(str(path), refused)
        if zipped:
            _check_sums(path)
        try:
            return torch.load(str(path), map_location="cpu", mmap=zipped, weights_only=True)
        except _DAMAGE as error:
            problem = _why_unreadable(error, protocol)
            raise UnreadableCheckpoint(str(path), problem, f"Copy it again. {SAVE_AGAIN}") from error


def _why_unreadable(error: Exception, protocol: int) -> str:
    if protocol != _PROTOCOL:
        return f"its pickle is of protocol {protocol}, and torch reads weights of protocol {_PROTOCOL} only"
    if isinstance(error, UnpicklingError):
        return "its pickle is damaged, or does what torch.save never writes"
    if "magic number" in str(error):
        return "it is a pickle that torch.save did not write"
    return f"it is damaged ({str(error).partition(chr(10))[0] or type(error).__name__})"


def refuse_bare_pickle(start: bytes, source: str) -> None:
    """Refuse the start of a file if it is a small pickle without a signature, as protocols 0 and 1 write it.

    Raises
    ------
    UnsafePickle
        If it is one that asks for code.
    """
    try:
        list(genops(start))
    except _DAMAGE:
        return
    refused = _refused(_wanted(io.BytesIO(start)))
    if refused:
        raise UnsafePickle(source, refused)


def _pickle_of_zip(path: Path, file: BinaryIO) -> bytes:
    """Give the pickle in an archive of torch.save, after refusing archives of other makers."""
    try:
        with zipfile.ZipFile(file) as archive:
            problem, step, member = _inspect(archive)
    except (zipfile.BadZipFile, *_DAMAGE) as error:
        problem, step, member = (
            f"it is a zip archive that is cut off or damaged ({error})",
            "Copy it again.",
            None,
        )
    if member is None:
        raise UnreadableCheckpoint(str(path), problem, step)
    # Not ZipFile.read, which compares checksums: torch.save can be told to write none.
    file.seek(member.header_offset + _ZIP_LENGTHS)
    name, extra = struct.unpack("<HH", file.read(4).ljust(4, b"\0"))
    file.seek(name + extra, os.SEEK_CUR)
    return file.read(member.file_size)


def _check_sums(path: Path) -> None:
    """Compare the members of an archive with the checksums beside them, which torch's reader does not."""
    with zipfile.ZipFile(path) as archive:
        # torch.save can be told to write none: then it is 0.
        summed = [member for member in archive.infolist() if member.CRC]
        damaged = [member.filename for member in summed if not _is_whole(archive, member)]
    if damaged:
        problem = f"its checksums say that these parts are damaged: {', '.join(damaged)}"
        raise UnreadableCheckpoint(str(path), problem, "Copy it again.")


def _is_whole(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(member) as opened:
            while opened.read(_PIECE_BYTES):
                pass
    except (zipfile.BadZipFile, *_DAMAGE):
        return False
    return True


def _inspect(archive: zipfile.ZipFile) -> tuple[str, str, zipfile.ZipInfo | None]:
    """Say what is wrong with an archive and what to do, or give its pickle."""
    members = archive.infolist()
    named = {member.filename.partition("/")[2]: member for member in members}
    if "constants.pkl" in named:
        step = "Save its weights alone: torch.save(torch.jit.load(path).state_dict(), 'state.pt')."
        return "it is a TorchScript archive, which holds a program", step, None
    if members and all(member.filename.endswith(".npy") for member in members):
        return "it is an archive of NumPy arrays (.npz)", SAVE_AGAIN, None
    if "data.pkl" not in named:
        return "it is a zip archive that torch.save did not write", SAVE_AGAIN, None
    # Mapped, packed bytes would be taken for values.
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "it is a torch checkpoint that was zipped again, with compression", SAVE_AGAIN, None
    if named["data.pkl"].header_offset < 0:
        return "it is a zip archive whose start is cut off", "Copy it again.", None
    return "", "", named["data.pkl"]


def _wanted(file: BinaryIO) -> set[tuple[str, str]]:
    """Give the (module, name) of everything that the pickles at the start of a file ask for."""
    found: set[tuple[str, str]] = set()
    for _ in range(_LEGACY_PICKLES):
        # What is read before the instructions end in nonsense may have been meant all the same.
        with suppress(*_DAMAGE):
            found.update(_wanted_by_one(file))
    return found


def _wanted_by_one(file: BinaryIO) -> Iterator[tuple[str, str]]:
    texts = ["?", "?"]
    memo: dict[int, str] = {}
    for opcode, argument, _ in genops(file):
        match opcode.name, argument:
            case "GLOBAL" | "INST", str():
                module, _, name = argument.partition(" ")
                yield module, name
            case "STACK_GLOBAL", _:
                yield texts[-2], texts[-1]
            case "MEMOIZE", _:
                memo[len(memo)] = texts[-1]
            case "PUT" | "BINPUT" | "LONG_BINPUT", int():
                memo[argument] = texts[-1]
            case "GET" | "BINGET" | "LONG_BINGET", int():
                texts.append(memo.get(argument, "?"))
            case _, str():
                texts.append(argument)


def _refused(wanted: set[tuple[str, str]]) -> list[str]:
    """Give those of the globals that torch's reader of weights does not know, as torch names them."""
    # Asked of torch as it can be asked: by an archive whose pickle does nothing but name them.
    lines = ("".join(f"{line!r}"[1:-1] + "\n" for line in pair) for pair in sorted(wanted))
    asked = b"".join(b"c" + pair.encode("utf-8", "replace") for pair in lines)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("archive/data.pkl", b"\x80\x02" + asked + b".")
        opened.writestr("archive/version", b"3\n")
    archive.seek(0)
    return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(archive))
