"""Publishing one checkpoint: its files, its tag, its place in the run's index of criteria.

A reader sees a run before or after, never between: the files are committed and tagged first, and the one
commit that moves the index is refused if main has moved. Publishing again after an interruption completes it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from typing import Final, TypeVar

from attrs import evolve
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RevisionNotFoundError

from cosemzoo._version import __version__
from cosemzoo.checkpoints.shards import SUFFIX
from cosemzoo.errors import (
    AccessDenied,
    AlreadyPublished,
    CosemZooError,
    DescriptionDiffers,
    HubUnavailable,
    PublicationFailed,
    PublicationRefused,
    RunNotFound,
    WriteDenied,
)
from cosemzoo.manifest import INDEX_FILE, MANIFEST_FILE, Index, Release, read_index
from cosemzoo.publishing.publication import CARD_FILE, Publication, differing_files, prepare
from cosemzoo.reference import parse_reference, tag_of
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.failures import Asked, hub_errors
from cosemzoo.zoo.remote import RemoteRepository
from cosemzoo.zoo.weights import SHARD_INDEX

_BEST: Final = "best"
_MAIN: Final = "main"
_ATTEMPTS: Final = 5
_NO_COMMIT: Final = "0" * 40

_T = TypeVar("_T")
_Operation = CommitOperationAdd | CommitOperationDelete


def publish(
    folder: str | PathLike[str],
    reference: str,
    *,
    zoo: Zoo,
    aliases: Sequence[str] = (_BEST,),
    private: bool = False,
    date: str | None = None,
) -> Release:
    """Publish the checkpoint in a folder.

    Parameters
    ----------
    folder : str or os.PathLike
        Holds the weights, their manifest and, if the card is to change, a ``README.md``.
    reference : str
        As what: ``run``, or ``run@iteration`` with the manifest's iteration; a name only where the manifest
        gives no iteration.
    zoo : Zoo
        Says to which Hub, and with which token.
    aliases : sequence of str
        Other names that are to mean this checkpoint from now on.
    private : bool
        Whether a repository that has to be made is private.
    date : str, optional
        When, in ISO 8601; by default now.

    Returns
    -------
    Release
        What the index says of it; of the earlier publication, if the same files were already there.

    Raises
    ------
    PublicationRefused
        If folder, criterion, repository, aliases, date or card contradict each other or cannot be, or the
        zoo is offline.
    AlreadyPublished
        If the criterion was published before with other weights, or with the same and another manifest
        (`DescriptionDiffers`); the card may change.
    InvalidReference, NamespaceMissing
        If `reference` is not a run on the Hub, or an alias cannot be one.
    InvalidManifest, InvalidSafetensors, WeightsNotFound, RunNotFound
        If the folder holds no checkpoint with a manifest.
    InvalidIndex
        If the run's index is malformed, or would be with these aliases.
    AccessDenied
        If the Hub does not know this caller as one who may (`WriteDenied`), or as one who may read.
    PublicationFailed
        If the Hub refuses it for another reason, or cannot be reached.

    Notes
    -----
    Weights go to the Hub by its LFS protocol, which every Hub has. Where ``hf_xet`` is installed, the client
    says at each upload that it is not used; with ``HF_HUB_DISABLE_XET=1`` in the environment it does not.
    """
    publication = prepare(folder, parse_reference(reference), zoo, aliases, date)
    asked = Asked(str(publication.reference), publication.repository, zoo.endpoint, zoo.cache_dir)
    try:
        return _Publisher(asked, zoo.token, publication).publish(private=private)
    except AccessDenied as error:
        if error.gated:
            raise
        url = f"{asked.endpoint}/{asked.repository}"
        raise WriteDenied(asked.reference, asked.repository, url) from error
    except HubUnavailable as error:
        raise PublicationFailed(asked.reference, asked.endpoint, error.reason, error.status) from error


class _Publisher:
    def __init__(self, asked: Asked, token: str | bool | None, publication: Publication) -> None:
        self._asked = asked
        self._repository = asked.repository
        self._publication = publication
        self._remote = RemoteRepository(asked, token)
        self._api = HfApi(
            endpoint=asked.endpoint, token=token, library_name="cosemzoo", library_version=__version__
        )

    def publish(self, *, private: bool) -> Release:
        exists, index = self._index_before()
        known = index.criteria.get(self._publication.criterion)
        # What can be refused is refused before anything is made or uploaded.
        self._amended(index, known or self._publication.release(_NO_COMMIT))
        if known is not None:
            self._check_same(known.commit, known.weights)
            return self._update_index(known)
        if not exists:
            self._create_repository(private=private)
        return self._update_index(self._publication.release(self._tagged() or self._commit_and_tag()))

    def _index_before(self) -> tuple[bool, Index]:
        """Tell whether the repository exists, and give its index."""
        try:
            return True, self._read_main()[1]
        except RunNotFound:
            return False, self._empty_index()

    def _create_repository(self, *, private: bool) -> None:
        # Not with the client's `exist_ok`: where the Hub refuses, it fails by its own for other endpoints.
        try:
            with hub_errors(self._asked):
                self._api.create_repo(self._repository, private=private)
        except HubUnavailable as error:
            # Another publisher has made it meanwhile.
            if error.status != 409:
                raise

    # --- the iteration -------------------------------------------------------------------------------------

    def _tagged(self) -> str | None:
        """Give the commit of the tag, where an earlier publication came that far."""
        try:
            commit = self._remote.look_up(tag_of(self._publication.criterion), INDEX_FILE).commit
        except RevisionNotFoundError:
            return None
        self._check_same(commit, self._weights_at(commit))
        return commit

    def _commit_and_tag(self) -> str:
        tag = tag_of(self._publication.criterion)
        with self._branch(tag) as branch:

            def commit_files() -> str:
                head = self._remote.look_up(branch, INDEX_FILE).commit
                return self._commit(branch, head, f"Add {self._publication.criterion}", {}, files=True)

            commit = _retried(commit_files)
            with hub_errors(self._asked):
                self._api.create_tag(self._repository, tag=tag, revision=commit)
        return commit

    @contextmanager
    def _branch(self, tag: str) -> Iterator[str]:
        # Main always has the files of `best`: those of another iteration are committed beside it.
        if _BEST in self._publication.aliases:
            yield _MAIN
            return
        branch = f"publish-{tag}"
        with hub_errors(self._asked):
            self._api.create_branch(self._repository, branch=branch, revision=_MAIN, exist_ok=True)
        try:
            yield branch
        except BaseException:
            # Why it failed is said, not that the Hub would not clean up either.
            with suppress(CosemZooError):
                self._delete_branch(branch)
            raise
        self._delete_branch(branch)

    def _delete_branch(self, branch: str) -> None:
        # Another publisher of the same may have deleted it.
        with suppress(RunNotFound, RevisionNotFoundError), hub_errors(self._asked):
            self._api.delete_branch(self._repository, branch=branch)

    # --- the index of criteria -----------------------------------------------------------------------------

    def _update_index(self, release: Release) -> Release:
        def commit_index() -> Release:
            head, index = self._read_main()
            amended = self._amended(index, release)
            texts = {} if amended == index else {INDEX_FILE: amended.to_json().encode()}
            card = self._publication.folder / CARD_FILE
            if card.is_file():
                texts[CARD_FILE] = card.read_bytes()
            # Another publisher may have put the files of another iteration there.
            files = _BEST in self._publication.aliases and not self._is_at(head)
            if texts or files:
                names = [self._publication.criterion, *self._publication.aliases]
                self._commit(_MAIN, head, f"Publish {', '.join(names)}", texts, files=files)
            return release

        return _retried(commit_index)

    def _amended(self, index: Index, release: Release) -> Index:
        criterion = self._publication.criterion
        if index.run != self._publication.run:
            raise PublicationRefused(
                self._asked.reference,
                f"the folder's {MANIFEST_FILE} says run {self._publication.run!r}, "
                f"but the repository {self._repository} holds the run {index.run!r}",
                "Publish it to the repository of its own run.",
            )
        aliases = dict.fromkeys(self._publication.aliases, criterion)
        amended = evolve(
            index,
            criteria={**index.criteria, criterion: release},
            aliases={**index.aliases, **aliases},
        )
        return read_index(amended.to_json().encode(), f"{self._repository}/{INDEX_FILE} with {criterion}")

    def _read_main(self) -> tuple[str, Index]:
        answer = self._remote.look_up(_MAIN, INDEX_FILE)
        if answer.etag is None:
            return answer.commit, self._empty_index()
        path = self._remote.download(answer.commit, INDEX_FILE)
        return answer.commit, read_index(path.read_bytes(), f"{self._repository}/{INDEX_FILE}")

    def _empty_index(self) -> Index:
        return Index(run=self._publication.run, criteria={})

    # --- commits -------------------------------------------------------------------------------------------

    def _commit(
        self, branch: str, head: str, message: str, texts: Mapping[str, bytes], *, files: bool
    ) -> str:
        with ExitStack() as stack:
            operations: list[_Operation] = [CommitOperationAdd(name, text) for name, text in texts.items()]
            if files:
                there = self._remote.files(head)
                stale = [name for name in there if _is_weights(name) and name not in self._publication.files]
                operations.extend(CommitOperationDelete(name) for name in stale)
                for name in self._publication.files:
                    # An open file goes through LFS; a path would need Xet, which not every Hub has.
                    file = stack.enter_context((self._publication.folder / name).open("rb"))
                    operations.append(CommitOperationAdd(name, file))
            with hub_errors(self._asked):
                info = self._api.create_commit(
                    self._repository, operations, commit_message=message, revision=branch, parent_commit=head
                )
        return str(info.oid)

    def _weights_at(self, commit: str) -> dict[str, str | None]:
        files = self._remote.files(commit)
        return {name: file.sha256 for name, file in files.items() if name.endswith(SUFFIX)}

    def _is_at(self, commit: str) -> bool:
        """Whether a commit has the checkpoint's files, and no other weights."""
        files = self._remote.files(commit)
        others = [name for name in files if _is_weights(name) and name not in self._publication.files]
        return not others and not differing_files(self._publication, files)

    def _check_same(self, commit: str, published: Mapping[str, str | None]) -> None:
        reference = str(self._publication.reference)
        if published != self._publication.weights:
            raise AlreadyPublished(reference, published)
        different = differing_files(self._publication, self._remote.files(commit))
        if different:
            raise DescriptionDiffers(reference, published, commit, different)


def _retried(step: Callable[[], _T]) -> _T:
    """Take a step again where main has moved meanwhile (412)."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return step()
        except HubUnavailable as error:
            if error.status != 412:
                raise
    return step()


def _is_weights(name: str) -> bool:
    return name.endswith(SUFFIX) or name == SHARD_INDEX
