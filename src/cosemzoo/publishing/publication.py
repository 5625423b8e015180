"""What is to be published: a folder's checkpoint, its criterion and other names, all checked."""

import datetime
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Final

from attrs import frozen
from huggingface_hub import metadata_load
from yaml import YAMLError  # type: ignore[import-untyped]

from cosemzoo.document import Commit, Sha256, Timestamp
from cosemzoo.errors import InvalidManifest, InvalidReference, PublicationRefused
from cosemzoo.manifest import MANIFEST_FILE, Release
from cosemzoo.reference import DEFAULT_CRITERION, Reference, check_criterion, is_iteration
from cosemzoo.zoo import Checkpoint, WeightsFile, Zoo
from cosemzoo.zoo.digests import hash_file, published_digest
from cosemzoo.zoo.weights import SHARD_INDEX, SINGLE_FILE

CARD_FILE: Final = "README.md"


@frozen
class Publication:
    """A checkpoint that can be published, as far as that can be known without the Hub.

    Attributes
    ----------
    reference : Reference
        As what, with its criterion.
    repository : str
        ``namespace/repo``.
    run : str
        What the manifest calls the run.
    criterion : str
    aliases : tuple of str
    checkpoint : Checkpoint
    labels : tuple of str
    date : str
    """

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
        """Where the files are."""
        assert self.checkpoint.folder is not None
        return self.checkpoint.folder

    @property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each weights file, by file name."""
        return {file.name: file.sha256 or "" for file in self.checkpoint.files}

    @property
    def files(self) -> list[str]:
        """The names of the files that make the checkpoint: all but the card."""
        index = [SHARD_INDEX] if SINGLE_FILE not in self.weights else []
        return [MANIFEST_FILE, *index, *self.weights]

    def release(self, commit: str) -> Release:
        """Give what the index is to say, with the files in a commit."""
        weights = {name: Sha256(digest) for name, digest in self.weights.items()}
        return Release(commit=Commit(commit), weights=weights, labels=self.labels, date=Timestamp(self.date))


def prepare(
    folder: str | PathLike[str],
    reference: Reference,
    zoo: Zoo,
    aliases: Sequence[str],
    date: str | None,
) -> Publication:
    """Check everything that can be checked without the Hub.

    Raises
    ------
    PublicationRefused
        If folder, criterion, aliases, date or card cannot be published so.
    CosemZooError
        As `publish` does.
    """
    asked = str(reference)
    if reference.place != "hub" or reference.commit is not None:
        raise InvalidReference(asked, "it does not say as what to publish on the Hub")
    if zoo.offline:
        raise PublicationRefused(
            asked,
            "the zoo is offline, and publishing needs the Hub",
            "Use a Zoo that is not, and unset HF_HUB_OFFLINE.",
        )
    if isinstance(aliases, str):
        raise PublicationRefused(
            asked, f"aliases is the text {aliases!r}, not a list of names", f"Use aliases=[{aliases!r}]."
        )
    checked = tuple(check_criterion(alias) for alias in aliases)
    when = _timestamp(asked, date)
    checkpoint = zoo.resolve(Path(folder))
    manifest = checkpoint.manifest
    if manifest is None:
        raise InvalidManifest(str(Path(folder) / MANIFEST_FILE), [("$", "is missing, or is not a manifest")])
    criterion = _criterion(reference, manifest.iteration)
    publication = Publication(
        reference=reference.at(criterion),
        repository=zoo.repository_of(reference),
        run=manifest.run,
        criterion=criterion,
        aliases=checked,
        checkpoint=checkpoint,
        labels=manifest.labels,
        date=when,
    )
    _check_card(publication)
    return publication


def differing_files(publication: Publication, published: dict[str, WeightsFile]) -> list[str]:
    """Give the names of the checkpoint's files that are not what was published under the same name."""
    different = []
    for name in publication.files:
        digest = published_digest(published[name]) if name in published else None
        ours = publication.weights.get(name) or hash_file(publication.folder / name, digest)[0]
        if digest != ours:
            different.append(name)
    return different


def _criterion(reference: Reference, iteration: int | None) -> str:
    criterion = reference.criterion
    if iteration is None:
        if criterion is None:
            raise InvalidReference(str(reference), "neither it nor the manifest gives an iteration")
        if is_iteration(criterion) or criterion == DEFAULT_CRITERION:
            raise PublicationRefused(
                str(reference),
                f"the folder's {MANIFEST_FILE} gives no iteration, so that it cannot be {criterion!r}",
                f"Write the iteration into {MANIFEST_FILE}, or publish under another name, and "
                f"{DEFAULT_CRITERION!r} as one of the aliases.",
            )
        return criterion
    if criterion not in {None, str(iteration)}:
        right = reference.at(str(iteration))
        step = f"Publish it as {right}."
        if criterion is not None and not is_iteration(criterion):
            step = f"Publish it as {right}, with aliases=[{criterion!r}]."
        raise PublicationRefused(
            str(reference), f"the folder's {MANIFEST_FILE} says iteration {iteration}, not {criterion}", step
        )
    return str(iteration)


def _timestamp(asked: str, date: str | None) -> str:
    if date is None:
        return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        datetime.datetime.fromisoformat(date)
    except (TypeError, ValueError) as error:
        step = "Write it as in 2025-01-02T03:04:05+00:00."
        raise PublicationRefused(asked, f"{date!r} is not a date of ISO 8601", step) from error
    return date


def _check_card(publication: Publication) -> None:
    path = publication.folder / CARD_FILE
    try:
        metadata_load(path)
    except FileNotFoundError:
        return
    except (ValueError, YAMLError) as error:
        problem = f"the metadata of {path} cannot be read ({' '.join(str(error).split())})"
        raise PublicationRefused(str(publication.reference), problem, "Correct the card.") from error
