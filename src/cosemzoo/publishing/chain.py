"""Where a checkpoint comes from: its base, the base of that, and so on, to the file that was converted."""

from typing import Final

from attrs import evolve, frozen

from cosemzoo.errors import CosemZooError
from cosemzoo.manifest import Lineage
from cosemzoo.publishing.lineage import name_of
from cosemzoo.reference import parse_reference
from cosemzoo.zoo import Checkpoint, Zoo

#: Where a chain is left: a run that was fine-tuned this often has a damaged manifest, or a malicious one.
_LONGEST: Final = 32


@frozen(kw_only=True)
class LineageStep:
    """One checkpoint of a chain.

    Attributes
    ----------
    reference : str
        Its run and criterion, as far as they are known.
    repository, commit : str or None
        Where it is on the Hub.
    content_hash : str or None
        For a folder, SHA-256 of its weights.
    source_url, source_sha256 : str or None
        The file that it was converted from.
    problem : str or None
        Why it could not be had, so that the chain ends here.
    """

    reference: str
    repository: str | None = None
    commit: str | None = None
    content_hash: str | None = None
    source_url: str | None = None
    source_sha256: str | None = None
    problem: str | None = None


def lineage_chain(checkpoint: Checkpoint, zoo: Zoo) -> tuple[LineageStep, ...]:
    """Follow a checkpoint's base, and its base, as far as they can be had.

    A few KB are read of each, from the cache where they are there. A base that cannot be had ends the chain:
    its step says why.

    Parameters
    ----------
    checkpoint : Checkpoint
    zoo : Zoo
        Where the bases are looked up.

    Returns
    -------
    tuple of LineageStep
        The checkpoint itself first, the oldest base last.

    Warns
    -----
    YankedCheckpoint
        If a base was withdrawn.
    StaleAnswer
        If the Hub could not be asked for one, and the cache had it.
    """
    steps: list[LineageStep] = []
    seen: set[tuple[str, ...]] = set()
    current = checkpoint
    while True:
        lineage = current.manifest.lineage if current.manifest else None
        steps.append(_step(current, lineage))
        seen.add(_identity(steps[-1]))
        if lineage is None or not lineage.has_base:
            return tuple(steps)
        recorded = _recorded(lineage)
        if _identity(recorded) in seen:
            return (*steps, evolve(recorded, problem="it is in this chain already"))
        if len(steps) == _LONGEST:
            return (*steps, evolve(recorded, problem="the chain is too long to be followed"))
        try:
            base = _base(recorded, zoo)
        except CosemZooError as error:
            base = str(error).split("\n", maxsplit=1)[0]
        if isinstance(base, str):
            return (*steps, evolve(recorded, problem=base))
        current = base


def _step(checkpoint: Checkpoint, lineage: Lineage | None) -> LineageStep:
    return LineageStep(
        reference=name_of(checkpoint),
        repository=checkpoint.repository,
        commit=checkpoint.commit,
        content_hash=checkpoint.content_hash,
        source_url=lineage.source_url if lineage else None,
        source_sha256=lineage.source_sha256 if lineage else None,
    )


def _recorded(lineage: Lineage) -> LineageStep:
    return LineageStep(
        reference=lineage.base_reference or lineage.base_repository or "a checkpoint without a name",
        repository=lineage.base_repository,
        commit=lineage.base_commit,
        content_hash=lineage.base_content_hash,
    )


def _identity(step: LineageStep) -> tuple[str, ...]:
    # The same weights in two folders can be described in two ways: a hash is a checkpoint only with a name.
    return (step.commit,) if step.commit else (step.reference, step.content_hash or "")


def _base(recorded: LineageStep, zoo: Zoo) -> Checkpoint | str:
    """Give the base, or why it is not looked for."""
    if recorded.repository and recorded.commit:
        return zoo.resolve(parse_reference(f"hf://{recorded.repository}@{recorded.commit}"))
    if not recorded.content_hash:
        return "its commit is not recorded"
    if not recorded.reference.startswith("local:"):
        return "it was in a folder, and where is not recorded"
    found = zoo.resolve(parse_reference(recorded.reference))
    if found.identity != recorded.content_hash:
        return f"the local zoo has other weights of that name, {found.identity}"
    return found
