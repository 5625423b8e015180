"""A checkpoint: a reference resolved, pinned, and everything that is known of it before its data is read."""

from pathlib import Path

from attrs import frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.manifest import Manifest
from cosemzoo.reference import Reference

_SHORT = 8


@frozen
class WeightsFile:
    """One file as it was published.

    Attributes
    ----------
    name : str
        Its name within the checkpoint.
    size : int
        Bytes.
    sha256 : str or None
        SHA-256 of its content, where that was published.
    blob_id : str or None
        Its git blob id: all that the Hub records of a small file that is not in LFS.
    """

    name: str
    size: int
    sha256: str | None = None
    blob_id: str | None = None


@frozen(kw_only=True)
class Checkpoint:
    """A reference resolved. It never changes: the same identity is the same weights.

    Attributes
    ----------
    reference : Reference
        What was asked.
    repository : str or None
        ``namespace/repo`` on the Hub; None for a folder.
    folder : Path or None
        The folder on disk; None for the Hub.
    endpoint : str or None
        The Hub; None for a folder.
    commit : str or None
        The commit on the Hub, 40 hexadecimal digits; None for a folder.
    content_hash : str or None
        For a folder, SHA-256 of its weights; of several files, SHA-256 over their names and hashes.
    criterion : str
        What the name meant: ``1820500`` for ``best``; a branch or tag of an ordinary repository; the name of
        a folder.
    manifest : Manifest or None
        None for an ordinary model, which has none.
    weights : WeightsTable
        Every tensor and where it lies.
    files : tuple of WeightsFile
        The weights files.
    """

    reference: Reference
    repository: str | None = None
    folder: Path | None = None
    endpoint: str | None = None
    commit: str | None = None
    content_hash: str | None = None
    criterion: str
    manifest: Manifest | None
    weights: WeightsTable
    files: tuple[WeightsFile, ...]

    @property
    def identity(self) -> str:
        """The commit, or the content hash of a folder."""
        identity = self.commit or self.content_hash
        assert identity is not None
        return identity

    def __str__(self) -> str:
        """Give, for example, ``cosemzoo/setup04@1820500 (commit 1a2b3c4d)``."""
        if self.commit is not None:
            return f"{self.repository}@{self.criterion} (commit {self.commit[:_SHORT]})"
        name = self.reference.at(self.criterion) if self.reference.place == "local" else self.folder
        return f"{name} (content {self.identity[:_SHORT]})"
