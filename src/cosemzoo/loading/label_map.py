"""What `label_map` says: rows of the model that take a channel of another name."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from attrs import evolve

from cosemzoo.errors import did_you_mean
from cosemzoo.loading.labels import ChannelLike, WantedChannel, read_channel

#: What a caller may give as `label_map`: some of the model's channels, and the checkpoint's that each takes
#: (None: keep the model's own values). Of the keys, types say nothing: a `dict[str, …]` would not fit them.
LabelMap: TypeAlias = "Mapping[Any, ChannelLike | None] | None"


def map_labels(
    wanted: Sequence[WantedChannel] | None, label_map: Any
) -> tuple[tuple[WantedChannel, ...] | None, list[str]]:
    """Say which channels rows shall take, where a caller gave a `label_map`.

    A label alone is, as a key, every row of the label; as a value, the channel of the row's own kind.

    Parameters
    ----------
    wanted : sequence of WantedChannel or None
        The model's rows; None where they are unknown.
    label_map : LabelMap

    Returns
    -------
    tuple of WantedChannel or None
        The rows, with the sources that they are given.
    list of str
        Every problem: no mapping, no rows, members that are neither a label nor a pair, a row that there is
        not, a row for which `new_head` says something else.
    """
    rows = None if wanted is None else tuple(wanted)
    if label_map is None:
        return rows, []
    given, problems = _read_label_map(label_map)
    if rows is None:
        if not given:
            return rows, problems
        step = "give new_head=[…] as well, one label for each row of the model's head"
        return rows, [*problems, f"label_map says what rows take, but not which rows there are: {step}"]
    for label, kind in given:
        if not any(row.label == label and kind in (None, row.kind) for row in rows):
            near = did_you_mean(label, [row.label for row in rows])
            problems.append(
                f"label_map names {WantedChannel(label, kind)}, which new_head does not have.{near}"
            )
    mapped = list(rows)
    for i, row in enumerate(rows):
        key = (row.label, row.kind) if (row.label, row.kind) in given else (row.label, None)
        if key not in given:
            continue
        source = given[key]
        if not row.said_by:
            of_kind = None if source is None else evolve(source, kind=source.kind or row.kind)
            mapped[i] = evolve(row, source=of_kind, said_by="label_map")
        elif row.source != source:
            says = f"new_head says {_named(row.source)}, label_map {_named(source)}"
            problems.append(f"{row} is given two sources: {says}")
    return tuple(mapped), problems


def _read_label_map(
    label_map: Any,
) -> tuple[dict[tuple[str, str | None], WantedChannel | None], list[str]]:
    """Give the channels of a `label_map`, and what is wrong with it."""
    if not isinstance(label_map, Mapping):
        what = "not a mapping of the model's labels to the checkpoint's, such as {'new': 'old'}"
        return {}, [f"label_map is {label_map!r}, {what}"]
    given: dict[tuple[str, str | None], WantedChannel | None] = {}
    problems: list[str] = []
    for new, old in label_map.items():
        try:
            key = read_channel(new)
        except ValueError as error:
            problems.append(f"a key of label_map {error}")
            continue
        try:
            source = WantedChannel(*read_channel(old)) if old is not None else None
        except ValueError as error:
            problems.append(f"label_map[{new!r}] {error}")
        else:
            given[key] = source
    return given, problems


def _named(source: WantedChannel | None) -> str:
    return "to keep it" if source is None else str(source)
