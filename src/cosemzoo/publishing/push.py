"""From a training checkpoint to a run on the Hub: convert, describe, publish."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from cosemzoo.checkpoints.dacapo_store import find_stored, stored_channels
from cosemzoo.checkpoints.training import read_training_checkpoint
from cosemzoo.document import Sha256
from cosemzoo.errors import CosemZooWarning, InvalidCard, NonFiniteValues, PublicationRefused
from cosemzoo.manifest import MANIFEST_FILE, Channel, Lineage, Manifest
from cosemzoo.publishing.card import RunCard, read_card
from cosemzoo.publishing.conversion import Conversion, convert
from cosemzoo.publishing.describing import card_for, describe, text_without_card, with_lineage
from cosemzoo.publishing.download import check_url, download, shown
from cosemzoo.publishing.golden import make_golden, why_no_golden
from cosemzoo.publishing.inspection import inspect_values
from cosemzoo.publishing.known_cards import known_card
from cosemzoo.publishing.publication import (
    Publication,
    check_request,
    prepare_folder,
    prepare_published,
)
from cosemzoo.publishing.publish import publish_prepared
from cosemzoo.publishing.publisher import Published
from cosemzoo.publishing.push_request import PushOptions, PushRequest
from cosemzoo.publishing.staging import staging_folder
from cosemzoo.reference import DEFAULT_CRITERION, is_iteration, parse_reference
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.weights import GOLDEN_FILE, SINGLE_FILE

__all__ = ["PushOptions", "Pushed", "push"]

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@frozen(kw_only=True)
class Pushed:
    """What a push did.

    Attributes
    ----------
    published : Published
    manifest : Manifest
    conversion : Conversion or None
        None where the weights were published before, or came converted.
    no_golden : str or None
        Why there can be no golden sample, or could not be made one; None where there is no such reason.
    """

    published: Published
    manifest: Manifest
    conversion: Conversion | None
    no_golden: str | None = None


def push(
    reference: str,
    weights: str | Path | None = None,
    *,
    zoo: Zoo,
    store: Path | None = None,
    options: PushOptions | None = None,
) -> Pushed:
    """Publish a training checkpoint as an iteration of a run.

    Parameters
    ----------
    reference : str
        As what: ``run@iteration``. From a store also a name that the store has, such as ``run@best``: the
        iteration that it means is published, and the name is one of the aliases.
    weights : str or Path, optional
        What `convert` reads, or an address (https://) of such a file, or a folder with a ``config.json``,
        which is published as it is. Without it, a checkpoint that was published before is named or described
        anew.
    zoo : Zoo
        Says to which Hub, and with which token.
    store : Path, optional
        A DaCapo weights store (``runs_base_dir``) to take the weights from instead.
    options : PushOptions, optional

    Returns
    -------
    Pushed

    Raises
    ------
    PublicationRefused
        If what was asked contradicts itself, or what is there; nothing was published.
    InvalidCard, InvalidLineage
        If card or report do not fit the weights.
    UnreadableCheckpoint, UnsafePickle, NonFiniteValues, AliasConflict, UnsafeConversion
        If the weights cannot be converted.
    CosemZooError
        As `publish` and, for the base, `Zoo.resolve` do.
    """
    options = options or PushOptions()
    asked = parse_reference(reference)
    with staging_folder() as folder:
        request = PushRequest(asked=asked, repository=zoo.repository_of(asked), zoo=zoo, options=options)
        one = _Push(request, folder)
        if store is not None and weights is not None:
            step = "Give one of them."
            raise PublicationRefused(reference, "both a file of weights and a store are given", step)
        if store is not None:
            return one.from_store(store)
        if weights is None:
            return one.from_the_hub()
        if _ADDRESS.match(str(weights)):
            return one.from_address(str(weights))
        return one.from_file(Path(weights))


class _Push:
    def __init__(self, request: PushRequest, folder: Path) -> None:
        self._request = request
        self._folder = folder
        self._aliases = check_request(request.asked, request.zoo, request.options.aliases)
        # What the same weights were described as before, and where they came from.
        self._before: Manifest | None = None
        self._source: Lineage | None = None
        self._no_golden: str | None = None

    # --- where the weights come from -----------------------------------------------------------------------

    def from_store(self, store: Path) -> Pushed:
        stored = find_stored(store, self._request.asked.run, self._request.asked.criterion)
        if stored.criterion != str(stored.iteration):
            # A store takes dataset and criterion in both orders, and spells them in one.
            turned = "/".join(reversed(stored.criterion.split("/")))
            name = turned if turned in stored.names else stored.criterion
            self._aliases = tuple(dict.fromkeys([*self._aliases, name]))
        self._request = evolve(self._request, asked=self._request.asked.at(str(stored.iteration)))
        channels = stored_channels(store, self._request.asked.run) or ()
        return self._convert(stored.path, None, [Channel(*channel) for channel in channels])

    def from_address(self, url: str) -> Pushed:
        check_url(url)
        self._check_criterion()
        path = self._folder / "downloaded"
        download(url, path, reference=str(self._request.asked), progress=self._request.options.progress)
        return self._convert(path, url, ())

    def from_file(self, path: Path) -> Pushed:
        if (path / MANIFEST_FILE).is_file():
            publication = prepare_folder(path, self._request.asked, self._request.zoo, self._aliases)
            if self._request.options.card is None:
                return self._as_it_is(path, publication)
            self._before = publication.manifest
        self._check_criterion()
        return self._convert(path, None, ())

    def from_the_hub(self) -> Pushed:
        options = self._request.options
        self._refuse_unused("without weights")
        if options.amend and not (options.card or options.base):
            raise self._request.refused("there is nothing to amend it with", "Give the right card: --card.")
        if not (self._aliases or options.card or options.amend):
            raise self._request.refused(
                "there is nothing to publish", "Give the weights: --weights, or --store."
            )
        checkpoint = self._request.zoo.resolve(self._request.asked)
        if checkpoint.manifest is None:
            raise self._request.refused("it was not published with cosemzoo", "Give its weights: --weights.")
        self._before = manifest = checkpoint.manifest
        text = None
        if options.card is not None:
            card = read_card(options.card)
            # Canonical names alone: the others would be those of another layout.
            shapes = {name: tensor.entry.shape for name, tensor in checkpoint.weights.tensors.items()}
            manifest = self._describe(card, shapes, manifest.iteration)
            text = card.render(manifest, repository=self._request.repository)
        elif options.base is not None or options.generated:
            manifest = with_lineage(self._request, manifest, manifest.lineage)
            manifest = evolve(manifest, generated=manifest.generated or options.generated)
            text = text_without_card(self._request, manifest)
        publication = prepare_published(
            checkpoint, self._aliases, manifest=manifest, card=None if text is None else text.encode()
        )
        return Pushed(published=self._publish(publication), manifest=manifest, conversion=None)

    def _as_it_is(self, folder: Path, publication: Publication) -> Pushed:
        self._refuse_unused(f"for {folder}, which has a {MANIFEST_FILE} and is published as it is")
        manifest = with_lineage(self._request, publication.manifest, publication.manifest.lineage)
        manifest = evolve(manifest, generated=manifest.generated or self._request.options.generated)
        asked = self._request.asked.run
        if manifest.run != asked:
            step = f"Publish it as a checkpoint of {manifest.run!r}, or with the card of {asked!r}."
            raise self._request.refused(f"the {MANIFEST_FILE} of {folder} says run {manifest.run!r}", step)
        tensors = read_training_checkpoint(folder).tensors
        nonfinite = inspect_values(tensors, None, _tell_nobody).nonfinite
        if nonfinite and not self._request.options.allow_nonfinite:
            raise NonFiniteValues(str(folder), nonfinite)
        publication = evolve(publication, manifest=manifest)
        known = known_card(manifest.run)
        if known is not None and publication.card == known.render(manifest).encode():
            # The card of an import: the code in it is to load it from here.
            text = known.render(manifest, repository=self._request.repository)
            publication = evolve(publication, card=text.encode())
        return self._publish_with_golden(publication, folder, nonfinite, None)

    # --- what it becomes -----------------------------------------------------------------------------------

    def _convert(self, source: Path, url: str | None, stored: Sequence[Channel]) -> Pushed:
        options = self._request.options
        channels = [*options.channels] or ([] if options.card else [*stored])
        card = card_for(self._request, channels)
        conversion = convert(
            source,
            self._folder / SINGLE_FILE,
            dtype=options.dtype,
            allow_nonfinite=options.allow_nonfinite,
            progress=options.progress,
        )
        criterion = self._request.asked.wanted
        iteration = int(criterion) if is_iteration(criterion) else None
        if None not in {iteration, conversion.iteration} and iteration != conversion.iteration:
            said = f"the checkpoint itself counts {conversion.iteration} steps of training"
            warnings.warn(f"{self._request.asked}: {said}", CosemZooWarning, stacklevel=2)
        if options.amend:
            self._before = self._request.zoo.resolve(self._request.asked).manifest
        if url is not None:
            digest = Sha256(conversion.source_sha256)
            self._source = Lineage(source_url=shown(url), source_sha256=digest)
        try:
            manifest = self._describe(card, conversion.tensors, iteration)
        except InvalidCard as error:
            if not channels:
                raise
            problem = "; ".join(what for _, what in error.problems)
            step = "Give one label for every row of the head: --labels."
            raise self._request.refused(f"the labels do not fit the weights ({problem})", step) from error
        (self._folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        publication = prepare_folder(self._folder, self._request.asked, self._request.zoo, self._aliases)
        text = (
            text_without_card(self._request, manifest)
            if channels
            else card.render(manifest, repository=self._request.repository)
        )
        publication = evolve(publication, card=None if text is None else text.encode())
        return self._publish_with_golden(publication, self._folder, conversion.nonfinite, conversion)

    def _describe(
        self, card: RunCard, shapes: Mapping[str, tuple[int, ...]], iteration: int | None
    ) -> Manifest:
        return describe(self._request, card, shapes, iteration, before=self._before, source=self._source)

    def _refuse_unused(self, where: str) -> None:
        """Refuse options that nothing would come of."""
        options = self._request.options
        given = {"--dtype": options.dtype, "--labels": options.channels}
        unused = [name for name, value in given.items() if value]
        if unused:
            raise self._request.refused(f"{' and '.join(unused)} cannot be used {where}", "Leave them out.")

    def _publish_with_golden(
        self,
        publication: Publication,
        folder: Path,
        nonfinite: Sequence[object],
        conversion: Conversion | None,
    ) -> Pushed:
        def make() -> Path | None:
            path = self._folder / GOLDEN_FILE
            self._no_golden = make_golden(folder, path)
            return None if self._no_golden else path

        manifest = publication.manifest
        if self._request.options.golden:
            self._no_golden = why_no_golden(manifest, nonfinite)
            publication = evolve(publication, make_golden=None if self._no_golden else make)
        published = self._publish(publication)
        return Pushed(
            published=published, manifest=manifest, conversion=conversion, no_golden=self._no_golden
        )

    def _publish(self, publication: Publication) -> Published:
        options = self._request.options
        return publish_prepared(
            publication,
            self._request.zoo,
            move_aliases=options.move_aliases,
            amend=options.amend,
            private=options.private,
            rehearse=options.rehearse,
        )

    def _check_criterion(self) -> None:
        criterion = self._request.asked.criterion
        if criterion is None or criterion == DEFAULT_CRITERION:
            name = "" if criterion is None else f" --alias {criterion}"
            run = self._request.asked.at("ITERATION")
            raise self._request.refused(
                "it does not say which iteration the weights are", f"Write it: {run}{name}, such as @1820500."
            )


def _tell_nobody(_: int) -> None:
    """Take the bytes done of what nobody waits for."""
