"""A published COSEM checkpoint becomes one of the local zoo: downloaded, converted, described, placed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from attrs import evolve, frozen
from huggingface_hub import cached_assets_path
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from cosemzoo.document import Sha256
from cosemzoo.errors import (
    DownloadFailed,
    ImportConflict,
    IntegrityError,
    InvalidCard,
    InvalidSetting,
    UnreadableCheckpoint,
)
from cosemzoo.manifest import MANIFEST_FILE, Lineage, Manifest
from cosemzoo.nets.cosem import WIDTHS_DOWN, WIDTHS_UP
from cosemzoo.nets.recognise import recognise
from cosemzoo.publishing.card import RunCard
from cosemzoo.publishing.conversion import Conversion, convert
from cosemzoo.publishing.cosem import Original, find_original, original_url
from cosemzoo.publishing.download import download, shown
from cosemzoo.publishing.known_cards import known_card
from cosemzoo.publishing.publication import CARD_FILE
from cosemzoo.publishing.publisher import Published
from cosemzoo.publishing.push import push
from cosemzoo.publishing.staging import staging_folder
from cosemzoo.reference import known_runs, tag_of
from cosemzoo.strict_json import show
from cosemzoo.zoo import Checkpoint, Zoo
from cosemzoo.zoo.weights import SINGLE_FILE

# What the lineage of an imported checkpoint says beside the SHA-256 of the original: that of the weights file
# that was made from it, by which a later import knows that it is intact.
_WEIGHTS_SHA256: Final = "weights_sha256"
# What the networks of all runs have in common (Heinrich et al. 2021); the head and what follows the U-Net are
# compared with the run's card.
_PUBLISHED_NETWORK: Final = {
    "input_channels": 1,
    "widths_down": list(WIDTHS_DOWN),
    "widths_up": list(WIDTHS_UP),
    "upsampling": "constant",
}
_FROM_FILE: Final = "give the file with --from-file or --from-dir"
# What the card of the run says, and is compared with.
_OF_THE_RUN: Final = {"channels", "final_upsample", "factors", "activation_on_upsample"}
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
        Whether the weights are made-up numbers, as for tests and demonstrations; the manifest says so. The
        network may then be smaller than the published ones.
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
        If it cannot be downloaded, or there is no room, or the local zoo is no folder.
    UnreadableCheckpoint, UnsafePickle, AliasConflict, NonFiniteValues, UnsupportedModel
        If the original is not what it should be: damaged, of another network, or at odds with the run's card.
    ImportConflict
        If there is another checkpoint of this name in the local zoo, or made-up numbers are there where a
        trained network was asked for, or the reverse.
    IntegrityError
        If there is this one, but damaged.
    InvalidManifest, InvalidSafetensors, WeightsNotFound
        If what is there is no checkpoint.
    OSError
        If files cannot be read or written.
    """
    one = _Import(find_original(reference), zoo, generated, progress)
    one.check_place()
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
        As `push` does.
    """
    reference, folder = imported.checkpoint.reference, imported.checkpoint.folder
    assert folder is not None
    run = reference.run
    repository = f"{namespace}/{run}" if namespace else known_runs()[run]
    return push(f"hf://{repository}@{reference.wanted}", folder, zoo=zoo).published


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

    def check_place(self) -> None:
        """Refuse a local zoo that is no folder."""
        for path in (self._folder, *self._folder.parents):
            if path.exists() and not path.is_dir():
                step = "Give a folder: --local-dir, COSEMZOO_LOCAL_DIR or Zoo(local_dir=…)."
                raise InvalidSetting("local zoo", f"{path} is not a folder", step)

    def there(self) -> Imported | None:
        """Give what was imported before, if it is intact."""
        return None if _is_absent(self._folder) else self._found()

    def _found(self) -> Imported:
        checkpoint = self._zoo.resolve(self._reference)
        found = _digests(checkpoint)
        lineage = None if checkpoint.manifest is None else checkpoint.manifest.lineage
        expected = None if lineage is None else lineage.extra.get(_WEIGHTS_SHA256)
        if not isinstance(expected, str):
            raise self._conflict("holds a checkpoint that was not imported")
        if found != {SINGLE_FILE: expected}:
            step = f"To import it again, remove {self._folder} first."
            digest = found.get(SINGLE_FILE) or "no such file"
            raise IntegrityError(str(self._reference), self._folder / SINGLE_FILE, expected, digest, step)
        if checkpoint.manifest is not None and checkpoint.manifest.generated != self._generated:
            before, now = "a trained network", "made-up numbers (--generated)"
            if checkpoint.manifest.generated:
                before, now = now, before
            raise self._conflict(f"was imported as {before}, and now {now} were asked for")
        return Imported(checkpoint=checkpoint, was_there=True, conversion=None)

    def from_url(self, url: str, *, keep: bool) -> Imported:
        """Download and place it."""
        if self._zoo.offline:
            step = f"Where there is a network, run: cosemzoo import {self.original}; or {_FROM_FILE}."
            raise DownloadFailed(str(self.original), shown(url), "offline mode is on", step)
        downloads = cached_assets_path("cosemzoo", "import", "downloads")
        # Files of two addresses are not taken for each other.
        target = downloads / f"{self.original}-{sha256(url.encode()).hexdigest()[:8]}"
        with WeakFileLock(f"{target}.import.lock"):
            # Another process may have imported it before this one could.
            there = self.there()
            if there is not None:
                return there
            again = f"Run it again: it goes on where it stopped. Where it cannot be reached, {_FROM_FILE}."
            download(url, target, reference=str(self.original), again=again, progress=self._progress)
            try:
                imported = self.place(target, shown(url))
            except ValueError:
                # It is not what it should be. After any other failure, the next import has it already.
                target.unlink()
                raise
            if not keep:
                target.unlink()
        return imported

    def place(self, source: Path, url: str | None) -> Imported:
        """Convert and describe it, and put it where it is found, whole or not at all."""
        with self._staging() as staging:
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
                if _is_absent(self._folder):
                    raise
                was_there = True
        found = self._found()
        digests = _digests(found.checkpoint)
        if digests != {SINGLE_FILE: conversion.sha256}:
            problem = f"holds other weights: SHA-256 {digests[SINGLE_FILE]}, and not {conversion.sha256}"
            raise self._conflict(problem)
        return evolve(found, was_there=was_there, conversion=conversion)

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """Give a folder beside where it goes, so that it can be renamed; a failure leaves nothing of it."""
        place = self._folder.parent / _STAGING
        try:
            with staging_folder(place) as staging:
                yield staging
        finally:
            if _is_absent(self._folder):
                # Unless others are at work there.
                with suppress(OSError):
                    place.rmdir()
                    self._folder.parent.rmdir()

    def _manifest(self, card: RunCard, conversion: Conversion, url: str | None) -> Manifest:
        run = card.description
        architecture = recognise(
            conversion.tensors,
            input_voxel_size=run.input_voxel_size,
            output_voxel_size=run.output_voxel_size,
        )
        source = url or conversion.source
        step = f"Check that it is the file of {self.original}"
        if architecture is None:
            problem = "its tensors are not those of a COSEM U-Net"
            raise UnreadableCheckpoint(source, problem, f"{step}; --from-file takes the original as it is.")
        unusual = [] if self._generated else list(_differences(architecture))
        if unusual:
            step += "; a smaller network of made-up numbers is imported with --generated."
            raise UnreadableCheckpoint(source, f"its {'; '.join(unusual)}", step)
        lineage = Lineage(
            source_url=url,
            source_sha256=Sha256(conversion.source_sha256),
            extra={_WEIGHTS_SHA256: conversion.sha256},
        )
        try:
            return card.manifest(
                conversion.tensors,
                iteration=self.original.iteration,
                architecture=architecture,
                lineage=lineage,
                generated=self._generated,
            )
        except InvalidCard as error:
            said = "; ".join(f"{path} {problem}" for path, problem in error.problems)
            problem = f"it contradicts the card of {self.original.run}: {said}"
            raise UnreadableCheckpoint(source, problem, f"{step}.") from error

    def _conflict(self, problem: str) -> ImportConflict:
        return ImportConflict(str(self._reference), self._folder, problem)


def _differences(architecture: Mapping[str, Any]) -> Iterator[str]:
    """Say where a network is not as the published ones are."""
    for name in sorted((architecture.keys() | _PUBLISHED_NETWORK.keys()) - _OF_THE_RUN):
        found, expected = (one.get(name) for one in (architecture, _PUBLISHED_NETWORK))
        if found != expected:
            yield f"{name} is {show(found)}, where the published networks have {show(expected)}"


def _is_absent(folder: Path) -> bool:
    """Whether there is nothing: no folder, or an empty one, as after a failure of another program."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _digests(checkpoint: Checkpoint) -> dict[str, str | None]:
    return {file.name: file.sha256 for file in checkpoint.files}
