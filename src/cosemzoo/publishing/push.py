"""From a training checkpoint to a run on the Hub: convert, describe, publish."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from attrs import evolve, frozen
from huggingface_hub import ModelCard, ModelCardData

from cosemzoo.checkpoints.dacapo_store import find_stored, stored_channels
from cosemzoo.checkpoints.training import read_training_checkpoint
from cosemzoo.document import Sha256
from cosemzoo.errors import CosemZooWarning, InvalidCard, NonFiniteValues, PublicationRefused
from cosemzoo.manifest import MANIFEST_FILE, Channel, Lineage, Manifest
from cosemzoo.nets.recognise import recognise
from cosemzoo.publishing.card import RunCard, plain_card, read_card
from cosemzoo.publishing.card_block import RunDescription
from cosemzoo.publishing.conversion import Conversion, convert
from cosemzoo.publishing.download import check_url, download, shown
from cosemzoo.publishing.golden import make_golden, why_no_golden
from cosemzoo.publishing.inspection import inspect_values
from cosemzoo.publishing.known_cards import known_card
from cosemzoo.publishing.lineage import read_lineage
from cosemzoo.publishing.plain_text import NOBODY_WROTE_IT
from cosemzoo.publishing.publication import (
    Publication,
    check_request,
    prepare_folder,
    prepare_published,
)
from cosemzoo.publishing.publish import publish_prepared, read_main_card
from cosemzoo.publishing.publisher import Published
from cosemzoo.publishing.staging import staging_folder
from cosemzoo.reference import DEFAULT_CRITERION, Reference, is_iteration, known_runs, parse_reference
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.weights import GOLDEN_FILE, SINGLE_FILE

Progress = Callable[[int, int], None]

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@frozen(kw_only=True)
class PushOptions:
    """What there is to say of a push besides the reference and the weights.

    Attributes
    ----------
    card : Path or None
        The run's card; by default that of a COSEM run, else a plain one.
    channels : sequence of Channel
        Those of the head, in the order of its rows, where there is no card.
    aliases : sequence of str
        Other names that are to mean the checkpoint.
    move_aliases, amend, private, rehearse : bool
        As for `publish`.
    dtype : str or None
        To which the weights are cast; None keeps theirs.
    allow_nonfinite : bool
        Whether NaN and infinities are published.
    base : str or None
        The checkpoint that the run was fine-tuned from.
    report : Path or None
        The JSON of the report that the load from the base returned.
    generated : bool
        Whether the weights are made-up numbers.
    golden : bool
        Whether a golden sample is stored with an iteration that is published for the first time.
    progress : callable or None
        Called with bytes done and all bytes, of downloading and of converting.
    """

    card: Path | None = None
    channels: Sequence[Channel] = ()
    aliases: Sequence[str] = ()
    move_aliases: bool = False
    amend: bool = False
    private: bool = False
    rehearse: bool = False
    dtype: str | None = None
    allow_nonfinite: bool = False
    base: str | None = None
    report: Path | None = None
    generated: bool = False
    golden: bool = True
    progress: Progress | None = None


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
        one = _Push(asked, zoo, options, folder)
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
    def __init__(self, asked: Reference, zoo: Zoo, options: PushOptions, folder: Path) -> None:
        self._asked = asked
        self._zoo = zoo
        self._options = options
        self._folder = folder
        self._aliases = check_request(asked, zoo, options.aliases)
        self._repository = zoo.repository_of(asked)
        # What the same weights were described as before, and where they came from.
        self._before: Manifest | None = None
        self._source: Lineage | None = None
        self._no_golden: str | None = None

    # --- where the weights come from -----------------------------------------------------------------------

    def from_store(self, store: Path) -> Pushed:
        stored = find_stored(store, self._asked.run, self._asked.criterion)
        if stored.criterion != str(stored.iteration):
            # A store takes dataset and criterion in both orders, and spells them in one.
            turned = "/".join(reversed(stored.criterion.split("/")))
            name = turned if turned in stored.names else stored.criterion
            self._aliases = tuple(dict.fromkeys([*self._aliases, name]))
        self._asked = self._asked.at(str(stored.iteration))
        channels = stored_channels(store, self._asked.run) or ()
        return self._convert(stored.path, None, [Channel(*channel) for channel in channels])

    def from_address(self, url: str) -> Pushed:
        check_url(url)
        self._check_criterion()
        path = self._folder / "downloaded"
        download(url, path, reference=str(self._asked), progress=self._options.progress)
        return self._convert(path, url, ())

    def from_file(self, path: Path) -> Pushed:
        if (path / MANIFEST_FILE).is_file():
            publication = prepare_folder(path, self._asked, self._zoo, self._aliases)
            if self._options.card is None:
                return self._as_it_is(path, publication)
            self._before = publication.manifest
        self._check_criterion()
        return self._convert(path, None, ())

    def from_the_hub(self) -> Pushed:
        options = self._options
        self._refuse_unused("without weights")
        if options.amend and not (options.card or options.base):
            raise self._refused("there is nothing to amend it with", "Give the right card: --card.")
        if not (self._aliases or options.card or options.amend):
            raise self._refused("there is nothing to publish", "Give the weights: --weights, or --store.")
        checkpoint = self._zoo.resolve(self._asked)
        if checkpoint.manifest is None:
            raise self._refused("it was not published with cosemzoo", "Give its weights: --weights.")
        self._before = manifest = checkpoint.manifest
        text = None
        if options.card is not None:
            card = read_card(options.card)
            # Canonical names alone: the others would be those of another layout.
            shapes = {name: tensor.entry.shape for name, tensor in checkpoint.weights.tensors.items()}
            manifest = self._describe(card, shapes, manifest.iteration)
            text = card.render(manifest, repository=self._repository)
        elif options.base is not None or options.generated:
            manifest = self._with_lineage(manifest, manifest.lineage)
            manifest = evolve(manifest, generated=manifest.generated or options.generated)
            text = self._card_without_card(manifest)
        publication = prepare_published(
            checkpoint, self._aliases, manifest=manifest, card=None if text is None else text.encode()
        )
        return Pushed(published=self._publish(publication), manifest=manifest, conversion=None)

    def _as_it_is(self, folder: Path, publication: Publication) -> Pushed:
        self._refuse_unused(f"for {folder}, which has a {MANIFEST_FILE} and is published as it is")
        manifest = self._with_lineage(publication.manifest, publication.manifest.lineage)
        manifest = evolve(manifest, generated=manifest.generated or self._options.generated)
        if manifest.run != self._asked.run:
            step = f"Publish it as a checkpoint of {manifest.run!r}, or with the card of {self._asked.run!r}."
            raise self._refused(f"the {MANIFEST_FILE} of {folder} says run {manifest.run!r}", step)
        tensors = read_training_checkpoint(folder).tensors
        nonfinite = inspect_values(tensors, None, _tell_nobody).nonfinite
        if nonfinite and not self._options.allow_nonfinite:
            raise NonFiniteValues(str(folder), nonfinite)
        publication = evolve(publication, manifest=manifest)
        known = known_card(manifest.run)
        if known is not None and publication.card == known.render(manifest).encode():
            # The card of an import: the code in it is to load it from here.
            text = known.render(manifest, repository=self._repository)
            publication = evolve(publication, card=text.encode())
        return self._publish_with_golden(publication, folder, nonfinite, None)

    # --- what it becomes -----------------------------------------------------------------------------------

    def _convert(self, source: Path, url: str | None, stored: Sequence[Channel]) -> Pushed:
        options = self._options
        channels = [*options.channels] or ([] if options.card else [*stored])
        card = self._card(channels)
        conversion = convert(
            source,
            self._folder / SINGLE_FILE,
            dtype=options.dtype,
            allow_nonfinite=options.allow_nonfinite,
            progress=options.progress,
        )
        criterion = self._asked.wanted
        iteration = int(criterion) if is_iteration(criterion) else None
        if None not in {iteration, conversion.iteration} and iteration != conversion.iteration:
            said = f"{self._asked}: the checkpoint itself counts {conversion.iteration} steps of training"
            warnings.warn(said, CosemZooWarning, stacklevel=2)
        if options.amend:
            self._before = self._zoo.resolve(self._asked).manifest
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
            raise self._refused(f"the labels do not fit the weights ({problem})", step) from error
        (self._folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        publication = prepare_folder(self._folder, self._asked, self._zoo, self._aliases)
        text = (
            self._card_without_card(manifest)
            if channels
            else card.render(manifest, repository=self._repository)
        )
        publication = evolve(publication, card=None if text is None else text.encode())
        return self._publish_with_golden(publication, self._folder, conversion.nonfinite, conversion)

    def _card(self, channels: Sequence[Channel]) -> RunCard:
        options, run = self._options, self._asked.run
        if options.card is not None and options.channels:
            step = "The card says the channels: drop --labels."
            raise self._refused("both a card and channels are given", step)
        if options.card is not None:
            return read_card(options.card)
        if channels:
            self._check_channels(channels)
            description = RunDescription(run=run, channels=tuple(channels))
            return RunCard("the channels given", ModelCardData(), "", description)
        known = known_card(run)
        # Not by its name alone: in another repository, it can be anybody's run.
        if known is None or known_runs().get(run) != self._repository:
            raise self._refused(
                "nothing says what its channels are",
                "Give the run's card (--card), or the labels of its head (--labels mito,er).",
            )
        return known

    def _describe(
        self, card: RunCard, shapes: Mapping[str, tuple[int, ...]], iteration: int | None
    ) -> Manifest:
        run = card.description
        if run.run != self._asked.run:
            problem = f"is {run.run!r}, but it is to be published as a checkpoint of {self._asked.run!r}"
            raise InvalidCard(card.source, [("$.cosemzoo.run", problem)])
        architecture = recognise(
            shapes, input_voxel_size=run.input_voxel_size, output_voxel_size=run.output_voxel_size
        )
        before = self._before
        generated = self._options.generated or (before is not None and before.generated)
        manifest = card.manifest(shapes, iteration=iteration, architecture=architecture, generated=generated)
        return self._with_lineage(manifest, self._source or (before.lineage if before else None))

    def _with_lineage(self, manifest: Manifest, lineage: Lineage | None) -> Manifest:
        options = self._options
        if options.base is None:
            if options.report is not None:
                raise self._refused("a report is given, but no base", "Say what it is the report of: --base.")
            return evolve(manifest, lineage=lineage)
        found = read_lineage(options.report, self._zoo.resolve(options.base), manifest.channels)
        if lineage is not None:
            found = evolve(
                found,
                source_url=lineage.source_url,
                source_sha256=lineage.source_sha256,
                extra=lineage.extra,
            )
        return evolve(manifest, lineage=found)

    def _card_without_card(self, manifest: Manifest) -> str | None:
        """Give the card of a run whose maintainer gave none now; None leaves the one that is there."""
        there = read_main_card(self._zoo, str(self._asked), self._repository)
        if there is None or NOBODY_WROTE_IT in there:
            plain = plain_card(manifest, self._repository)
            return plain.render(manifest, repository=self._repository)
        lineage = manifest.lineage
        if lineage is None or lineage.base_repository is None:
            return None
        card = ModelCard(there, ignore_metadata_errors=True)
        card.data["base_model"] = lineage.base_repository
        card.data["base_model_relation"] = "finetune"
        return str(card)

    def _check_channels(self, channels: Sequence[Channel]) -> None:
        names = [str(channel) for channel in channels]
        twice = sorted({name for name in names if names.count(name) > 1})
        problems = ["one of the labels is empty"] if not all(channel.label for channel in channels) else []
        problems += [f"there is more than one {name}" for name in twice]
        if problems:
            raise self._refused(
                "; ".join(problems), "Give the label of every row of the head once: --labels."
            )

    def _refuse_unused(self, where: str) -> None:
        """Refuse options that nothing would come of."""
        options = self._options
        given = {"--dtype": options.dtype, "--labels": options.channels}
        unused = [name for name, value in given.items() if value]
        if unused:
            raise self._refused(f"{' and '.join(unused)} cannot be used {where}", "Leave them out.")

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
        if self._options.golden:
            self._no_golden = why_no_golden(manifest, nonfinite)
            publication = evolve(publication, make_golden=None if self._no_golden else make)
        published = self._publish(publication)
        return Pushed(
            published=published, manifest=manifest, conversion=conversion, no_golden=self._no_golden
        )

    def _publish(self, publication: Publication) -> Published:
        options = self._options
        return publish_prepared(
            publication,
            self._zoo,
            move_aliases=options.move_aliases,
            amend=options.amend,
            private=options.private,
            rehearse=options.rehearse,
        )

    def _check_criterion(self) -> None:
        criterion = self._asked.criterion
        if criterion is None or criterion == DEFAULT_CRITERION:
            name = "" if criterion is None else f" --alias {criterion}"
            run = self._asked.at("ITERATION")
            raise self._refused(
                "it does not say which iteration the weights are", f"Write it: {run}{name}, such as @1820500."
            )

    def _refused(self, problem: str, step: str) -> PublicationRefused:
        return PublicationRefused(str(self._asked), problem, step)


def _tell_nobody(_: int) -> None:
    """Take the bytes done of what nobody waits for."""
