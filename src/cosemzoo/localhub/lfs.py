"""LFS content of one repository: pointers, stored objects, and uploads that are checked before they count."""

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cosemzoo.localhub import durable
from cosemzoo.localhub.errors import bad_request

_OID = re.compile(r"[0-9a-f]{64}")
_VERSION = "https://git-lfs.github.com/spec/v1"
_POINTER = re.compile(rf"version {re.escape(_VERSION)}\noid sha256:([0-9a-f]{{64}})\nsize (\d+)\n".encode())


@dataclass(frozen=True)
class Pointer:
    """What git stores in place of a large file."""

    sha256: str
    size: int

    def encode(self) -> bytes:
        """Return the pointer file, byte for byte as git-lfs writes it."""
        return f"version {_VERSION}\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> "Pointer | None":
        """Return the pointer that ``data`` is, or None if it is an ordinary file."""
        match = _POINTER.fullmatch(data)
        return cls(match[1].decode(), int(match[2])) if match else None


def check_oid(oid: str) -> str:
    """Return ``oid`` if it is a SHA-256 in hex, else refuse it."""
    if not _OID.fullmatch(oid):
        raise bad_request(f"Invalid LFS oid {oid!r}: it is a SHA-256, 64 lower-case hex digits.")
    return oid


class LfsStore:
    """The large files of one repository, by their SHA-256.

    Parameters
    ----------
    folder
        Where objects live, as ``aa/bb/<sha256>``.
    scratch
        A folder on the same file system for uploads in progress.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch

    def path(self, oid: str) -> Path:
        """Return where the object is, or would be."""
        return self._folder / oid[:2] / oid[2:4] / oid

    def size(self, oid: str) -> int | None:
        """Return the size of a stored object in bytes, None if it is not stored."""
        try:
            return self.path(oid).stat().st_size
        except FileNotFoundError:
            return None

    def receive(self, oid: str, size: int) -> "LfsUpload":
        """Start an upload that will count only if it turns out to be ``oid`` and ``size``."""
        return LfsUpload(self.path(oid), self._scratch, oid, size)


class LfsUpload:
    """One upload in progress. Leaving the ``with`` block without `finish` leaves no trace."""

    def __init__(self, target: Path, scratch: Path, oid: str, size: int) -> None:
        self._target = target
        self._oid = oid
        self._size = size
        self._received = 0
        self._hash = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=scratch)
        self._temporary = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> "LfsUpload":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes; refuse as soon as there are more than announced."""
        self._received += len(chunk)
        if self._received > self._size:
            raise bad_request(f"Upload of {self._oid} is larger than the announced {self._size} bytes.")
        self._hash.update(chunk)
        self._file.write(chunk)

    def finish(self) -> None:
        """Check size and SHA-256, then make the object durable under its name."""
        if self._received != self._size:
            raise bad_request(
                f"Upload of {self._oid} has {self._received} bytes, announced were {self._size}."
            )
        if self._hash.hexdigest() != self._oid:
            raise bad_request(f"Upload announced as {self._oid} has SHA-256 {self._hash.hexdigest()}.")
        self._file.flush()
        os.fsync(self._file.fileno())
        durable.publish(self._temporary, self._target)
