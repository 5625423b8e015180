"""4: several processes with the same network, after every parameter was read once and before any forward."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from benchmarks.children import Child
from benchmarks.items.from_nothing import building_child
from benchmarks.memory import proportional_bytes, proportional_bytes_of
from benchmarks.rows import Row
from benchmarks.timing import say
from benchmarks.workspace import Workspace

_COUNTS: Final = {"full": (1, 2, 4, 8), "small": (1, 2)}
#: The memory hardly differs between repetitions.
_REPEAT: Final = 3


def rows(work: Workspace, repeat: int) -> list[Row]:
    """Measure it."""
    say("4: processes that share a network")
    weights = work.safetensors.stat().st_size
    result = []
    for count in _COUNTS[work.size]:
        beyond, mapped = [], []
        for number in range(min(repeat, _REPEAT)):
            bare, _ = _total([_bare(work) for _ in range(count)], work)
            total, of_file = _total([_sharing(work) for _ in range(count)], work)
            beyond.append((total - bare) / weights)
            mapped.append(of_file / weights)
            say(f"  {number + 1} with {count}: {beyond[-1]:.3f}, of which the file {mapped[-1]:.3f}")
        processes = f"{count} process{'es' if count > 1 else ''}"
        what = f"{processes}: total PSS beyond as many interpreters with torch / one copy of the weights"
        target = 1.15 if count == 8 else None
        result += [
            Row(item=4, what=what, values=tuple(beyond), at_most=target),
            Row(item=4, what=f"{processes}: of that, the mapped file", values=tuple(mapped)),
        ]
    return result


def _bare(work: Workspace) -> Child:
    return work.child("benchmarks.contestants.bare:prepare")


def _sharing(work: Workspace) -> Child:
    return building_child(work, "share=True", read=True)


def _total(processes: Sequence[Child], work: Workspace) -> tuple[int, int]:
    """Give the proportional set size of all of them together, and the part that is the weights' file."""
    with ExitStack() as stack:
        for child in processes:
            stack.enter_context(child)
        for child in processes:
            child.ready()
            child.go()
        return (
            sum(proportional_bytes(child.pid) for child in processes),
            sum(proportional_bytes_of(child.pid, work.cached_weights) for child in processes),
        )
