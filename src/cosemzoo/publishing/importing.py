"""A published COSEM checkpoint becomes one of the local zoo: downloaded, converted, described, placed."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from attrs import evolve, frozen
from huggingface_hub import cached_assets_path
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from cosemzoo.document import Sha256
from cosemzoo.errors import (
    AlreadyPublished,
    DownloadFailed,
    IntegrityError,
    UnreadableCheckpoint,
    without_credentials,
)
from cosemzoo.manifest import MANIFEST_FILE, Lineage, Manifest
from cosemzoo.nets.recognise import recognise
from cosemzoo.publishing.card import RunCard
from cosemzoo.publishing.conversion import Conversion, convert
from cosemzoo.publishing.cosem import Original, find_original, original_url
from cosemzoo.publishing.download import download
from cosemzoo.publishing.known_cards import known_card
from cosemzoo.publishing.publication import CARD_FILE, prepare_folder
from cosemzoo.publishing.publish import publish_prepared
from cosemzoo.publishing.publisher import Published
from cosemzoo.publishing.staging import staging_folder
from cosemzoo.reference import known_runs, parse_reference, tag_of
from cosemzoo.zoo import Checkpoint, Zoo
from cosemzoo.zoo.weights import SINGLE_FILE

# What the lineage of an imported checkpoint says beside the SHA-256 of the original: that of the weights file
# that was made from it, by which a later import knows that it is intact.
_WEIGHTS_SHA256: Final = "weights_sha256"
# Hidden, so that it is no criterion of the run.
_STAGING: Final = ".importing"


@frozen(kw_only=True)
class Imported:
    """A checkpoint of the local zoo that came from the published originals.

    Attributes
    ----------
    checkpoint : Checkpoint
        As the local zoo finds it now.
    was_there : bool
        Whether it was imported before.
    conversion : Conversion or None
        None where nothing had to be converted.
    """

    checkpoint: Checkpoint
    was_there: bool
    conversion: Conversion | None

    @property
    def reference(self) -> str:
        """What names it now, as in ``local:setup04@1820500``."""
        return str(self.checkpoint.reference)


def import_checkpoint(
    reference: str,
    *,
    zoo: Zoo,
    source: Path | None = None,
    base_url: str | None = None,
    keep_download: bool = False,
    generated: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Put a published COSEM checkpoint into the local zoo.

    Parameters
    ----------
    reference : str
        Which, as in ``setup04@1820500``.
    zoo : Zoo
        Says where the local zoo is.
    source : Path, optional
        The original, where it is on disk already; otherwise it is downloaded.
    base_url : str, optional
        A mirror of the bucket; by default ``COSEMZOO_COSEM_URL``, else the bucket itself.
    keep_download : bool
        Whether the download is kept after it was converted, in the assets cache of huggingface_hub.
    generated : bool
        Whether the weights are made-up numbers, as for tests and demonstrations; the manifest says so.
    progress : callable, optional
        Called with bytes done and all bytes, of downloading and then of converting.

    Returns
    -------
    Imported

    Raises
    ------
    InvalidReference, CriterionNotFound, NotACosemCheckpoint
        If it is none of the published checkpoints.
    InvalidSetting, DownloadFailed, DiskFull
        If it cannot be downloaded, or there is no room.
    UnreadableCheckpoint, UnsafePickle, AliasConflict, NonFiniteValues, UnsupportedModel
        If the original is not what it should be.
    InvalidCard
        If its tensors contradict the run's card.
    AlreadyPublished
        If there is another checkpoint of this name in the local zoo.
    IntegrityError
        If there is this one, but damaged.
    InvalidManifest, InvalidSafetensors, WeightsNotFound
        If what is there is no checkpoint.
    OSError
        If files cannot be read or written.
    """
    one = _Import(find_original(reference), zoo, generated, progress)
    if source is not None:
        return one.place(source, None)
    url = original_url(one.original, base_url)
    return one.there() or one.from_url(url, keep=keep_download)


def push_imported(imported: Imported, *, zoo: Zoo, namespace: str | None = None) -> Published:
    """Publish an imported checkpoint on the Hub, without giving it other names.

    Parameters
    ----------
    imported : Imported
    zoo : Zoo
        Says to which Hub, and with which token.
    namespace : str, optional
        Where; by default the repository that `known_runs` names.

    Raises
    ------
    CosemZooError
        As `publish` does.
    """
    reference, folder = imported.checkpoint.reference, imported.checkpoint.folder
    assert folder is not None
    run = reference.run
    repository = f"{namespace}/{run}" if namespace else known_runs()[run]
    target = parse_reference(f"hf://{repository}@{reference.wanted}")
    publication = prepare_folder(folder, target, zoo, ())
    text = _card_of(run).render(publication.manifest, repository=repository)
    return publish_prepared(evolve(publication, card=text.encode()), zoo)


def _card_of(run: str) -> RunCard:
    card = known_card(run)
    assert card is not None, f"the card of {run} comes with the package"
    return card


class _Import:
    def __init__(
        self, original: Original, zoo: Zoo, generated: bool, progress: Callable[[int, int], None] | None
    ) -> None:
        self.original = original
        self._zoo = zoo
        self._generated = generated
        self._progress = progress
        self._reference = original.reference
        self._folder = zoo.local_dir.absolute() / original.run / tag_of(str(original.iteration))

    def there(self) -> Imported | None:
        """Give what was imported before, if it is intact."""
        if not self._folder.exists():
            return None
        checkpoint = self._zoo.resolve(self._reference)
        found = _digests(checkpoint)
        lineage = None if checkpoint.manifest is None else checkpoint.manifest.lineage
        expected = None if lineage is None else lineage.extra.get(_WEIGHTS_SHA256)
        if not isinstance(expected, str):
            raise AlreadyPublished(str(self._reference), found)
        if found != {SINGLE_FILE: expected}:
            step = f"To import it again, remove {self._folder} first."
            digest = found.get(SINGLE_FILE) or "no such file"
            raise IntegrityError(str(self._reference), self._folder / SINGLE_FILE, expected, digest, step)
        return Imported(checkpoint=checkpoint, was_there=True, conversion=None)

    def from_url(self, url: str, *, keep: bool) -> Imported:
        """Download and place it."""
        if self._zoo.offline:
            raise DownloadFailed(str(self.original), url, "offline mode is on")
        downloads = cached_assets_path("cosemzoo", "import", "downloads")
        # Files of two addresses are not taken for each other.
        target = downloads / f"{self.original}-{sha256(url.encode()).hexdigest()[:8]}"
        with WeakFileLock(f"{target}.import.lock"):
            # Another process may have imported it before this one could.
            there = self.there()
            if there is not None:
                return there
            download(url, target, reference=str(self.original), progress=self._progress)
            try:
                imported = self.place(target, without_credentials(url))
            except ValueError:
                # It is not what it should be. After any other failure, the next import has it already.
                target.unlink()
                raise
            if not keep:
                target.unlink()
        return imported

    def place(self, source: Path, url: str | None) -> Imported:
        """Convert and describe it, and put it where it is found, whole or not at all."""
        # Beside where it goes, so that it can be renamed.
        with staging_folder(self._folder.parent / _STAGING) as staging:
            made = staging / self._folder.name
            made.mkdir()
            conversion = convert(source, made / SINGLE_FILE, progress=self._progress)
            card = _card_of(self.original.run)
            manifest = self._manifest(card, conversion, url)
            (made / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
            (made / CARD_FILE).write_text(card.render(manifest), encoding="utf-8")
            was_there = False
            try:
                made.rename(self._folder)
            except OSError:
                if not self._folder.exists():
                    raise
                was_there = True
        checkpoint = self._zoo.resolve(self._reference)
        if _digests(checkpoint) != {SINGLE_FILE: conversion.sha256}:
            raise AlreadyPublished(str(self._reference), _digests(checkpoint))
        return Imported(checkpoint=checkpoint, was_there=was_there, conversion=conversion)

    def _manifest(self, card: RunCard, conversion: Conversion, url: str | None) -> Manifest:
        run = card.description
        architecture = recognise(
            conversion.tensors,
            input_voxel_size=run.input_voxel_size,
            output_voxel_size=run.output_voxel_size,
        )
        if architecture is None:
            step = f"Check that it is the file of {self.original}; --from-file takes the original as it is."
            problem = "its tensors are not those of a COSEM U-Net"
            raise UnreadableCheckpoint(url or conversion.source, problem, step)
        lineage = Lineage(
            source_url=url,
            source_sha256=Sha256(conversion.source_sha256),
            extra={_WEIGHTS_SHA256: conversion.sha256},
        )
        return card.manifest(
            conversion.tensors,
            iteration=self.original.iteration,
            architecture=architecture,
            lineage=lineage,
            generated=self._generated,
        )


def _digests(checkpoint: Checkpoint) -> dict[str, str | None]:
    return {file.name: file.sha256 for file in checkpoint.files}
