"""Withdrawing a checkpoint that should not be used, and taking that back."""

from attrs import evolve, frozen

from cosemzoo.errors import CriterionNotFound, InvalidReference, PublicationRefused, RunNotFound
from cosemzoo.manifest import INDEX_FILE, Index, Release
from cosemzoo.publishing.publication import check_request
from cosemzoo.publishing.publish import publishing_errors
from cosemzoo.publishing.run_repository import MAIN, Operation, RunRepository, State, additions, retried
from cosemzoo.reference import DEFAULT_CRITERION, Reference, parse_reference
from cosemzoo.zoo import Zoo
from cosemzoo.zoo.failures import Asked


@frozen(kw_only=True)
class Withdrawal:
    """What withdrawing a checkpoint, or taking that back, did.

    Attributes
    ----------
    reference : str
    repository : str
    release : Release
        What the index says of it now.
    aliases : tuple of str
        The other names that mean it; while it is withdrawn, they mean nothing.
    changed : bool
        Whether it was not so before.
    """

    reference: str
    repository: str
    release: Release
    aliases: tuple[str, ...]
    changed: bool


def yank(reference: str, reason: str, *, zoo: Zoo) -> Withdrawal:
    """Withdraw a checkpoint: it resolves by iteration and commit only, with a warning that says why.

    Its files stay, and so do the names that mean it; until they are moved, they are refused. If it is the
    best one, main no longer holds its files.

    Parameters
    ----------
    reference : str
        The run and the criterion itself, not another name of it.
    reason : str
        Why, in a sentence for whoever asks for it.
    zoo : Zoo

    Raises
    ------
    PublicationRefused
        If there is no reason, or the reference is another name.
    RunNotFound, CriterionNotFound
        If it was not published.
    WriteDenied, PublicationFailed
        If the Hub does not take it.
    """
    words = " ".join(reason.split())
    if not words:
        raise PublicationRefused(reference, "no reason is given", "Say why: --reason '…'.")
    return _change(reference, zoo, words)


def restore(reference: str, *, zoo: Zoo) -> Withdrawal:
    """Take a withdrawal back; parameters and errors are those of `yank`."""
    return _change(reference, zoo, None)


def _change(text: str, zoo: Zoo, reason: str | None) -> Withdrawal:
    reference = parse_reference(text)
    check_request(reference, zoo, ())
    if reference.criterion is None:
        raise InvalidReference(text, "it does not say which iteration")
    asked = Asked(str(reference), zoo.repository_of(reference), zoo.endpoint, zoo.cache_dir)
    run = RunRepository(asked, zoo.token)

    def commit() -> Withdrawal:
        state = run.state()
        criterion, release = _find(state, reference, asked)
        index, head = state.index, state.head
        assert index is not None
        assert head is not None
        changed = evolve(release, state="published" if reason is None else "yanked", reason=reason)
        aliases = tuple(name for name, meant in index.aliases.items() if meant == criterion)
        if changed != release:
            amended = evolve(index, criteria={**index.criteria, criterion: changed})
            operations = additions({INDEX_FILE: amended.to_json().encode()})
            if DEFAULT_CRITERION in aliases:
                operations += _of_best(run, changed, head)
            run.commit(MAIN, head, _message(criterion, reason), operations)
        return Withdrawal(
            reference=str(reference),
            repository=asked.repository,
            release=changed,
            aliases=aliases,
            changed=changed != release,
        )

    with publishing_errors(asked):
        return retried(commit)


def _find(state: State, reference: Reference, asked: Asked) -> tuple[str, Release]:
    criterion = reference.wanted
    if state.head is None:
        hint = "It does not exist, or the present token may not see it: check the spelling, and HF_TOKEN."
        raise RunNotFound(str(reference), f"repository {asked.repository} on {asked.endpoint}", hint)
    if state.index is None:
        hint = "Nothing was published there with cosemzoo."
        raise RunNotFound(
            str(reference), f"index of criteria in {asked.repository} on {asked.endpoint}", hint
        )
    _refuse_alias(state.index, reference)
    if criterion not in state.index.criteria:
        raise CriterionNotFound(str(reference), criterion, list(state.index.criteria))
    return criterion, state.index.criteria[criterion]


def _refuse_alias(index: Index, reference: Reference) -> None:
    meant = index.aliases.get(reference.wanted)
    if meant is not None:
        problem = f"{reference.wanted} is another name, which means {meant} now"
        raise PublicationRefused(
            str(reference), problem, f"Name the checkpoint itself: {reference.at(meant)}"
        )


def _of_best(run: RunRepository, release: Release, head: str) -> list[Operation]:
    # A plain download of main gives the best checkpoint, so it must not give one that was withdrawn.
    return run.deletions(head) if release.state == "yanked" else run.copies(release.commit, head)


def _message(criterion: str, reason: str | None) -> str:
    return f"Restore {criterion}" if reason is None else f"Withdraw {criterion}: {reason}"
