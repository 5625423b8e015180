"""What a commit holds: files with their sizes and LFS pointers, folders, and who changed them last."""

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dulwich.objects import Commit, ObjectID, Tree

from cosemzoo.localhub.gitrepo import GitRepository
from cosemzoo.localhub.lfs import Pointer

FILE_MODE = 0o100644
_FOLDER_MODE = 0o040000

_LONGEST_POINTER = 200


@dataclass(frozen=True)
class File:
    """A file of a commit.

    Attributes
    ----------
    path
        Its path in the repository.
    oid
        The id of its git blob; of the pointer, for an LFS file.
    size
        Its size in bytes; of the content, for an LFS file.
    pointer
        Its LFS pointer, None for a file that git itself holds.
    pointer_size
        The size of the git blob in bytes.
    """

    path: str
    oid: ObjectID
    size: int
    pointer: Pointer | None
    pointer_size: int

    @property
    def etag(self) -> str:
        """What the client names the cached file after: SHA-256 of LFS content, else the git blob id."""
        return self.pointer.sha256 if self.pointer else self.oid.decode()


@dataclass(frozen=True)
class Folder:
    """A folder of a commit: its path and the id of its git tree."""

    path: str
    oid: ObjectID


def walk(git: GitRepository, tree: ObjectID, prefix: str = "", *, recursive: bool) -> Iterator[File | Folder]:
    """Yield what a tree holds, in git's order, each folder before its content."""
    for path, is_folder, oid in _entries(git, tree, prefix, recursive=recursive):
        yield Folder(path, oid) if is_folder else _file(git, path, oid)


def find(git: GitRepository, commit: ObjectID, path: str) -> File | Folder | None:
    """Return what a commit holds at ``path``; the empty path is its root folder."""
    found: File | Folder = Folder("", git.commit(commit).tree)
    for component in path.split("/") if path else []:
        if not isinstance(found, Folder):
            return None
        prefix = f"{found.path}/" if found.path else ""
        try:
            mode, oid = git.tree(found.oid)[component.encode()]
        except KeyError:
            return None
        full = prefix + component
        found = Folder(full, oid) if stat.S_ISDIR(mode) else _file(git, full, oid)
    return found


def file_ids(git: GitRepository, tree: ObjectID) -> dict[str, ObjectID]:
    """Return the blob id of every file below a tree, by path."""
    return {path: oid for path, is_folder, oid in _entries(git, tree, recursive=True) if not is_folder}


def write_tree(git: GitRepository, files: Mapping[str, ObjectID]) -> ObjectID:
    """Store the tree that holds ``files`` (blob id by path) and return its id."""
    tree = Tree()
    folders: dict[str, dict[str, ObjectID]] = {}
    for path, oid in files.items():
        name, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(name, {})[rest] = oid
        else:
            tree.add(name.encode(), FILE_MODE, oid)
    for name, content in folders.items():
        tree.add(name.encode(), _FOLDER_MODE, write_tree(git, content))
    return git.put(tree)


def last_changes(git: GitRepository, commit: ObjectID) -> dict[str, Commit]:
    """Return the commit that last changed each path, file or folder, that ``commit`` holds."""
    changed: dict[str, Commit] = {}
    newer: Commit | None = None
    now = _ids(git, git.commit(commit).tree)
    ids = now
    for ancestor in git.history(commit):
        before = _ids(git, ancestor.tree)
        if newer is not None:
            for path in now.keys() - changed.keys():
                if before.get(path) != ids.get(path):
                    changed[path] = newer
        newer, ids = ancestor, before
    assert newer is not None
    return changed | dict.fromkeys(now.keys() - changed.keys(), newer)


def _ids(git: GitRepository, tree: ObjectID) -> dict[str, ObjectID]:
    return {path: oid for path, _, oid in _entries(git, tree, recursive=True)}


def _entries(
    git: GitRepository, tree: ObjectID, prefix: str = "", *, recursive: bool
) -> Iterator[tuple[str, bool, ObjectID]]:
    for name, mode, oid in git.tree(tree).items():
        assert name is not None
        assert mode is not None
        assert oid is not None
        path = prefix + name.decode()
        is_folder = stat.S_ISDIR(mode)
        yield path, is_folder, oid
        if is_folder and recursive:
            yield from _entries(git, oid, f"{path}/", recursive=True)


def _file(git: GitRepository, path: str, oid: ObjectID) -> File:
    content = git.blob(oid)
    pointer = Pointer.decode(content) if len(content) <= _LONGEST_POINTER else None
    return File(path, oid, pointer.size if pointer else len(content), pointer, len(content))
