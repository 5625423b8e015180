"""The steps of a publication on the Hub, in the order that keeps readers out of what is half done."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from cosemzoo.errors import (
    AliasTaken,
    AlreadyPublished,
    CosemZooError,
    DescriptionDiffers,
    IntegrityError,
    PublicationRefused,
    without_credentials,
)
from cosemzoo.manifest import INDEX_FILE, MANIFEST_FILE, Index, Release, read_index, read_manifest
from cosemzoo.publishing.publication import CARD_FILE, Publication, differing_texts, is_content
from cosemzoo.publishing.run_repository import (
    MAIN,
    RunRepository,
    State,
    additions,
    is_of_checkpoint,
    retried,
)
from cosemzoo.publishing.staging import staging_folder
from cosemzoo.reference import DEFAULT_CRITERION, tag_of
from cosemzoo.zoo import WeightsFile, Zoo
from cosemzoo.zoo.weights import GOLDEN_FILE, holds_weights

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


class Publisher:
    """Publishes one checkpoint.

    Parameters
    ----------
    publication : Publication
    zoo : Zoo
        Says to which Hub, and with which token it is read back.
    run : RunRepository
    move_aliases : bool
        Whether names may be moved that mean another checkpoint.
    """

    def __init__(self, publication: Publication, zoo: Zoo, run: RunRepository, *, move_aliases: bool) -> None:
        self._publication = publication
        self._reference = str(publication.reference)
        self._criterion = publication.criterion
        self._tag = tag_of(publication.criterion)
        self._zoo = zoo
        self._run = run
        self._move_aliases = move_aliases
        self._changes: list[str] = []
        self._own_tag = False

    def publish(self, *, amend: bool, private: bool, rehearse: bool) -> Published:
        """Take all steps that are not taken yet; parameters and errors are those of `publish`."""
        state = self._run.state()
        self._check_repository(state, private=private)
        known = state.index.criteria.get(self._criterion) if state.index else None
        if known is None and state.head is not None:
            known = self._tagged()
        if known is None and self._publication.folder is None:
            step = "Give its weights: --weights."
            raise PublicationRefused(self._reference, "it was not published yet", step)
        # What can be refused is refused before anything is made or uploaded.
        differing = [] if known is None else self._differing(known.commit, known.weights)
        if known is not None and differing and not amend:
            raise DescriptionDiffers(self._reference, known.weights, known.commit, differing)
        changes = self._main_changes(state, known or self._publication.release(_NO_COMMIT))
        if rehearse:
            return self._rehearsed(state, known, differing, changes)
        if known is None:
            known = self._publish_files(state, private=private)
        else:
            self._tag_again(known)
        release = self._amend(known) if differing else known
        if state.index is None or release != state.index.criteria.get(self._criterion):
            self._read_back(release.commit)
        release = self._update_main(release)
        # What was published is published; the next publication tries again to tidy up.
        with suppress(CosemZooError):
            self._run.remove_leftovers()
        return self._result(release, tuple(self._changes))

    def _check_repository(self, state: State, *, private: bool) -> None:
        repository = self._publication.repository
        if state.head is None:
            return
        if private and not self._run.is_private():
            raise PublicationRefused(
                self._reference,
                f"{repository} is there, and is public",
                "Publish without --private, or make the repository private in its settings first.",
            )
        if state.index is None and any(map(is_of_checkpoint, self._run.files(state.head))):
            raise PublicationRefused(
                self._reference,
                f"{repository} holds a model that was not published with cosemzoo, and would hide it",
                "Publish to a repository of its own.",
            )

    def _rehearsed(
        self, state: State, known: Release | None, differing: Sequence[str], changes: "_MainChanges"
    ) -> Published:
        words = [] if state.head else [f"make the repository {self._publication.repository}"]
        if known is None:
            sent = [*self._publication.weights, *self._publication.texts]
            sent += [GOLDEN_FILE] if self._publication.make_golden else []
            words.append(f"commit {', '.join(sent)}, tagged {self._tag}")
        elif differing:
            words.append(f"amend {', '.join(differing)} of {self._criterion}")
        return evolve(self._result(known, (*words, *changes.words)), rehearsed=True)

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
        make = self._publication.make_golden
        golden = make() if make else None
        return retried(lambda: self._tagged() or self._commit_and_tag(golden))

    def _tagged(self) -> Release | None:
        """Give what a publication left that came as far as the tag, and no further."""
        commit = self._run.tagged(self._tag)
        if commit is None:
            return None
        files = self._run.files(commit)
        weights = {name: str(file.sha256) for name, file in files.items() if holds_weights(name)}
        if not weights:
            raise PublicationRefused(
                self._reference,
                f"{self._publication.repository} has a tag or a branch {self._tag!r} without weights",
                "Delete it, if nobody needs it.",
            )
        if weights != self._publication.weights:
            raise AlreadyPublished(self._reference, weights)
        labels = self._labels_of(commit, files)
        return evolve(self._publication.release(commit), labels=labels)

    def _labels_of(self, commit: str, files: Mapping[str, WeightsFile]) -> tuple[str, ...]:
        if MANIFEST_FILE not in files:
            return ()
        return read_manifest(self._run.read(commit, MANIFEST_FILE), MANIFEST_FILE).labels

    def _commit_and_tag(self, golden: Path | None) -> Release:
        start = self._run.state().head
        folder = self._publication.folder
        assert start is not None
        assert folder is not None
        files = [folder / name for name in self._publication.weights]
        files += [] if golden is None else [golden]
        with self._run.branch(self._tag, start) as branch:
            commit = self._run.commit_files(branch, start, f"Add {self._criterion}", self._texts(), files)
            self._own_tag = self._run.tag(self._tag, commit)
        if self._own_tag:
            self._changes.append(f"committed {self._criterion} as {commit}, tagged {self._tag}")
            self._changes += [] if golden is None else [f"stored {golden.name} with it"]
            return self._publication.release(commit)
        tagged = self._tagged()
        assert tagged is not None
        return tagged

    def _tag_again(self, known: Release) -> None:
        """Tag a checkpoint whose tag is gone."""
        if self._run.tagged(self._tag) is None:
            first = [*known.superseded, known.commit][0]
            self._run.tag(self._tag, first)
            self._changes.append(f"tagged {first} {self._tag} again")

    def _amend(self, known: Release) -> Release:
        number = 2
        while (commit := self._amended(known, f"{self._tag}=v{number}")) is None:
            number += 1
        return _merged(known, self._publication.release(commit))

    def _amended(self, known: Release, tag: str) -> str | None:
        """Give the commit of the amended files under this tag; None where other files have it."""

        def amend() -> str | None:
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
            instead = f"instead of {known.commit}"
            self._changes.append(f"amended {self._criterion}: {commit}, tagged {tag}, {instead}")
            return commit

        return retried(amend)

    def _read_back(self, commit: str) -> None:
        """Fetch what was published as a stranger would, and compare it."""
        with staging_folder() as folder:
            reader = Zoo(endpoint=self._zoo.endpoint, token=self._zoo.token, cache_dir=folder)
            try:
                checkpoint = reader.resolve(f"hf://{self._publication.repository}@{commit}")
                reader.fetch(checkpoint)
                reader.fetch_beside(checkpoint, GOLDEN_FILE)
            except IntegrityError:
                if self._own_tag and self._run.tagged(self._tag) == commit and not self._is_entered(commit):
                    # It must not stay with what cannot be read.
                    self._run.delete_tag(self._tag)
                raise
        weights = {file.name: file.sha256 for file in checkpoint.files}
        if differing := self._differing(commit, weights):
            raise DescriptionDiffers(self._reference, weights, commit, differing)

    def _is_entered(self, commit: str) -> bool:
        index = self._run.state().index
        return index is not None and any(release.commit == commit for release in index.criteria.values())

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
        card = self._publication.card
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
        best = amended.aliases.get(DEFAULT_CRITERION)
        holds_best = best == self._criterion and release.state != "yanked"
        # The card stands beside the files of the best, and describes them.
        card = self._new_card(state) if holds_best or best is None else None
        if card is not None:
            texts[CARD_FILE] = card
            words.append("changed the card")
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
        card = self._publication.card
        return None if card is None or (there is not None and is_content(there, card)) else card


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
