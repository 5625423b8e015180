"""One bare git repository: objects and refs, written so that an acknowledged write survives a crash."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tag, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

from cosemzoo.localhub import durable
from cosemzoo.localhub.errors import HubError, revision_not_found
from cosemzoo.localhub.names import check_new_ref_name, is_ref_name, ref_conflict

RefKind = Literal["branch", "tag"]

MAIN = "main"

_NAMESPACE: dict[RefKind, bytes] = {"branch": b"refs/heads", "tag": b"refs/tags"}
_ABBREVIATED_COMMIT = re.compile(r"[0-9a-f]{7,40}")


class GitRepository:
    """A bare repository, its objects and its branches and tags.

    Parameters
    ----------
    path
        The bare repository, made by `create`.
    repo_id
        What errors call it.
    scratch
        A folder on the same file system for files being written.
    """

    def __init__(self, path: Path, repo_id: str, scratch: Path) -> None:
        self.lock = threading.RLock()
        self._repo_id = repo_id
        self._path = path
        self._scratch = scratch
        self._repo = Repo(str(path))

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty bare repository in the empty folder ``path``, with ``main`` as its HEAD."""
        with Repo.init_bare(str(path)) as repo:
            repo.refs.set_symbolic_ref(Ref(b"HEAD"), Ref(b"refs/heads/main"))

    def close(self) -> None:
        """Close the files that dulwich holds open."""
        self._repo.close()

    def remove_stale_locks(self) -> None:
        """Remove ref locks left by a killed process. Call only while no other process can hold one."""
        for lock in (self._path / "refs").rglob("*.lock"):
            lock.unlink()

    # Objects -------------------------------------------------------------------------------------------

    def put(self, item: ShaFile) -> ObjectID:
        """Store an object durably and return its id."""
        name = item.id.decode()
        path = self._path / "objects" / name[:2] / name[2:]
        if not path.exists():
            durable.write(path, item.as_legacy_object(), scratch=self._scratch)
        return item.id

    def blob(self, oid: ObjectID) -> bytes:
        """Return the content of a blob."""
        item = self._repo.object_store[oid]
        assert isinstance(item, Blob)
        return item.as_raw_string()

    def tree(self, oid: ObjectID) -> Tree:
        """Return a tree."""
        item = self._repo.object_store[oid]
        assert isinstance(item, Tree)
        return item

    def commit(self, oid: ObjectID) -> Commit:
        """Return a commit."""
        item = self._repo.object_store[oid]
        assert isinstance(item, Commit)
        return item

    def history(self, oid: ObjectID) -> Iterator[Commit]:
        """Yield a commit and its ancestors, newest first. The Hub makes no merges, so this is a chain."""
        commit = self.commit(oid)
        yield commit
        while commit.parents:
            commit = self.commit(commit.parents[0])
            yield commit

    # Revisions -----------------------------------------------------------------------------------------

    def resolve(self, revision: str) -> ObjectID:
        """Return the commit that a branch, tag, full ref name, or (abbreviated) commit id means.

        Raises
        ------
        HubError
            404 ``RevisionNotFound``.
        """
        if is_ref_name(revision):
            names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
            if revision.startswith("refs/"):
                names.append(revision)
            for name in names:
                target = self._repo.refs.read_ref(Ref(name.encode()))
                if target is not None:
                    return self._peel(ObjectID(target))
        if commit := self._find_commit(revision):
            return commit
        raise revision_not_found(self._repo_id, revision)

    def refs(self, kind: RefKind) -> dict[str, ObjectID]:
        """Return all branches or tags with the commits they mean, by name."""
        found = self._repo.refs.as_dict(Ref(_NAMESPACE[kind]))
        return {name.decode(): self._peel(target) for name, target in sorted(found.items())}

    def branch(self, name: str) -> ObjectID:
        """Return the commit a branch is at, or refuse with 404 ``RevisionNotFound``."""
        commit = self.refs("branch").get(name.removeprefix("refs/heads/"))
        if commit is None:
            raise revision_not_found(self._repo_id, name)
        return commit

    def create_tag(self, name: str, target: ObjectID, message: str | None, tagger: str) -> None:
        """Create a tag; an annotated one if there is a message."""
        if message is None:
            self.create_ref("tag", name, target)
            return
        tag = Tag()
        tag.name = check_new_ref_name(name).encode()
        tag.object = (Commit, target)
        tag.message = message.encode(errors="replace")
        tag.tagger = f"{tagger} <{tagger}@localhub>".encode()
        tag.tag_time, tag.tag_timezone = int(time.time()), 0
        self.create_ref("tag", name, self.put(tag))

    def create_ref(self, kind: RefKind, name: str, target: ObjectID) -> None:
        """Create a branch or tag; 409 if it, or one that git cannot hold beside it, exists."""
        check_new_ref_name(name)
        with self.lock:
            for existing in self.refs(kind):
                if existing == name:
                    raise HubError(409, f"The {kind} {name!r} already exists in {self._repo_id}.")
                if existing.startswith(f"{name}/") or name.startswith(f"{existing}/"):
                    raise ref_conflict(kind, name, existing)
            ref = _ref(kind, name)
            self._repo.refs.add_if_new(ref, target)
            self._sync_ref(ref)

    def move_branch(self, name: str, old: ObjectID | None, new: ObjectID) -> None:
        """Move a branch from the commit it is known to be at, durably. The caller holds the lock."""
        ref = _ref("branch", name.removeprefix("refs/heads/"))
        if not self._repo.refs.set_if_equals(ref, old, new):
            raise HubError(412, f"The branch {name!r} has moved while it was being written.")
        self._sync_ref(ref)

    def delete_ref(self, kind: RefKind, name: str) -> None:
        """Delete a branch or tag; 404 ``RevisionNotFound`` if there is none."""
        if kind == "branch" and name == MAIN:
            raise HubError(403, "The branch 'main' cannot be deleted.")
        with self.lock:
            if name not in self.refs(kind):
                raise revision_not_found(self._repo_id, name)
            ref = _ref(kind, name)
            self._repo.refs.remove_if_equals(ref, None)
            self._sync_ref(ref)

    def _find_commit(self, prefix: str) -> ObjectID | None:
        if not _ABBREVIATED_COMMIT.fullmatch(prefix):
            return None
        store = self._repo.object_store
        found = [oid for oid in store.iter_prefix(prefix.encode()) if isinstance(store[oid], Commit)]
        return found[0] if len(found) == 1 else None

    def _peel(self, oid: ObjectID) -> ObjectID:
        item = self._repo.object_store[oid]
        while isinstance(item, Tag):
            item = self._repo.object_store[ObjectID(item.object[1])]
        return item.id

    def _sync_ref(self, ref: Ref) -> None:
        folder = self._path / ref.decode()
        while folder != self._path:
            folder = folder.parent
            with suppress(FileNotFoundError):  # deleting the last ref of a folder deletes the folder
                durable.sync_directory(folder)


def _ref(kind: RefKind, name: str) -> Ref:
    return Ref(_NAMESPACE[kind] + b"/" + name.encode())
