"""Measuring contestants in turn, so that what disturbs the machine disturbs all of them."""

import sys
from collections.abc import Callable, Mapping


def interleave(contestants: Mapping[str, Callable[[], float]], repeat: int) -> dict[str, tuple[float, ...]]:
    """Ask each contestant for a figure, in turn, `repeat` times; give the figures of each in order."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(repeat):
        # Backwards every other time: none always comes after the same one.
        for name in list(contestants)[:: -1 if number % 2 else 1]:
            found[name].append(contestants[name]())
            say(f"  {number + 1}/{repeat} {name}: {found[name][-1]:.4g}")
    return {name: tuple(values) for name, values in found.items()}


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)
