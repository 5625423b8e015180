"""Publishing one checkpoint: its files, its tag, its place in the run's index of criteria.

A reader sees a run before or after, never between: the files are committed beside main, tagged and read back
first; then one commit moves main, and is refused if main has moved. Publishing again after an interruption
completes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Final

from attrs import evolve, frozen

from cosemzoo.checkpoints.shards import SUFFIX
from cosemzoo.errors import (
    AccessDenied,
    AliasTaken,
    AlreadyPublished,
    DescriptionDiffers,
    HubUnavailable,
    IntegrityError,
    PublicationFailed,
    PublicationRefused,
    WriteDenied,
    without_credentials,
)
from cosemzoo.manifest import INDEX_FILE, MANIFEST_FILE, Index, Release, read_index
from cosemzoo.publishing.publication import (
    CARD_FILE,
    Publication,
    differing_texts,
    is_content,
    prepare_folder,
)
from cosemzoo.publishing.run_repository import MAIN, RunRepository, State, additions, retried
from cosemzoo.publishing.staging import staging_folder
from cosemzoo.reference import DEFAULT_CRITERION, parse_reference, tag_of
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.failures import Asked

_NO_COMMIT: Final = "0" * 40


@frozen(kw_only=True)
class Published:
    """What publishing did.

    Attributes
    ----------
    reference : str
        What names the checkpoint now, with its criterion.
    repository : str
        ``namespace/repo``.
    endpoint : str
    release : Release or None
        What the index says of it; None for a rehearsal that would have made it.
    changes : tuple of str
        Everything that was done, or in a rehearsal would be; empty where all of it was there already.
    rehearsed : bool
        Whether nothing was really done.
    """

    reference: str
    repository: str
    endpoint: str
    release: Release | None
    changes: tuple[str, ...]
    rehearsed: bool = False

    @property
    def commit(self) -> str | None:
        """The commit of the files."""
        return None if self.release is None else self.release.commit


def publish(
    folder: str | PathLike[str],
    reference: str,
    *,
    zoo: Zoo,
    aliases: Sequence[str] = (),
    move_aliases: bool = False,
    amend: bool = False,
    private: bool = False,
    rehearse: bool = False,
    date: str | None = None,
) -> Published:
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
        Other names that are to mean this checkpoint from now on, such as ``best``.
    move_aliases : bool
        Whether they may be names that mean another checkpoint now.
    amend : bool
        Whether the manifest may differ from the one that was published with the same weights.
    private : bool
        Whether a repository that has to be made is private.
    rehearse : bool
        Whether to check everything and do nothing.
    date : str, optional
        When, in ISO 8601; by default now.

    Returns
    -------
    Published
        With what the index says of it, and what was done; nothing, if all of it was there already.

    Raises
    ------
    PublicationRefused
        If folder, criterion, repository, aliases, date or card contradict each other or cannot be, or the
        zoo is offline; `AliasTaken` if aliases mean another checkpoint and are not to be moved.
    AlreadyPublished
        If the criterion was published before with other weights, or with the same and another manifest
        (`DescriptionDiffers`) that is not to be amended; the card may change.
    InvalidReference, NamespaceMissing
        If `reference` is not a run on the Hub, or an alias cannot be one.
    InvalidManifest, InvalidSafetensors, WeightsNotFound, RunNotFound
        If the folder holds no checkpoint with a manifest.
    InvalidIndex
        If the run's index is malformed, or would be with these aliases.
    AccessDenied
        If the Hub does not know this caller as one who may (`WriteDenied`), or as one who may read.
    IntegrityError
        If the Hub gives back other bytes than it was given.
    PublicationFailed
        If the Hub refuses it for another reason, or cannot be reached.
    """
    publication = prepare_folder(folder, parse_reference(reference), zoo, aliases, date)
    return publish_prepared(
        publication, zoo, move_aliases=move_aliases, amend=amend, private=private, rehearse=rehearse
    )


def publish_prepared(
    publication: Publication,
    zoo: Zoo,
    *,
    move_aliases: bool = False,
    amend: bool = False,
    private: bool = False,
    rehearse: bool = False,
) -> Published:
    """Publish what was prepared; parameters and errors are those of `publish`."""
    asked = Asked(str(publication.reference), publication.repository, zoo.endpoint, zoo.cache_dir)
    with publishing_errors(asked):
        publisher = _Publisher(publication, zoo, RunRepository(asked, zoo.token), move_aliases=move_aliases)
        return publisher.publish(amend=amend, private=private, rehearse=rehearse)


@contextmanager
def publishing_errors(asked: Asked) -> Iterator[None]:
    """Say what the Hub refuses as errors of publishing."""
    try:
        yield
    except AccessDenied as error:
        if error.gated:
            raise
        url = f"{asked.endpoint}/{asked.repository}"
        raise WriteDenied(asked.reference, asked.repository, url) from error
    except HubUnavailable as error:
        raise PublicationFailed(asked.reference, asked.endpoint, error.reason, error.status) from error


class _Publisher:
    def __init__(self, publication: Publication, zoo: Zoo, run: RunRepository, *, move_aliases: bool) -> None:
        self._publication = publication
        self._reference = str(publication.reference)
        self._criterion = publication.criterion
        self._tag = tag_of(publication.criterion)
        self._zoo = zoo
        self._run = run
        self._move_aliases = move_aliases
        self._changes: list[str] = []

    def publish(self, *, amend: bool, private: bool, rehearse: bool) -> Published:
        state = self._run.state()
        known = state.index.criteria.get(self._criterion) if state.index else None
        if known is None and self._publication.folder is None:
            step = "Give its weights: --weights."
            raise PublicationRefused(self._reference, "it was not published yet", step)
        # What can be refused is refused before anything is made or uploaded.
        differing = [] if known is None else self._differing(known.commit, known.weights)
        if known is not None and differing and not amend:
            raise DescriptionDiffers(self._reference, known.weights, known.commit, differing)
        if rehearse:
            return self._rehearse(state, known, differing)
        self._main_changes(state, known or self._publication.release(_NO_COMMIT))
        if known is None:
            release = self._publish_files(state, private=private)
        else:
            release = self._amend(known) if differing else known
        release = self._update_main(release)
        self._run.remove_leftovers()
        return self._result(release, tuple(self._changes))

    def _rehearse(self, state: State, known: Release | None, differing: Sequence[str]) -> Published:
        changes = [] if state.head else [f"make the repository {self._publication.repository}"]
        if known is None:
            sent = [*self._publication.weights, *self._publication.texts]
            changes.append(f"commit {', '.join(sent)}, tagged {self._tag}")
        elif differing:
            changes.append(f"amend {', '.join(differing)} of {self._criterion}")
        changes += self._main_changes(state, known or self._publication.release(_NO_COMMIT)).words
        return evolve(self._result(known, tuple(changes)), rehearsed=True)

    def _result(self, release: Release | None, changes: tuple[str, ...]) -> Published:
        return Published(
            reference=self._reference,
            repository=self._publication.repository,
            endpoint=without_credentials(self._zoo.endpoint),
            release=release,
            changes=changes,
        )

    # --- the iteration -------------------------------------------------------------------------------------

    def _publish_files(self, state: State, *, private: bool) -> Release:
        if state.head is None:
            self._run.create(private=private)
            self._changes.append(f"made the repository {self._publication.repository}")
        commit = retried(lambda: self._tagged() or self._commit_and_tag())
        self._read_back(commit, self._tag)
        return self._publication.release(commit)

    def _tagged(self) -> str | None:
        """Give the commit of the tag, where an earlier publication came that far."""
        commit = self._run.tagged(self._tag)
        if commit is None:
            return None
        files = self._run.files(commit)
        weights = {name: file.sha256 for name, file in files.items() if name.endswith(SUFFIX)}
        differing = self._differing(commit, weights)
        if differing:
            raise DescriptionDiffers(self._reference, weights, commit, differing)
        return commit

    def _commit_and_tag(self) -> str:
        start = self._run.state().head
        folder = self._publication.folder
        assert start is not None
        assert folder is not None
        weights = [folder / name for name in self._publication.weights]
        with self._run.branch(self._tag, start) as branch:
            commit = self._run.commit_files(branch, start, f"Add {self._criterion}", self._texts(), weights)
            if not self._run.tag(self._tag, commit):
                return self._tagged_by_another()
        self._changes.append(f"committed {self._criterion} as {commit}, tagged {self._tag}")
        return commit

    def _tagged_by_another(self) -> str:
        commit = self._tagged()
        assert commit is not None
        return commit

    def _amend(self, known: Release) -> Release:
        number = 2
        while (commit := self._amended(known, f"{self._tag}=v{number}")) is None:
            number += 1
        self._read_back(commit, f"{self._tag}=v{number}")
        return _merged(known, self._publication.release(commit))

    def _amended(self, known: Release, tag: str) -> str | None:
        """Give the commit of the amended files under this tag; None where other files have it."""
        there = self._run.tagged(tag)
        if there is not None:
            # An amendment that came that far, and no further.
            old = {known.commit, *known.superseded}
            return None if there in old or self._differing(there, known.weights) else there
        with self._run.branch(tag, known.commit) as branch:
            message = f"Amend {self._criterion}"
            commit = self._run.commit(branch, known.commit, message, additions(self._texts()))
            if not self._run.tag(tag, commit):
                return None
        self._changes.append(f"amended {self._criterion}: {commit}, tagged {tag}, instead of {known.commit}")
        return commit

    def _read_back(self, commit: str, tag: str) -> None:
        """Fetch what was published as a stranger would, and compare it."""
        with staging_folder() as folder:
            reader = Zoo(endpoint=self._zoo.endpoint, token=self._zoo.token, cache_dir=folder)
            checkpoint = reader.resolve(f"hf://{self._publication.repository}@{commit}")
            try:
                reader.fetch(checkpoint)
            except IntegrityError:
                # Nothing refers to the tag yet, and it must not stay with what cannot be read.
                self._run.delete_tag(tag)
                raise
        weights = {file.name: file.sha256 for file in checkpoint.files}
        if differing := self._differing(commit, weights):
            raise DescriptionDiffers(self._reference, weights, commit, differing)

    def _differing(self, commit: str, weights: Mapping[str, str | None]) -> list[str]:
        """Give the small files of a commit that say something else than ours.

        Raises
        ------
        AlreadyPublished
            If its weights are others.
        """
        if weights != self._publication.weights:
            raise AlreadyPublished(self._reference, weights)
        files = self._run.files(commit)
        manifest = self._run.read(commit, MANIFEST_FILE) if MANIFEST_FILE in files else None
        return differing_texts(self._publication, files, manifest)

    def _texts(self) -> dict[str, bytes]:
        card = self._publication.card or self._publication.first_card
        return self._publication.texts | ({} if card is None else {CARD_FILE: card})

    # --- main: the index of criteria, the card, the files of the best --------------------------------------

    def _update_main(self, ours: Release) -> Release:
        def commit() -> tuple[Release, tuple[str, ...]]:
            state = self._run.state()
            assert state.head is not None
            known = state.index.criteria.get(self._criterion) if state.index else None
            release = _merged(known, ours)
            changes = self._main_changes(state, release)
            operations = additions(changes.texts)
            if changes.holds_best:
                operations += self._run.copies(release.commit, state.head)
            if operations:
                names = ", ".join([self._criterion, *self._publication.aliases])
                self._run.commit(MAIN, state.head, f"Publish {names}", operations)
            return release, changes.words

        release, words = retried(commit)
        self._changes += words
        return release

    def _main_changes(self, state: State, release: Release) -> "_MainChanges":
        publication = self._publication
        index = state.index or Index(run=publication.manifest.run, criteria={})
        self._check_run(index)
        moved = self._moved_aliases(index)
        if release.state == "yanked" and publication.aliases:
            raise PublicationRefused(
                self._reference,
                f"it was withdrawn ({release.reason}), and no other name may mean it",
                f"To take that back: cosemzoo yank {self._reference} --undo",
            )
        amended = evolve(
            index,
            criteria={**index.criteria, self._criterion: release},
            aliases={**index.aliases, **dict.fromkeys(publication.aliases, self._criterion)},
        )
        where = f"{publication.repository}/{INDEX_FILE} with {self._criterion}"
        read_index(amended.to_json().encode(), where)
        texts, words = {}, list(moved)
        if amended != index:
            texts[INDEX_FILE] = amended.to_json().encode()
            if self._criterion not in index.criteria:
                words.insert(0, f"entered {self._criterion} into {INDEX_FILE}")
        card = self._new_card(state)
        if card is not None:
            texts[CARD_FILE] = card
            words.append("changed the card")
        holds_best = amended.aliases.get(DEFAULT_CRITERION) == self._criterion and release.state != "yanked"
        return _MainChanges(texts, tuple(words), holds_best)

    def _check_run(self, index: Index) -> None:
        run, repository = self._publication.manifest.run, self._publication.repository
        if index.run != run:
            raise PublicationRefused(
                self._reference,
                f"its {MANIFEST_FILE} says run {run!r}, but the repository {repository} holds the run "
                f"{index.run!r}",
                "Publish it to the repository of its own run.",
            )

    def _moved_aliases(self, index: Index) -> list[str]:
        """Give, in words, which names get or change their meaning.

        Raises
        ------
        AliasTaken
            If one changes it that is not to be moved.
        """
        words, taken = [], {}
        for name in self._publication.aliases:
            before = index.aliases.get(name)
            if before is None:
                words.append(f"named it {name}")
            elif before != self._criterion:
                commit = index.criteria[before].commit
                taken[name] = (before, commit)
                words.append(f"moved {name} from {before} (commit {commit}) to {self._criterion}")
        if taken and not self._move_aliases:
            raise AliasTaken(self._reference, taken)
        return words

    def _new_card(self, state: State) -> bytes | None:
        """Give the card that main is to have, where it has another or none."""
        there = self._run.files(state.head).get(CARD_FILE) if state.head else None
        if there is None:
            return self._publication.card or self._publication.first_card
        card = self._publication.card
        return None if card is None or is_content(there, card) else card


def _merged(known: Release | None, ours: Release) -> Release:
    """Give what the index is to say, others having changed it meanwhile."""
    if known is None:
        return ours
    if ours.commit in {known.commit, *known.superseded}:
        return known
    # Earlier commits stay known, and so does a withdrawal.
    superseded = tuple(dict.fromkeys((*known.superseded, known.commit)))
    return evolve(known, commit=ours.commit, labels=ours.labels, superseded=superseded)


@frozen
class _MainChanges:
    texts: Mapping[str, bytes]
    words: tuple[str, ...]
    holds_best: bool
