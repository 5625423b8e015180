"""What was measured, as rows of a table: medians, spreads, and the figures to reach."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from attrs import asdict, frozen


@frozen(kw_only=True)
class Row:
    """One figure.

    Attributes
    ----------
    item : int
        The part of the program that it belongs to.
    what : str
    unit : str
        Empty for a ratio or a number.
    values : tuple of float
        One for each repetition; none where it could not be measured.
    at_most, at_least : float or None
        The figure to reach, if there is one.
    note : str
        What has to be known to read it.
    """

    item: int
    what: str
    unit: str = ""
    values: tuple[float, ...] = ()
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""

    @property
    def median(self) -> float | None:
        """The median of the repetitions; None where nothing was measured."""
        return median(self.values) if self.values else None

    @property
    def reached(self) -> bool | None:
        """Whether the median is the figure to reach, or better; None where there is none to compare."""
        if self.median is None or self.at_most is self.at_least is None:
            return None
        if self.at_most is not None:
            return self.median <= self.at_most
        return self.at_least is not None and self.median >= self.at_least

    def to_dict(self) -> dict[str, Any]:
        """Give JSON values."""
        return asdict(self) | {"median": self.median, "reached": self.reached}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Divide repetition by repetition: those that were measured one after the other."""
    return tuple(one / other for one, other in zip(ours, theirs, strict=True))


def takes(values: Sequence[float]) -> str:
    """Say how long the other side of a ratio takes."""
    return f"which takes {_number(median(values))} s"


def table(rows: Iterable[Row]) -> str:
    """Write rows as a table in Markdown."""
    lines = ["| | | median | least … most | n | to reach | |", "|--:|---|--:|--:|--:|--:|---|"]
    for row in rows:
        spread = f"{_number(min(row.values))} … {_number(max(row.values))}" if row.values else ""
        found = "not measured" if row.median is None else f"{_number(row.median)} {row.unit}".rstrip()
        verdict = {True: "reached", False: "**missed**", None: ""}[row.reached]
        said = "; ".join(filter(None, [verdict, row.note]))
        count = len(row.values) or ""
        lines.append(f"| {row.item} | {row.what} | {found} | {spread} | {count} | {_target(row)} | {said} |")
    return "\n".join(lines)


def _target(row: Row) -> str:
    if row.at_most is not None:
        return f"≤ {_number(row.at_most)} {row.unit}".rstrip()
    return "" if row.at_least is None else f"≥ {_number(row.at_least)} {row.unit}".rstrip()


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
