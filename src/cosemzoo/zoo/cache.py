"""One repository's folder in huggingface_hub's cache, read and repaired without any request.

The layout is the client's documented one: ``refs/<revision>`` holds a commit, ``snapshots/<commit>/<file>``
is a link to ``blobs/<etag>``, and the etag is the SHA-256 of a file in LFS, else its git blob id. What
cosemzoo remembers lies in ``.cosemzoo`` beside them, and goes when the repository is removed from the cache.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final
from uuid import uuid4

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from cosemzoo.zoo.checkpoint import WeightsFile
from cosemzoo.zoo.digests import (
    DigestMemory,
    FileState,
    published_digest,
    read_record,
    state_folder,
    write_record,
)
from cosemzoo.zoo.weights import SHARD_INDEX, SINGLE_FILE

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MOST_LINKS: Final = 8


class RepositoryCache:
    """The cached part of one model repository.

    Parameters
    ----------
    cache_dir : Path
        The cache of huggingface_hub.
    repository : str
        ``namespace/repo``.
    """

    def __init__(self, cache_dir: Path, repository: str) -> None:
        self._cache_dir = cache_dir
        self._repository = repository
        self.folder = cache_dir / repo_folder_name(repo_id=repository, repo_type="model")
        own = state_folder()
        name = sha256(os.fsencode(self.folder.absolute())).hexdigest()[:16]
        self._places = (self.folder / ".cosemzoo", *([own / name] if own else []))
        self._memory = DigestMemory([place / "verified" for place in self._places])

    def ref(self, revision: str) -> str | None:
        """Give the commit that a branch or tag had when the Hub was last asked."""
        try:
            commit = (self.folder / "refs" / revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def remember_ref(self, revision: str, commit: str) -> None:
        """Record the commit of a branch or tag, for answers without the Hub, where that can be written."""
        # A ref to a commit of which nothing is cached would make `hf cache ls` call the cache corrupt.
        if self.ref(revision) == commit or not (self.folder / "snapshots" / commit).is_dir():
            return
        path = self.folder / "refs" / revision
        temporary = path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(commit, encoding="utf-8")
            temporary.replace(path)

    def file(self, commit: str, name: str) -> Path | None:
        """Give the path of a cached file."""
        found = try_to_load_from_cache(self._repository, name, cache_dir=self._cache_dir, revision=commit)
        return Path(found) if isinstance(found, str) else None

    def blob(self, etag: str) -> Path | None:
        """Give the path of a file's content by its digest, whatever the commit."""
        path = self.folder / "blobs" / etag
        return path if path.is_file() else None

    def snapshot(self, commit: str) -> dict[str, WeightsFile]:
        """Give the cached files of a commit, with the digests that the cache's own names give."""
        try:
            names = sorted(os.listdir(self.folder / "snapshots" / commit))
        except OSError:
            return {}
        paths = {name: self.file(commit, name) for name in names}
        return {name: describe(name, path) for name, path in paths.items() if path is not None}

    def listing(self, commit: str) -> dict[str, WeightsFile] | None:
        """Give the published files of a commit as `remember_listing` recorded them."""
        for place in self._places:
            match read_record(place / "published" / f"{commit}.json"):
                case {"files": list(entries)}:
                    files = {file.name: file for file in map(_recorded, entries) if file is not None}
                    if len(files) == len(entries) and {SINGLE_FILE, SHARD_INDEX} & files.keys():
                        return files
        return None

    def remember_listing(self, commit: str, files: Sequence[WeightsFile]) -> None:
        """Record what the Hub says of the files of a commit, to verify them without it."""
        entries = [
            {"name": file.name, "size": file.size, "sha256": file.sha256, "blob_id": file.blob_id}
            for file in files
        ]
        for place in self._places:
            if write_record(place / "published" / f"{commit}.json", {"files": entries}):
                return

    def find_damage(self, path: Path, file: WeightsFile) -> str | None:
        """Give the digest of a cached file if it is not the published one, else None.

        Weights are read once for this, then remembered until size, time or inode of the file change.
        """
        expected = published_digest(file)
        if expected is None:
            return None
        found = self._memory.digest_of(path, expected, like=expected)
        return None if found == expected else found

    def discard(self, path: Path, state: FileState) -> bool:
        """Remove a damaged file, its content and every link to it; tell whether it is gone.

        A file that another process has replaced since `state` is left alone, and counts as gone.
        """
        try:
            if FileState.of(path.stat()) != state:
                return True
        except OSError:
            return True
        try:
            for link in [*_chain(path), *self._links_to(path.resolve())]:
                link.unlink(missing_ok=True)
        except OSError:
            return False
        return True

    def _links_to(self, content: Path) -> list[Path]:
        # A link left without its content would make `hf cache ls` call the cache corrupt.
        snapshots = self.folder / "snapshots"
        return [link for link in snapshots.rglob("*") if link.is_symlink() and link.resolve() == content]


def _recorded(entry: object) -> WeightsFile | None:
    """Give a file of a record; None for what `remember_listing` cannot have written."""
    match entry:
        case {
            "name": str(name),
            "size": int(size),
            "sha256": (str() | None) as sha256,
            "blob_id": (str() | None) as blob_id,
        } if (
            Path(name).name == name
            and (sha256 is None or _SHA256.fullmatch(sha256))
            and (blob_id is None or _COMMIT.fullmatch(blob_id))
        ):
            return WeightsFile(name, size, sha256, blob_id)
    return None


def _chain(path: Path) -> list[Path]:
    """Follow a link to the file itself, link by link: the content can be shared between repositories."""
    chain = [path]
    while chain[-1].is_symlink() and len(chain) < _MOST_LINKS:
        chain.append(chain[-1].parent / chain[-1].readlink())
    # The file comes first: once its links are gone, their folders may be, and it can no longer be reached.
    return chain[::-1]


def describe(name: str, path: Path) -> WeightsFile:
    """Give what a cached file was published as, by the digest in its name or in that of its link's target."""
    etag = path.readlink().name if path.is_symlink() else path.name
    return WeightsFile(
        name,
        path.stat().st_size,
        sha256=etag if _SHA256.fullmatch(etag) else None,
        blob_id=etag if _COMMIT.fullmatch(etag) else None,
    )
