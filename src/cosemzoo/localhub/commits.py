"""A commit as the client sends it (ndjson), and how it becomes a git commit on a branch."""

import base64
import binascii
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dulwich.objects import Blob, Commit, ObjectID

from cosemzoo.localhub.attributes import LARGE_FILE_BYTES
from cosemzoo.localhub.errors import HubError, bad_request, entry_not_found
from cosemzoo.localhub.gitrepo import GitRepository
from cosemzoo.localhub.lfs import LfsStore, Pointer, check_oid
from cosemzoo.localhub.names import check_path
from cosemzoo.localhub.trees import file_ids, write_tree


@dataclass(frozen=True)
class PutFile:
    """Put a small file."""

    path: str
    content: bytes


@dataclass(frozen=True)
class PutLfs:
    """Put a file whose content was uploaded before. A copy names no size."""

    path: str
    oid: str
    size: int | None


@dataclass(frozen=True)
class DeleteFile:
    """Delete a file."""

    path: str


@dataclass(frozen=True)
class DeleteFolder:
    """Delete a folder and all that is in it."""

    path: str


Operation = PutFile | PutLfs | DeleteFile | DeleteFolder


@dataclass(frozen=True)
class CommitRequest:
    """What the client asks for: a message, the parent it expects, and operations in order."""

    message: str
    parent: str | None
    operations: tuple[Operation, ...]

    @classmethod
    def parse(cls, body: bytes) -> "CommitRequest":
        """Read the ndjson body of a commit request."""
        header: tuple[str, str | None] | None = None
        operations: list[Operation] = []
        for number, line in enumerate(body.splitlines(), start=1):
            try:
                item = json.loads(line)
                key, value = item["key"], item["value"]
                if key == "header":
                    header = _header(value)
                else:
                    operations.append(_operation(key, value))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise bad_request(f"Line {number} of the commit is malformed: {error!r}") from error
        if header is None:
            raise bad_request("The commit has no header line.")
        return cls(*header, tuple(operations))


def apply(git: GitRepository, lfs: LfsStore, branch: str, request: CommitRequest, author: str) -> ObjectID:
    """Put one commit on a branch and return its id. Commits on one repository happen one after another.

    Raises
    ------
    HubError
        404 for an unknown branch or a deleted path that is not there, 412 if the branch is not at the
        expected parent, 400 for content or paths that cannot be.
    """
    with git.lock:
        head = git.branch(branch)
        if request.parent is not None and not _is_commit(request.parent, head):
            raise HubError(
                412,
                f"A commit has happened since: {branch!r} is at {head.decode()}, "
                f"the expected parent commit is {request.parent}.",
            )
        files = file_ids(git, git.commit(head).tree)
        for operation in request.operations:
            _apply_operation(git, lfs, files, operation, head)
        _check_folders(files)
        commit = _commit(write_tree(git, files), head, request.message, author)
        git.put(commit)
        git.move_branch(branch, head, commit.id)
    return commit.id


def first_commit(git: GitRepository, files: Mapping[str, bytes], message: str, author: str) -> None:
    """Put the first commit of a new repository on ``main``."""
    blobs = {path: git.put(Blob.from_string(content)) for path, content in files.items()}
    commit = _commit(write_tree(git, blobs), None, message, author)
    git.put(commit)
    git.move_branch("main", None, commit.id)


def _header(value: Mapping[str, Any]) -> tuple[str, str | None]:
    parent = value.get("parentCommit")
    if parent is not None and not isinstance(parent, str):
        raise bad_request(f"parentCommit is a commit id, not {parent!r}.")
    return "\n\n".join(filter(None, [value["summary"], value.get("description")])), parent


def _operation(key: str, value: Mapping[str, Any]) -> Operation:
    path = check_path(value["path"].removesuffix("/"))
    match key:
        case "file":
            if value.get("encoding") != "base64":
                raise bad_request(f"The content of {path} is not base64.")
            try:
                return PutFile(path, base64.b64decode(value["content"], validate=True))
            except binascii.Error as error:
                raise bad_request(f"The content of {path} is not base64.") from error
        case "lfsFile":
            size = value.get("size")
            return PutLfs(path, check_oid(value["oid"]), None if size is None else int(size))
        case "deletedFile":
            return DeleteFile(path)
        case "deletedFolder":
            return DeleteFolder(path)
    raise bad_request(f"The local Hub does not know the commit operation {key!r}.")


def _apply_operation(
    git: GitRepository, lfs: LfsStore, files: dict[str, ObjectID], operation: Operation, head: ObjectID
) -> None:
    match operation:
        case PutFile(path, content):
            files[path] = _put_file(git, lfs, path, content)
        case PutLfs(path, oid, size):
            stored = lfs.size(oid)
            if stored is None or size not in (None, stored):
                raise bad_request(f"{path}: the LFS content {oid} with {size} bytes was not uploaded.")
            files[path] = git.put(Blob.from_string(Pointer(oid, stored).encode()))
        case DeleteFile(path):
            if files.pop(path, None) is None:
                raise _nothing_to_delete("file", path, head)
        case DeleteFolder(path):
            inside = [name for name in files if name.startswith(f"{path}/")]
            if not inside:
                raise _nothing_to_delete("folder", path, head)
            for name in inside:
                del files[name]


def _put_file(git: GitRepository, lfs: LfsStore, path: str, content: bytes) -> ObjectID:
    if len(content) >= LARGE_FILE_BYTES:
        raise bad_request(f"{path} has {len(content)} bytes: files of 10 MiB and more must go through LFS.")
    pointer = Pointer.decode(content)
    if pointer is not None and lfs.size(pointer.sha256) != pointer.size:
        raise bad_request(f"{path} is an LFS pointer to content that was not uploaded.")
    return git.put(Blob.from_string(content))


def _nothing_to_delete(kind: str, path: str, head: ObjectID) -> HubError:
    error = entry_not_found(path, head.decode())
    error.message = f"A {kind} with this name doesn't exist: {path}"
    return error


def _check_folders(files: Mapping[str, ObjectID]) -> None:
    for path in files:
        parts = path.split("/")
        for length in range(1, len(parts)):
            parent = "/".join(parts[:length])
            if parent in files:
                raise bad_request(f"{parent!r} cannot be a file and, for {path!r}, a folder.")


def _is_commit(expected: str, head: ObjectID) -> bool:
    return len(expected) >= 7 and head.decode().startswith(expected)


def _commit(tree: ObjectID, parent: ObjectID | None, message: str, author: str) -> Commit:
    commit = Commit()
    commit.tree = tree
    commit.parents = [parent] if parent else []
    commit.author = commit.committer = f"{author} <{author}@localhub>".encode()
    commit.author_time = commit.commit_time = int(time.time())
    commit.author_timezone = commit.commit_timezone = 0
    commit.encoding = b"UTF-8"
    commit.message = message.encode(errors="replace")
    return commit
