"""A folder that is exported: it appears whole or not at all, and replaces nothing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory

from torch import nn

from cosemzoo.errors import CosemZooError, DiskFull, ExportRefused


def absolute(folder: str | os.PathLike[str]) -> Path:
    """Give a folder's path without ``.`` and ``..``; links stay what they are."""
    return Path(os.path.abspath(folder))


def place_problem(folder: Path) -> str | None:
    """Say why nothing can be exported to a folder, as far as that is known before; None where nothing is."""
    if not os.path.lexists(folder):
        return None
    if folder.is_symlink() or not folder.is_dir() or any(folder.iterdir()):
        return f"{folder} is there already, and is a link, a file or not empty: name a folder that is not"
    if folder.samefile(os.curdir):
        return f"{folder} is the folder that you are in, which would be replaced: name one inside it"
    return None


def float32_bytes(network: nn.Module) -> int:
    """Give the bytes of a network's tensors in float32."""
    return sum(4 * tensor.numel() for tensor in network.state_dict().values())


@contextmanager
def whole_folder(reference: str, folder: Path, *, needed: int) -> Iterator[Path]:
    """Give a folder to write into, which takes its place when all of it is written.

    Until then it is beside it, under a hidden name; only a process that is killed leaves it there.

    Parameters
    ----------
    reference : str
        What is exported.
    folder : Path
        Absolute; what `place_problem` finds nothing wrong with.
    needed : int
        The most bytes that it takes while it is written. Where they are not free, nothing is begun: torch
        ends the whole process where it cannot go on with a file.

    Raises
    ------
    DiskFull
    ExportRefused
        If something cannot be written, or somebody else wrote the folder meanwhile.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = disk_usage(folder.parent).free
        if free < needed:
            raise DiskFull(reference, str(folder.parent), needed, free)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / folder.name
            made.mkdir()
            yield made
            made.rename(folder)
    except OSError as error:
        if isinstance(error, CosemZooError):
            raise
        written = f"{error.filename or folder} cannot be written ({error.strerror or error})"
        problem = place_problem(folder) or written
        raise ExportRefused(reference, folder, [problem]) from error
