"""Publishing one checkpoint: its files, its tag, its place in the run's index of criteria.

A reader sees a run before or after, never between: the files are committed and tagged first, and the one
commit that moves the index is refused if main has moved. Publishing again after an interruption completes it.
"""

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from attrs import evolve, frozen
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RevisionNotFoundError

from cosemzoo._version import __version__
from cosemzoo.checkpoints.shards import SUFFIX
from cosemzoo.document import Commit, Sha256, Timestamp
from cosemzoo.errors import (
    AlreadyPublished,
    HubUnavailable,
    InvalidManifest,
    InvalidReference,
    PublicationFailed,
)
from cosemzoo.manifest import INDEX_FILE, MANIFEST_FILE, Index, Release, read_index
from cosemzoo.reference import Reference, check_criterion, parse_reference, tag_of
from cosemzoo.zoo import Checkpoint, Zoo
from cosemzoo.zoo.failures import Asked, hub_errors
from cosemzoo.zoo.remote import RemoteRepository
from cosemzoo.zoo.weights import SHARD_INDEX, SINGLE_FILE

CARD_FILE: Final = "README.md"
_BEST: Final = "best"
_MAIN: Final = "main"
_ATTEMPTS: Final = 5

_T = TypeVar("_T")
_Operation = CommitOperationAdd | CommitOperationDelete


def publish(
    folder: Path,
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
    folder : Path
        Holds the weights, their manifest and, if the card is to change, a ``README.md``.
    reference : str
        As what: ``run@criterion``; without a criterion, the manifest's iteration.
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
        What the index says of it; of the earlier publication, if these weights were already there.

    Raises
    ------
    AlreadyPublished
        If the criterion was published before with other weights.
    InvalidReference, NamespaceMissing
        If `reference` is not a run on the Hub, or an alias cannot be one.
    InvalidManifest, InvalidSafetensors, WeightsNotFound, RunNotFound
        If the folder holds no checkpoint with a manifest.
    InvalidIndex
        If the run's index is malformed, or would be with these aliases.
    AccessDenied
        If the Hub does not know this caller as one who may.
    PublicationFailed
        If the Hub refuses it for another reason, or cannot be reached.
    """
    publication = _prepare(folder, parse_reference(reference), zoo, aliases, date)
    asked = Asked(str(publication.reference), publication.repository, zoo.endpoint, zoo.cache_dir)
    try:
        return _Publisher(asked, zoo.token, publication).publish(private=private)
    except HubUnavailable as error:
        raise PublicationFailed(asked.reference, asked.endpoint, error.reason, error.status) from error


@frozen
class _Publication:
    reference: Reference
    repository: str
    run: str
    criterion: str
    aliases: tuple[str, ...]
    checkpoint: Checkpoint
    labels: tuple[str, ...]
    date: str

    @property
    def folder(self) -> Path:
        assert self.checkpoint.folder is not None
        return self.checkpoint.folder

    @property
    def weights(self) -> dict[str, str]:
        return {file.name: file.sha256 or "" for file in self.checkpoint.files}

    @property
    def files(self) -> list[str]:
        index = [SHARD_INDEX] if SINGLE_FILE not in self.weights else []
        return [MANIFEST_FILE, *index, *self.weights]

    def release(self, commit: str) -> Release:
        weights = {name: Sha256(digest) for name, digest in self.weights.items()}
        return Release(commit=Commit(commit), weights=weights, labels=self.labels, date=Timestamp(self.date))


def _prepare(
    folder: Path, reference: Reference, zoo: Zoo, aliases: Sequence[str], date: str | None
) -> _Publication:
    if reference.place != "hub" or reference.commit is not None:
        raise InvalidReference(str(reference), "it does not say as what to publish on the Hub")
    checkpoint = zoo.resolve(Path(folder))
    manifest = checkpoint.manifest
    if manifest is None:
        raise InvalidManifest(str(folder / MANIFEST_FILE), [("$", "is missing, or is not a manifest")])
    criterion = reference.criterion
    if criterion is None and manifest.iteration is not None:
        criterion = str(manifest.iteration)
    if criterion is None:
        raise InvalidReference(str(reference), "neither it nor the manifest gives an iteration")
    return _Publication(
        reference=reference.at(criterion),
        repository=zoo.repository_of(reference),
        run=manifest.run,
        criterion=criterion,
        aliases=tuple(check_criterion(alias) for alias in aliases),
        checkpoint=checkpoint,
        labels=manifest.labels,
        date=date or datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


class _Publisher:
    def __init__(self, asked: Asked, token: str | bool | None, publication: _Publication) -> None:
        self._asked = asked
        self._repository = asked.repository
        self._publication = publication
        self._remote = RemoteRepository(asked, token)
        self._api = HfApi(
            endpoint=asked.endpoint, token=token, library_name="cosemzoo", library_version=__version__
        )

    def publish(self, *, private: bool) -> Release:
        with hub_errors(self._asked):
            self._api.create_repo(self._repository, private=private, exist_ok=True)
        head, index = self._read_main()
        known = index.criteria.get(self._publication.criterion)
        # What can be refused is refused before anything is uploaded.
        self._amended(index, known or self._publication.release(head))
        if known is not None:
            self._check_same(known.weights)
            return self._update_index(known)
        return self._update_index(self._publication.release(self._tagged() or self._commit_and_tag()))

    # --- the iteration -------------------------------------------------------------------------------------

    def _tagged(self) -> str | None:
        """Give the commit of the tag, where an earlier publication came that far."""
        try:
            commit = self._remote.look_up(tag_of(self._publication.criterion), INDEX_FILE).commit
        except RevisionNotFoundError:
            return None
        self._check_same(self._weights_at(commit))
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
        yield branch
        with hub_errors(self._asked):
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
            files = _BEST in self._publication.aliases and self._weights_at(head) != release.weights
            if texts or files:
                names = [self._publication.criterion, *self._publication.aliases]
                self._commit(_MAIN, head, f"Publish {', '.join(names)}", texts, files=files)
            return release

        return _retried(commit_index)

    def _amended(self, index: Index, release: Release) -> Index:
        criterion = self._publication.criterion
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
            return answer.commit, Index(run=self._publication.run, criteria={})
        path = self._remote.download(answer.commit, INDEX_FILE)
        return answer.commit, read_index(path.read_bytes(), f"{self._repository}/{INDEX_FILE}")

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

    def _check_same(self, published: Mapping[str, str | None]) -> None:
        if published != self._publication.weights:
            raise AlreadyPublished(str(self._publication.reference), published)


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
