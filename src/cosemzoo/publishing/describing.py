"""What pushed weights are described as: the manifest, and the text of the run's card."""

from collections.abc import Mapping, Sequence

from attrs import evolve
from huggingface_hub import ModelCard, ModelCardData

from cosemzoo.errors import InvalidCard
from cosemzoo.manifest import Channel, Lineage, Manifest
from cosemzoo.nets.recognise import recognise
from cosemzoo.publishing.card import RunCard, plain_card, read_card
from cosemzoo.publishing.card_block import RunDescription
from cosemzoo.publishing.known_cards import known_card
from cosemzoo.publishing.lineage import read_lineage
from cosemzoo.publishing.plain_text import NOBODY_WROTE_IT
from cosemzoo.publishing.publish import read_main_card
from cosemzoo.publishing.push_request import PushRequest
from cosemzoo.reference import known_runs


def card_for(request: PushRequest, channels: Sequence[Channel]) -> RunCard:
    """Give the card that describes the run: the caller's, one of the channels given, or a known run's.

    Raises
    ------
    PublicationRefused
        If nothing says what the channels are, or two things do.
    InvalidCard
        If the caller's card cannot be read.
    """
    options, run = request.options, request.asked.run
    if options.card is not None and options.channels:
        step = "The card says the channels: drop --labels."
        raise request.refused("both a card and channels are given", step)
    if options.card is not None:
        return read_card(options.card)
    if channels:
        _check_channels(request, channels)
        description = RunDescription(run=run, channels=tuple(channels))
        return RunCard("the channels given", ModelCardData(), "", description)
    known = known_card(run)
    # Not by its name alone: in another repository, it can be anybody's run.
    if known is None or known_runs().get(run) != request.repository:
        raise request.refused(
            "nothing says what its channels are",
            "Give the run's card (--card), or the labels of its head (--labels mito,er).",
        )
    return known


def describe(
    request: PushRequest,
    card: RunCard,
    shapes: Mapping[str, tuple[int, ...]],
    iteration: int | None,
    *,
    before: Manifest | None,
    source: Lineage | None,
) -> Manifest:
    """Give the manifest of weights.

    Parameters
    ----------
    request : PushRequest
    card : RunCard
    shapes : mapping of str to tuple of int
        Of the tensors, by their canonical names.
    iteration : int or None
    before : Manifest or None
        What the same weights were described as before.
    source : Lineage or None
        Where they came from; None for what was known before.

    Raises
    ------
    InvalidCard
        If the card does not fit the weights, or is another run's.
    PublicationRefused, InvalidLineage
        As `with_lineage`.
    """
    run = card.description
    if run.run != request.asked.run:
        problem = f"is {run.run!r}, but it is to be published as a checkpoint of {request.asked.run!r}"
        raise InvalidCard(card.source, [("$.cosemzoo.run", problem)])
    architecture = recognise(
        shapes, input_voxel_size=run.input_voxel_size, output_voxel_size=run.output_voxel_size
    )
    generated = request.options.generated or (before is not None and before.generated)
    manifest = card.manifest(shapes, iteration=iteration, architecture=architecture, generated=generated)
    return with_lineage(request, manifest, source or (before.lineage if before else None))


def with_lineage(request: PushRequest, manifest: Manifest, lineage: Lineage | None) -> Manifest:
    """Give the manifest with where its weights came from, the base that the caller names included.

    Raises
    ------
    PublicationRefused
        If there is a report without a base.
    InvalidLineage
        If the report is not one of a load from the base.
    """
    options = request.options
    if options.base is None:
        if options.report is not None:
            raise request.refused("a report is given, but no base", "Say what it is the report of: --base.")
        return evolve(manifest, lineage=lineage)
    found = read_lineage(options.report, request.zoo.resolve(options.base), manifest.channels)
    if lineage is not None:
        found = evolve(
            found,
            source_url=lineage.source_url,
            source_sha256=lineage.source_sha256,
            extra=lineage.extra,
        )
    return evolve(manifest, lineage=found)


def text_without_card(request: PushRequest, manifest: Manifest) -> str | None:
    """Give the README of a run whose maintainer gave no card now; None leaves the one that is there."""
    there = read_main_card(request.zoo, str(request.asked), request.repository)
    if there is None or NOBODY_WROTE_IT in there:
        plain = plain_card(manifest, request.repository)
        return plain.render(manifest, repository=request.repository)
    lineage = manifest.lineage
    if lineage is None or lineage.base_repository is None:
        return None
    card = ModelCard(there, ignore_metadata_errors=True)
    card.data["base_model"] = lineage.base_repository
    card.data["base_model_relation"] = "finetune"
    return str(card)


def _check_channels(request: PushRequest, channels: Sequence[Channel]) -> None:
    names = [str(channel) for channel in channels]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = ["one of the labels is empty"] if not all(channel.label for channel in channels) else []
    problems += [f"there is more than one {name}" for name in twice]
    if problems:
        raise request.refused("; ".join(problems), "Give the label of every row of the head once: --labels.")
