"""A run's repository on the Hub as its maintainers see it: branches, commits, tags, and the index on main."""

import datetime
import io
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

from attrs import frozen
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    constants,
)
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.utils import get_token_to_send, tqdm  # type: ignore[attr-defined]

from cosemzoo._version import __version__
from cosemzoo.checkpoints.shards import SUFFIX
from cosemzoo.errors import CosemZooError, HubUnavailable, RunNotFound
from cosemzoo.manifest import INDEX_FILE, MANIFEST_FILE, Index, read_index
from cosemzoo.zoo import WeightsFile
from cosemzoo.zoo.failures import Asked, hub_errors
from cosemzoo.zoo.remote import RemoteRepository
from cosemzoo.zoo.settings import check_token
from cosemzoo.zoo.weights import SHARD_INDEX

MAIN: Final = "main"
#: What the Hub answers where a branch has moved, or a name is taken.
_MOVED: Final = {409, 412}
_ATTEMPTS: Final = 30
_OWN_BRANCH: Final = re.compile(r"publish-(.+)-[0-9a-f]{8}")
#: After so long, a branch whose commit nobody tagged is no longer being published.
_ABANDONED: Final = datetime.timedelta(days=1)
_LONGEST_PAUSE: Final = 1.0
_SHOW_PROGRESS_BYTES: Final = 16 * 1024 * 1024

_T = TypeVar("_T")
Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete


@frozen
class State:
    """What main is now.

    Attributes
    ----------
    head : str or None
        Its commit; None where there is no repository.
    index : Index or None
        Its index of criteria; None where it has none.
    """

    head: str | None
    index: Index | None


class RunRepository:
    """A run's repository.

    Parameters
    ----------
    asked : Asked
        Which repository, and what for.
    token : str, bool or None
        As everywhere in huggingface_hub.

    Raises
    ------
    RunNotFound, AccessDenied, HubUnavailable, InvalidSetting
        From every method.
    """

    def __init__(self, asked: Asked, token: str | bool | None) -> None:
        self._asked = asked
        self._name = asked.repository
        self._remote = RemoteRepository(asked, token)
        sent = get_token_to_send(token)
        # The HTTP library prints a header that it cannot send, and so the token.
        checked = False if sent is None else check_token(sent)
        self._api = HfApi(
            endpoint=asked.endpoint, token=checked, library_name="cosemzoo", library_version=__version__
        )

    # --- what is there -------------------------------------------------------------------------------------

    def state(self) -> State:
        """Give what main is now."""
        try:
            answer = self._remote.look_up(MAIN, INDEX_FILE)
        except RunNotFound:
            return State(None, None)
        if answer.etag is None:
            return State(answer.commit, None)
        text = self.read(answer.commit, INDEX_FILE)
        return State(answer.commit, read_index(text, f"{self._name}/{INDEX_FILE}"))

    def files(self, commit: str) -> dict[str, WeightsFile]:
        """Give the files of a commit, by name."""
        return self._remote.files(commit)

    def read(self, commit: str, name: str) -> bytes:
        """Give the content of a small file of a commit."""
        return self._remote.download(commit, name).read_bytes()

    def tagged(self, tag: str) -> str | None:
        """Give the commit of a tag; None if there is no such tag."""
        try:
            return self._remote.look_up(tag, INDEX_FILE).commit
        except RevisionNotFoundError:
            return None

    # --- what is made --------------------------------------------------------------------------------------

    def create(self, *, private: bool) -> None:
        """Make the repository; one that another publisher has made meanwhile is taken as it is."""
        # Not with the client's `exist_ok`: where the Hub refuses, it fails by its own for other endpoints.
        try:
            with hub_errors(self._asked):
                self._api.create_repo(self._name, private=private)
        except HubUnavailable as error:
            if error.status not in _MOVED:
                raise

    @contextmanager
    def branch(self, tag: str, start: str) -> Iterator[str]:
        """Give a branch of one's own for the commit that is to have this tag; deleted at the end."""
        branch = f"publish-{tag}-{uuid4().hex[:8]}"
        with hub_errors(self._asked):
            self._api.create_branch(self._name, branch=branch, revision=start)
        try:
            yield branch
        finally:
            # Whether it was published is said, not that the Hub would not clean up.
            with suppress(CosemZooError):
                self._delete_branch(branch)

    def tag(self, tag: str, commit: str) -> bool:
        """Tag a commit; False where the tag is there already, and stays where it is."""
        try:
            with hub_errors(self._asked):
                self._api.create_tag(self._name, tag=tag, revision=commit)
        except HubUnavailable as error:
            if error.status not in _MOVED:
                raise
            return False
        return True

    def delete_tag(self, tag: str) -> None:
        """Delete a tag that nothing refers to yet."""
        with suppress(RevisionNotFoundError, RunNotFound), hub_errors(self._asked):
            self._api.delete_tag(self._name, tag=tag)

    def commit(self, branch: str, parent: str, message: str, operations: Sequence[Operation]) -> str:
        """Commit to a branch that is still at `parent`, and give the commit."""
        with hub_errors(self._asked):
            info = self._api.create_commit(
                self._name, operations, commit_message=message, revision=branch, parent_commit=parent
            )
        return str(info.oid)

    def commit_files(
        self, branch: str, parent: str, message: str, texts: Mapping[str, bytes], files: Sequence[Path]
    ) -> str:
        """Commit a checkpoint's files, and delete what else is there of weights and of the index."""
        names = {*texts, *(path.name for path in files)}
        stale = [
            name
            for name in self.files(parent)
            if (is_of_checkpoint(name) or name == INDEX_FILE) and name not in names
        ]
        with ExitStack() as stack:
            operations = [*additions(texts), *map(CommitOperationDelete, stale)]
            xet = self._has_xet(branch)
            for path in files:
                content = path if xet else stack.enter_context(_Sending(path))
                operations.append(CommitOperationAdd(path.name, content))
            return self.commit(branch, parent, message, operations)

    def copies(self, commit: str, head: str) -> list[Operation]:
        """Give the operations that bring a commit's checkpoint to main, which is at `head`."""
        there, wanted = self.files(head), self.files(commit)
        mine = {name: file for name, file in wanted.items() if is_of_checkpoint(name)}
        copied = [
            CommitOperationCopy(name, name, src_revision=commit)
            for name, file in mine.items()
            if there.get(name) != file
        ]
        return [*copied, *self.deletions(head, keep=mine)]

    def deletions(self, head: str, keep: Mapping[str, object] | None = None) -> list[Operation]:
        """Give the operations that take a checkpoint's files off main, all but those to keep."""
        there = [name for name in self.files(head) if is_of_checkpoint(name) and name not in (keep or {})]
        return [CommitOperationDelete(name) for name in there]

    def remove_leftovers(self) -> None:
        """Delete the branches of publications that died: after their tag was there, or a day ago."""
        with hub_errors(self._asked):
            refs = self._api.list_repo_refs(self._name)
        tags = {ref.name for ref in refs.tags}
        for branch in [ref.name for ref in refs.branches]:
            tag = _OWN_BRANCH.fullmatch(branch)
            if tag and (tag[1] in tags or self._is_old(branch)):
                self._delete_branch(branch)

    def is_private(self) -> bool:
        """Whether others than its owner cannot see it."""
        with hub_errors(self._asked):
            return bool(self._api.model_info(self._name).private)

    def _is_old(self, branch: str) -> bool:
        try:
            with hub_errors(self._asked):
                last = self._api.list_repo_commits(self._name, revision=branch)[0].created_at
        except RevisionNotFoundError:
            # Its publisher was alive, and has deleted it since the branches were listed.
            return False
        return datetime.datetime.now(datetime.UTC) - last > _ABANDONED

    def _delete_branch(self, branch: str) -> None:
        # Another publisher of the same may have deleted it.
        with suppress(RunNotFound, RevisionNotFoundError), hub_errors(self._asked):
            self._api.delete_branch(self._name, branch=branch)

    def _has_xet(self, branch: str) -> bool:
        # The client sends every path by Xet where hf_xet is installed, also to a Hub that has none.
        installed = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
        return installed and self._remote.has_xet(branch)


def retried(step: Callable[[], _T]) -> _T:
    """Take a step again where another publisher was faster."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return step()
        except HubUnavailable as error:
            if error.status not in _MOVED:
                raise
        except RevisionNotFoundError:
            # It had the tag first, and has cleaned up.
            pass
        # At random, so that publishers who collided do not collide again.
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE, attempt / 20)))  # noqa: S311 - no secret
    return step()


def additions(texts: Mapping[str, bytes]) -> list[Operation]:
    """Give the operations that write small files."""
    return [CommitOperationAdd(name, text) for name, text in texts.items()]


def is_of_checkpoint(name: str) -> bool:
    """Whether a file of a repository belongs to the checkpoint that is there."""
    return name.endswith(SUFFIX) or name in {SHARD_INDEX, MANIFEST_FILE}


class _Sending(io.BufferedReader):
    """A file that shows how far it has been read: first for its digest, then for sending it."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        size = path.stat().st_size
        self._progress = tqdm(  # type: ignore[no-untyped-call]
            total=size,
            desc=f"uploading {path.name}",
            unit="B",
            unit_scale=True,
            disable=True if size < _SHOW_PROGRESS_BYTES else None,
        )

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._progress.update(self.tell() - self._progress.n)
        return data

    def close(self) -> None:
        if not self.closed:
            self._progress.close()
        super().close()

    def __exit__(self, *_: Any) -> None:
        self.close()
