"""Writes that survive ``kill -9`` and power loss: temporary file, fsync, rename, fsync of the directory."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make every file and every name below ``path`` durable."""
    for folder, _, files in os.walk(path):
        for name in files:
            descriptor = os.open(Path(folder, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(folder))


def make_directories(path: Path) -> None:
    """Create ``path`` and its missing parents, durably."""
    if path.is_dir():
        return
    make_directories(path.parent)
    with suppress(FileExistsError):
        path.mkdir()
    sync_directory(path.parent)


def publish(temporary: Path, target: Path) -> None:
    """Give a finished, fsynced file (or folder) its final name: whole or not at all."""
    make_directories(target.parent)
    temporary.replace(target)
    sync_directory(target.parent)


def write(target: Path, data: bytes, *, scratch: Path) -> None:
    """Write ``data`` to ``target`` by way of ``scratch``, a folder on the same file system."""
    descriptor, name = tempfile.mkstemp(dir=scratch)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        publish(Path(name), target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
