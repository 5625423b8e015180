"""The files of one repository, opened only after they were found to be the published ones."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cosemzoo.checkpoints.header import Header, read_header
from cosemzoo.errors import DiskFull, IntegrityError, NotCached
from cosemzoo.zoo.cache import RepositoryCache, describe
from cosemzoo.zoo.checkpoint import WeightsFile
from cosemzoo.zoo.digests import FileState, published_digest
from cosemzoo.zoo.failures import Asked, free_bytes
from cosemzoo.zoo.remote import RemoteRepository

_REMOVED: Final = "It was removed."


class VerifiedFiles:
    """Opens files of a repository. A damaged one is removed, and downloaded again once.

    Parameters
    ----------
    asked : Asked
        Which repository, and what for.
    cache : RepositoryCache
    remote : RemoteRepository or None
        Where to download from; None opens what is cached.
    """

    def __init__(self, asked: Asked, cache: RepositoryCache, remote: RemoteRepository | None) -> None:
        self._asked = asked
        self._cache = cache
        self._remote = remote

    def obtain(self, commit: str, file: WeightsFile) -> Path:
        """Give the path of a file; download it if it is not cached.

        Raises
        ------
        NotCached
            Without the Hub, if it is not cached.
        IntegrityError
            If it is damaged and cannot be replaced.
        """

        def download() -> Path:
            if self._remote is None:
                raise self.not_cached(f"{file.name} of {self._asked.repository}@{commit}")
            return self._remote.download(commit, file.name, file.size)

        return self.verified(self._cache.file(commit, file.name), download, file)

    def verified(
        self,
        path: Path | None,
        download: Callable[[], Path],
        file: WeightsFile | None = None,
        *,
        again: bool = False,
    ) -> Path:
        """Give the path of a file that is sound: `path`, or what `download` gives.

        Parameters
        ----------
        path : Path or None
        download : callable
        file : WeightsFile, optional
            What was published; without it, the digest in the name of the cached file counts.
        again : bool
            Whether a damaged one was found before, so that another one is an error.

        Raises
        ------
        IntegrityError
            If it is damaged and cannot be replaced.
        """
        path = path or download()
        expected = file or describe(path.name, path)
        found = self._remove_damaged(path, expected)
        if found is None:
            return path
        if again:
            raise self._corrupt(path, expected, found, "It was fetched again, was corrupt again and removed.")
        return self.verified(None, download, file, again=True)

    def cached(self, path: Path) -> Path:
        """Give the path of a cached file if the digest in its name is that of its content.

        Raises
        ------
        IntegrityError
            If it is damaged; it is removed.
        """
        expected = describe(path.name, path)
        found = self._remove_damaged(path, expected)
        if found is not None:
            raise self._corrupt(path, expected, found, _REMOVED)
        return path

    def header(self, commit: str, file: WeightsFile) -> Header:
        """Read the header of a weights file: from the file if it is cached, else from the Hub.

        Raises
        ------
        NotCached, IntegrityError
            As `obtain` does.
        InvalidSafetensors
            If the published file breaks a rule of the format.
        """
        path = self._cache.file(commit, file.name)
        if path is not None and self._remove_damaged(path, file) is None:
            return read_header(path)
        if self._remote is None:
            raise self.not_cached(f"{file.name} of {self._asked.repository}@{commit}")
        return self._remote.header(commit, file)

    def check_room(self, commit: str, files: Sequence[WeightsFile]) -> None:
        """Check that there is room for those of the files that are to be downloaded.

        Raises
        ------
        DiskFull
        """
        needed = sum(file.size for file in files if self._cache.file(commit, file.name) is None)
        free = free_bytes(self._asked.cache_dir) if needed and self._remote else needed
        if free < needed:
            raise DiskFull(self._asked.reference, str(self._asked.cache_dir), needed, free)

    def not_cached(self, missing: str) -> NotCached:
        """Give the error for something that the cache lacks."""
        return NotCached(self._asked.reference, missing, str(self._asked.cache_dir))

    def _remove_damaged(self, path: Path, file: WeightsFile) -> str | None:
        """Give the digest of a file that was damaged and is now removed; None for a sound one."""
        state = FileState.of(path.stat())
        found = self._cache.find_damage(path, file)
        if found is None:
            return None
        if not self._cache.discard(path, state):
            done = "It could not be removed: remove it yourself, or choose another cache (HF_HUB_CACHE)."
            raise self._corrupt(path, file, found, done)
        if self._remote is None:
            raise self._corrupt(path, file, found, _REMOVED)
        return found

    def _corrupt(self, path: Path, file: WeightsFile, found: str, done: str) -> IntegrityError:
        expected = published_digest(file)
        assert expected is not None
        return IntegrityError(self._asked.reference, path, expected, found, done)
