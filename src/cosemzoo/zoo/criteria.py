"""What a criterion means in a run's index of criteria."""

import warnings

from attrs import frozen

from cosemzoo.errors import CriterionNotFound, YankedCheckpoint
from cosemzoo.manifest import Index, Release
from cosemzoo.reference import Reference


@frozen
class Choice:
    """A checkpoint of an index.

    Attributes
    ----------
    criterion : str
        Its own name in the index, not an alias.
    release : Release
    """

    criterion: str
    release: Release


def choose(index: Index, reference: Reference) -> Choice:
    """Find the checkpoint that a reference names.

    Raises
    ------
    CriterionNotFound
        If the index does not have it, or an alias leads to a checkpoint that was withdrawn.
    """
    wanted = reference.wanted
    known = [*index.aliases, *index.criteria]
    criterion = index.aliases.get(wanted, wanted)
    release = index.criteria.get(criterion)
    if release is None:
        raise CriterionNotFound(str(reference), wanted, known)
    if release.state == "yanked":
        if wanted in index.aliases:
            others = [name for name in known if _is_published(index, name)]
            note = (
                f"{wanted} means {criterion}, which was withdrawn: {release.reason}. To use it all the same, "
                f"write {reference.at(criterion)}."
            )
            raise CriterionNotFound(str(reference), wanted, others, note)
        warn_of_yank(str(reference), release)
    return Choice(criterion, release)


def choose_commit(index: Index, commit: str) -> Choice | None:
    """Find the checkpoint of a commit; None for a commit that the index does not have."""
    for criterion, release in index.criteria.items():
        if commit in {release.commit, *release.superseded}:
            return Choice(criterion, release)
    return None


def warn_of_yank(reference: str, release: Release) -> None:
    """Warn of a checkpoint that was withdrawn."""
    message = f"{reference} was withdrawn by its maintainers: {release.reason}"
    warnings.warn(message, YankedCheckpoint, stacklevel=2)


def _is_published(index: Index, name: str) -> bool:
    return index.criteria[index.aliases.get(name, name)].state == "published"
