"""5: what a plan costs, by the number of tensors."""

from contextlib import ExitStack
from typing import Final

from benchmarks.rows import Row, ratios
from benchmarks.timing import interleave, say
from benchmarks.workspace import Workspace

_COUNTS: Final = {"full": (100, 1_000, 10_000, 100_000), "small": (100, 1_000)}


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it."""
    say("5: plans")
    cases = {
        f"{what} {count:,} tensors": (count, read)
        for count in _COUNTS[work.size]
        for what, read in (("a plan of", False), ("the same, the model looked through first, of", True))
    }
    fewer, more = (f"{count:,} tensors" for count in _COUNTS[work.size][-2:])
    with ExitStack() as stack:
        children = {}
        for count in _COUNTS[work.size][-2:]:
            child = work.child("benchmarks.contestants.planning:prepare_tuples", count=count)
            children[f"tuples of {count:,} tensors"] = stack.enter_context(child)
        for what, (count, read) in cases.items():
            child = work.child("benchmarks.contestants.planning:prepare", count=count, read=read)
            children[what] = stack.enter_context(child)
        for child in children.values():
            child.ready()
            child.go()
        found = interleave({what: child.go for what, child in children.items()}, repeat)
    result = [
        Row(
            item=5,
            what=what,
            unit="ms",
            values=tuple(1000 * value for value in found[what]),
            at_most=50 if case == (10_000, False) else None,
        )
        for what, case in cases.items()
    ]
    growth = [
        Row(
            item=5,
            what=f"{what} {more} / {fewer}",
            values=ratios(found[f"{what} {more}"], found[f"{what} {fewer}"]),
            note=note,
        )
        for what, note in (
            ("a plan of", "10 is linear"),
            ("tuples of", "only making as many tuples as the plan holds: what memory makes of it"),
        )
    ]
    return [*result, *growth]
