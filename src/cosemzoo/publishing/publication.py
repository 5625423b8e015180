"""What is to be published: a checkpoint, its description, its criterion and other names, all checked."""

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Final

from attrs import evolve, frozen
from huggingface_hub import metadata_load
from yaml import YAMLError  # type: ignore[import-untyped]

from cosemzoo.document import Commit, Sha256, Timestamp
from cosemzoo.errors import InvalidManifest, InvalidReference, PublicationRefused
from cosemzoo.manifest import MANIFEST_FILE, Manifest, Release, check_manifest, read_manifest
from cosemzoo.reference import DEFAULT_CRITERION, Reference, check_criterion, is_iteration
from cosemzoo.zoo import Checkpoint, WeightsFile, Zoo
from cosemzoo.zoo.digests import published_digest
from cosemzoo.zoo.weights import SHARD_INDEX, SINGLE_FILE, shapes_of

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
    manifest : Manifest
    aliases : tuple of str
        Other names that are to mean it.
    weights : mapping of str to str
        SHA-256 of each weights file, by file name.
    shard_index : bytes or None
        The index of the weights, where they are in several files.
    card : bytes or None
        The card; None leaves the one that is there.
    folder : Path or None
        Where the weights files are; None if they are on the Hub already.
    date : str
        ISO 8601.
    make_golden : callable or None
        Makes the golden sample when the weights are about to be committed, and gives its file; None if there
        can be none. It is made this once: another machine's would differ in the last bits.
    """

    reference: Reference
    repository: str
    manifest: Manifest
    aliases: tuple[str, ...]
    weights: Mapping[str, str]
    shard_index: bytes | None
    card: bytes | None
    folder: Path | None
    date: str
    make_golden: Callable[[], Path | None] | None = None

    @property
    def criterion(self) -> str:
        """The criterion itself, not an alias."""
        return self.reference.wanted

    @property
    def texts(self) -> dict[str, bytes]:
        """The small files beside the weights, by name, without the card."""
        index = {} if self.shard_index is None else {SHARD_INDEX: self.shard_index}
        return {MANIFEST_FILE: self.manifest.to_json().encode(), **index}

    def release(self, commit: str) -> Release:
        """Give what the index is to say, with the files in a commit."""
        return Release(
            commit=Commit(commit),
            weights={name: Sha256(digest) for name, digest in self.weights.items()},
            labels=self.manifest.labels,
            date=Timestamp(self.date),
        )


def prepare_folder(
    folder: str | PathLike[str],
    reference: Reference,
    zoo: Zoo,
    aliases: Sequence[str] = (),
    date: str | None = None,
) -> Publication:
    """Check everything about the checkpoint in a folder that can be checked without the Hub.

    Raises
    ------
    PublicationRefused
        If folder, criterion, aliases, date or card cannot be published so.
    CosemZooError
        As `publish` does.
    """
    names = check_request(reference, zoo, aliases)
    when = _timestamp(str(reference), date)
    checkpoint = zoo.resolve(Path(folder))
    place = checkpoint.folder
    assert place is not None
    manifest = _manifest_of(checkpoint, str(Path(folder) / MANIFEST_FILE))
    publication = Publication(
        reference=reference.at(_criterion(reference, manifest.iteration)),
        repository=zoo.repository_of(reference),
        manifest=manifest,
        aliases=names,
        weights=_weights_of(checkpoint),
        shard_index=_read_if_there(place / SHARD_INDEX)
        if SINGLE_FILE not in _weights_of(checkpoint)
        else None,
        card=_read_if_there(place / CARD_FILE),
        folder=place,
        date=when,
    )
    _check_card(publication, place / CARD_FILE)
    return publication


def prepare_published(
    checkpoint: Checkpoint,
    aliases: Sequence[str],
    *,
    manifest: Manifest,
    card: bytes | None,
) -> Publication:
    """Take a checkpoint that is on the Hub for one that is to be named or described otherwise.

    Raises
    ------
    InvalidManifest
        If the manifest contradicts the weights.
    """
    check_manifest(manifest, shapes_of(checkpoint.weights), MANIFEST_FILE)
    return Publication(
        reference=checkpoint.reference.at(checkpoint.criterion),
        repository=str(checkpoint.repository),
        manifest=manifest,
        aliases=tuple(aliases),
        weights=_weights_of(checkpoint),
        shard_index=None,
        card=card,
        folder=None,
        date=_timestamp(str(checkpoint.reference), None),
    )


def check_request(reference: Reference, zoo: Zoo, aliases: Sequence[str]) -> tuple[str, ...]:
    """Check that a reference can be published to, and give the aliases, checked.

    Raises
    ------
    InvalidReference
        If it is not a run on the Hub, or an alias cannot be one.
    PublicationRefused
        If the zoo is offline, or the aliases are one text.
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
    for alias in aliases:
        check_criterion(alias)
        if is_iteration(alias) or reference.at(alias).commit is not None:
            problem = f"{alias!r} cannot be another name: it means an iteration or a commit"
            raise PublicationRefused(asked, problem, "Choose a word, such as best or final.")
    return tuple(dict.fromkeys(aliases))


def differing_texts(
    publication: Publication, published: Mapping[str, WeightsFile], manifest: bytes | None
) -> list[str]:
    """Give the names of the small files that say something else than those that were published.

    The version of cosemzoo that wrote a manifest makes no difference.

    Parameters
    ----------
    publication : Publication
    published : mapping of str to WeightsFile
        The files of a commit.
    manifest : bytes or None
        That commit's manifest.
    """
    different = [] if _says_the_same(publication.manifest, manifest) else [MANIFEST_FILE]
    index = publication.shard_index
    if index is not None and not (SHARD_INDEX in published and is_content(published[SHARD_INDEX], index)):
        different.append(SHARD_INDEX)
    return different


def is_content(file: WeightsFile, content: bytes) -> bool:
    """Whether a file that was published has this content."""
    if file.sha256 is not None:
        return file.sha256 == hashlib.sha256(content).hexdigest()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return published_digest(file) == blob.hexdigest()


def _says_the_same(manifest: Manifest, published: bytes | None) -> bool:
    if published is None:
        return False
    try:
        there = read_manifest(published, MANIFEST_FILE)
    except InvalidManifest:
        return False
    return evolve(there, tool_version=manifest.tool_version) == manifest


def _manifest_of(checkpoint: Checkpoint, source: str) -> Manifest:
    if checkpoint.manifest is None:
        raise InvalidManifest(source, [("$", "is missing, or is not a manifest")])
    return checkpoint.manifest


def _weights_of(checkpoint: Checkpoint) -> dict[str, str]:
    return {file.name: str(file.sha256) for file in checkpoint.files}


def _read_if_there(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


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


def _check_card(publication: Publication, path: Path) -> None:
    if publication.card is None:
        return
    try:
        metadata_load(path)
    except (ValueError, YAMLError) as error:
        problem = f"the metadata of {path} cannot be read ({' '.join(str(error).split())})"
        raise PublicationRefused(str(publication.reference), problem, "Correct the card.") from error
