"""One model repository: its git side, its LFS side and its settings, in one folder."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from dulwich.objects import ObjectID

from cosemzoo.localhub import durable
from cosemzoo.localhub.attributes import DEFAULT_ATTRIBUTES
from cosemzoo.localhub.commits import first_commit
from cosemzoo.localhub.errors import entry_not_found
from cosemzoo.localhub.gitrepo import GitRepository
from cosemzoo.localhub.lfs import LfsStore
from cosemzoo.localhub.trees import File, find

Gate = Literal["auto", "manual", False]

_SETTINGS = "localhub.json"
_SCRATCH = "scratch"


@dataclass(frozen=True)
class Settings:
    """What is known about a repository besides its content.

    Attributes
    ----------
    owner
        The user who made it; None if it was made on a Hub without tokens, then it is everyone's.
    private
        Whether others cannot see it.
    gated
        Whether others cannot download from it.
    created_at
        When it was made, ISO 8601 in UTC.
    """

    owner: str | None
    private: bool
    gated: Gate
    created_at: str


class ModelRepository:
    """A model repository on disk.

    Parameters
    ----------
    repo_id
        ``namespace/name``.
    path
        Its folder, made by `create`.
    """

    def __init__(self, repo_id: str, path: Path) -> None:
        self.id = repo_id
        self.path = path
        scratch = path / _SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)  # what a killed process left unfinished
        scratch.mkdir()
        self.git = GitRepository(path, repo_id, scratch)
        self.git.remove_stale_locks()
        self.lfs = LfsStore(path / "lfs" / "objects", scratch)
        self.settings = Settings(**json.loads((path / _SETTINGS).read_text()))

    @classmethod
    def create(cls, repo_id: str, path: Path, owner: str | None, author: str, *, private: bool) -> None:
        """Make a repository with the Hub's ``.gitattributes`` as its first commit in the empty ``path``."""
        GitRepository.create(path)
        (path / _SCRATCH).mkdir()
        settings = Settings(owner, private, gated=False, created_at=iso_time(datetime.now(UTC)))
        (path / _SETTINGS).write_text(json.dumps(asdict(settings)))
        repository = cls(repo_id, path)
        first_commit(repository.git, {".gitattributes": DEFAULT_ATTRIBUTES}, "initial commit", author)
        repository.close()
        durable.sync_tree(path)

    def close(self) -> None:
        """Close the files held open."""
        self.git.close()

    def change_settings(self, **changes: Any) -> None:
        """Change settings, durably."""
        with self.git.lock:
            settings = replace(self.settings, **changes)
            data = json.dumps(asdict(settings)).encode()
            durable.write(self.path / _SETTINGS, data, scratch=self.path / _SCRATCH)
            self.settings = settings

    def bytes_on_disk(self) -> int:
        """Return the size of all that is kept, history included."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def file(self, commit: ObjectID, path: str) -> File:
        """Return a file of a commit, or refuse with 404 ``EntryNotFound``."""
        found = find(self.git, commit, path)
        if not isinstance(found, File):
            raise entry_not_found(path, commit.decode())
        return found

    def read_small(self, commit: ObjectID, path: str) -> bytes:
        """Return the content of a file that git holds, empty if there is none at ``path``."""
        found = find(self.git, commit, path)
        return self.git.blob(found.oid) if isinstance(found, File) and not found.pointer else b""


def iso_time(moment: datetime) -> str:
    """Format a UTC time as the Hub does."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
