"""Digests of whole files: which one was published, computing it, and remembering that it was right."""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import frozen
from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

from cosemzoo.zoo.checkpoint import WeightsFile

_PIECE_BYTES: Final = 8 * 1024 * 1024
_SHOW_PROGRESS_BYTES: Final = 256 * 1024 * 1024
_SHA256_LENGTH: Final = 64


@frozen
class FileState:
    """What changes when a file is written: the grounds on which a digest is believed without reading it."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """Give the state of a file from its `os.stat`."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


def published_digest(file: WeightsFile) -> str | None:
    """Give the hexadecimal digest to compare with: SHA-256, else the git blob id, else None."""
    return file.sha256 or file.blob_id


def hash_file(path: Path, like: str | None = None) -> tuple[str, FileState]:
    """Give the digest of a file, and the state of the file that was read.

    Parameters
    ----------
    path : Path
    like : str, optional
        A digest of the kind wanted: SHA-256 (64 digits, also the default) or a git blob id (40 digits).
    """
    with path.open("rb") as file:
        state = FileState.of(os.fstat(file.fileno()))
        if like is None or len(like) == _SHA256_LENGTH:
            digest = hashlib.sha256()
        else:
            digest = hashlib.sha1(b"blob %d\0" % state.size, usedforsecurity=False)
        with tqdm(  # type: ignore[no-untyped-call]
            total=state.size,
            desc=f"verifying {path.name}",
            unit="B",
            unit_scale=True,
            disable=True if state.size < _SHOW_PROGRESS_BYTES else None,
        ) as progress:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                progress.update(len(piece))
    return digest.hexdigest(), state


class DigestMemory:
    """Remembers the digests of files, so that a gigabyte is hashed once and not at every start.

    Parameters
    ----------
    places : sequence of Path
        Folders to remember in: all are read, the first that can be written is written to.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = tuple(places)

    def digest_of(self, path: Path, key: str, like: str | None = None) -> str:
        """Give the digest of a file as `hash_file` does, reading the file only if it is not remembered.

        Parameters
        ----------
        path : Path
        key : str
            Under which to remember it: a file name, one for each file.
        like : str, optional
            The digest that is expected, if one is; it says the kind, as for `hash_file`.
        """
        state = FileState.of(path.stat())
        for place in self._places:
            digest = _recall(place / f"{key}.json", state)
            # Another one than was published is not taken on the record's word: the file would be removed.
            if digest is not None and like in {None, digest}:
                return digest
        digest, state = hash_file(path, like)
        # The state is that of before reading: a file that was written to meanwhile no longer has it.
        self._remember(key, digest, state)
        return digest

    def _remember(self, key: str, digest: str, state: FileState) -> None:
        record = {"digest": digest, "size": state.size, "mtime_ns": state.mtime_ns, "inode": state.inode}
        for place in self._places:
            if write_record(place / f"{key}.json", record):
                return


def state_folder() -> Path | None:
    """Give the user's own folder for what is remembered where a cache cannot be written, if there is one."""
    home = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".local" / "state") / "cosemzoo"
    except RuntimeError:
        # A user without a home, as in a container: nothing is remembered but in the cache.
        return None


def write_record(path: Path, record: object) -> bool:
    """Write a small JSON file, whole or not at all; tell whether it could be written."""
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        return False
    return True


def read_record(path: Path) -> object:
    """Give what `write_record` wrote; None where there is nothing that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _recall(path: Path, state: FileState) -> str | None:
    match read_record(path):
        case {"digest": str(digest), "size": size, "mtime_ns": mtime_ns, "inode": inode}:
            return digest if FileState(size, mtime_ns, inode) == state else None
    return None
