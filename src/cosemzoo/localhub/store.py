"""All repositories below one root folder, which one running Hub owns."""

import fcntl
import shutil
import threading
import uuid
from pathlib import Path
from typing import IO

from cosemzoo.localhub import durable
from cosemzoo.localhub.errors import HubError, repository_not_found
from cosemzoo.localhub.names import check_repo_id
from cosemzoo.localhub.repository import ModelRepository


class RootInUseError(RuntimeError):
    """Another Hub is running on the same root folder.

    Attributes
    ----------
    root
        The folder.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(f"Another local Hub is running on {root}: stop it, or use another root.")
        self.root = root


class RepositoryStore:
    """The repositories of a Hub, by id.

    Parameters
    ----------
    root
        The folder that holds everything; made if missing.

    Raises
    ------
    RootInUseError
        If another Hub is running on ``root``.
    """

    def __init__(self, root: Path) -> None:
        self._models = root / "models"
        self._scratch = root / "scratch"
        durable.make_directories(self._models)
        self._root_lock = _lock(root)
        shutil.rmtree(self._scratch, ignore_errors=True)  # half-made and half-deleted repositories
        self._scratch.mkdir()
        self._lock = threading.Lock()
        self._repositories = {
            repo_id: ModelRepository(repo_id, path)
            for path in sorted(self._models.glob("*/*.git"))
            if (repo_id := f"{path.parent.name}/{path.name.removesuffix('.git')}")
        }

    def close(self) -> None:
        """Close all repositories and let another Hub have the root."""
        for repository in self._repositories.values():
            repository.close()
        self._root_lock.close()

    def get(self, repo_id: str) -> ModelRepository | None:
        """Return a repository, None if there is none of that id."""
        return self._repositories.get(repo_id)

    def all(self) -> list[ModelRepository]:
        """Return all repositories, sorted by id."""
        with self._lock:
            return [repository for _, repository in sorted(self._repositories.items())]

    def create(self, repo_id: str, owner: str | None, author: str, *, private: bool) -> ModelRepository:
        """Make a repository: whole and durable, or not at all. 409 if it exists."""
        check_repo_id(repo_id)
        with self._lock:
            if repo_id in self._repositories:
                raise HubError(409, f"You already created this model repo: {repo_id}")
            new = self._scratch / uuid.uuid4().hex
            new.mkdir()
            ModelRepository.create(repo_id, new, owner, author, private=private)
            path = self._models / f"{repo_id}.git"
            durable.publish(new, path)
            repository = self._repositories[repo_id] = ModelRepository(repo_id, path)
            return repository

    def delete(self, repo_id: str) -> None:
        """Delete a repository, durably."""
        with self._lock:
            repository = self._repositories.pop(repo_id, None)
            if repository is None:
                raise repository_not_found(repo_id)
            with repository.git.lock:
                grave = self._scratch / uuid.uuid4().hex
                repository.path.replace(grave)
                durable.sync_directory(repository.path.parent)
                repository.close()
                shutil.rmtree(grave)


def _lock(root: Path) -> IO[str]:
    file = (root / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RootInUseError(root) from None
    return file
