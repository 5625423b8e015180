"""What becomes of each head: which row takes which channel, or why all of its rows stay."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from attrs import frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidHead
from cosemzoo.loading.account import ChannelRow, Shape, TensorRow
from cosemzoo.loading.dtypes import why_not_convertible
from cosemzoo.loading.heads import Head, HeadTensorPair
from cosemzoo.loading.label_map import map_labels
from cosemzoo.loading.labels import Match, WantedChannel, match_channels
from cosemzoo.loading.parametrized import has_dependent_rows
from cosemzoo.loading.plan import Box, Copy, whole
from cosemzoo.loading.vocabularies import Dialects
from cosemzoo.manifest import Channel


@frozen
class HeadPlan:
    """One head and its rows.

    Attributes
    ----------
    head : Head
    rows : tuple of ChannelRow
        Every row of the model's head.
    reasons : dict of str to str
        Why a tensor cannot be copied, by its name in the model; one such tensor keeps the whole head.
    """

    head: Head
    rows: tuple[ChannelRow, ...]
    reasons: dict[str, str]

    @property
    def is_whole(self) -> bool:
        """Whether the head is copied as it is: the same rows in the same order, or assumed to be."""
        first = self.head.source_channels.start
        same = [row.source_row == first + i for i, row in enumerate(self.rows)]
        assumed = any(row.status == "assumed" for row in self.rows)
        return assumed or (all(same) and len(same) == len(self.head.source_channels))


def plan_heads(
    heads: Sequence[Head],
    wanted: Sequence[WantedChannel] | None,
    channels: Sequence[Channel],
    weights: WeightsTable,
    *,
    label_map: Any,
    dialects: Dialects,
) -> tuple[HeadPlan, ...]:
    """Plan every head.

    Parameters
    ----------
    heads : sequence of Head
        The model's heads, in the order in which `wanted` lists their rows.
    wanted : sequence of WantedChannel or None
        None where the model's labels are unknown. Heads of the same channels (a head spread over several
        modules, auxiliary heads) may be listed once for all of them.
    channels : sequence of Channel
        All of the checkpoint's channels; empty where they are unknown.
    weights : WeightsTable
    label_map : LabelMap
        Which channels some of the rows shall take, whatever they are called.
    dialects : Dialects
        What the labels of both sides mean.

    Raises
    ------
    InvalidHead
        With every problem: the wrong number of rows, channels that are ambiguous or not there.
    """
    wanted, problems = map_labels(wanted, label_map)
    without_rows = [head.problem for head in heads if head.problem and wanted is not None]
    if without_rows:
        raise InvalidHead([*problems, *without_rows])
    shares = _shares(heads, wanted)
    if shares is None:
        rows = " + ".join(f"{head.module or 'the head'} {head.rows}" for head in heads)
        total = sum(head.rows for head in heads)
        problems.append(f"new_head has {len(wanted or ())} channels, the model has {total} rows ({rows})")
        # What else is wrong with the labels is said as well.
        shares = [wanted] if len(heads) == 1 else []
    plans = []
    for head, mine in zip(heads, shares, strict=False):
        try:
            plans.append(_plan_head(head, mine, channels, weights, dialects))
        except InvalidHead as error:
            problems.extend(error.problems)
    if problems:
        raise InvalidHead(problems)
    return tuple(plans)


def _shares(
    heads: Sequence[Head], wanted: Sequence[WantedChannel] | None
) -> list[Sequence[WantedChannel] | None] | None:
    """Give each head its part of what is wanted; None where the numbers do not fit."""
    if wanted is None or not heads:
        return [None] * len(heads)
    each = [head.rows for head in heads]
    if len(wanted) == sum(each):
        return [wanted[sum(each[:i]) : sum(each[: i + 1])] for i in range(len(each))]
    spans: dict[tuple[range, int], Sequence[WantedChannel]] = {}
    start = 0
    for head in heads:
        key = head.source_channels, head.rows
        if key not in spans:
            spans[key] = wanted[start : start + head.rows]
            start += head.rows
    return [spans[head.source_channels, head.rows] for head in heads] if len(wanted) == start else None


def head_copies(plan: HeadPlan, pair: HeadTensorPair, weights: WeightsTable) -> list[Copy]:
    """Give the copies that fill one tensor of a head: one for each run of rows that stay side by side."""
    if not pair.sources or plan.reasons:
        return []
    source, target, axis = pair.sources[0], pair.target, pair.axis
    if plan.is_whole:
        return [Copy(source, whole(target.shape), target.name, whole(target.shape))]
    source_shape = weights.tensors[source].entry.shape
    return [
        Copy(
            source,
            _rows(source_shape, axis, there, count),
            target.name,
            _rows(target.shape, axis, here, count),
        )
        for here, there, count in _runs(plan)
    ]


def head_row(
    plan: HeadPlan, pair: HeadTensorPair, weights: WeightsTable, copies: Sequence[Copy]
) -> TensorRow:
    """Account for one tensor of a head."""
    target = pair.target
    entry = weights.tensors[pair.sources[0]].entry if pair.sources else None
    filled = sum(math.prod(stop - start for start, stop in copy.target_box) for copy in copies)
    status: Literal["copied", "remapped", "assumed", "kept"] = "kept"
    reason = ""
    if not pair.sources:
        reason = "not in the checkpoint"
    elif plan.reasons:
        others = ", ".join(name for name in plan.reasons if name != target.name)
        reason = plan.reasons.get(target.name) or f"kept with {others}"
    elif not copies and plan.rows:
        reason = "none of its channels is in the checkpoint"
    elif any(row.status == "assumed" for row in plan.rows):
        status, reason = "assumed", "the model's labels are unknown"
    elif plan.is_whole:
        status = "copied"
    else:
        status = "remapped"
        kept = sum(row.source_row is None for row in plan.rows)
        reason = f"{kept} of {len(plan.rows)} channels are the model's own" if kept else ""
        if pair.tied:
            same = f"{', '.join(pair.tied)} is the same tensor and changes with it"
            reason = "; ".join(filter(None, [reason, same]))
    return TensorRow(
        name=target.name,
        aliases=target.aliases,
        shape=target.shape,
        dtype=target.dtype,
        status=status,
        is_head=True,
        filled=filled,
        source=entry.name if entry else None,
        source_shape=entry.shape if entry else None,
        source_dtype=entry.dtype if entry else None,
        reason=reason,
    )


def _plan_head(
    head: Head,
    wanted: Sequence[WantedChannel] | None,
    channels: Sequence[Channel],
    weights: WeightsTable,
    dialects: Dialects,
) -> HeadPlan:
    reasons = {}
    for pair in head.pairs:
        reason = head.problem or _why_not(pair, weights, by_rows=wanted is not None and len(channels) > 0)
        if reason:
            reasons[pair.target.name] = reason
    offered = [channels[i] for i in head.source_channels]
    if wanted is not None:
        matches = match_channels(wanted, offered, dialects)
        plan = HeadPlan(head, tuple(_matched_rows(head, matches, offered, reasons)), reasons)
        mixed = [pair.target.name for pair in head.pairs if has_dependent_rows(pair.target.name)]
        if mixed and not plan.is_whole and not reasons:
            raise InvalidHead([_why_not_by_rows(name) for name in mixed])
        return plan
    rows = []
    for row in range(head.rows):
        source = offered[row] if row < len(offered) and not reasons else None
        rows.append(
            ChannelRow(
                head=head.module,
                row=row,
                label=None,
                kind=None,
                status="kept" if reasons else "assumed",
                source_row=head.source_channels.start + row if source else None,
                source_label=source.label if source else None,
                source_kind=source.kind if source else None,
                reason="; ".join(dict.fromkeys(reasons.values())),
            )
        )
    return HeadPlan(head, tuple(rows), reasons)


def _matched_rows(
    head: Head, matches: Sequence[Match], offered: Sequence[Channel], reasons: dict[str, str]
) -> Iterator[ChannelRow]:
    for row, match in enumerate(matches):
        source = None if match.source is None or reasons else offered[match.source]
        other_group = _other_group(head, row, match, len(offered))
        if other_group:
            source = None
        reason = match.reason or other_group or "; ".join(dict.fromkeys(reasons.values()))
        yield ChannelRow(
            head=head.module,
            row=row,
            label=match.wanted.label,
            kind=match.wanted.kind or (source.kind if source else None),
            status="loaded" if source else "kept",
            source_row=head.source_channels.start + match.source
            if source and match.source is not None
            else None,
            source_label=source.label if source else None,
            source_kind=source.kind if source else None,
            reason="" if source else reason,
        )


def _other_group(head: Head, row: int, match: Match, offered: int) -> str:
    """Say that a row of a grouped convolution sees other inputs than its channel did; empty for the same."""
    if match.source is None or head.groups == 1:
        return ""
    here, there = row * head.groups // head.rows, match.source * head.groups // offered
    if here == there:
        return ""
    sees = f"this row sees the inputs of group {here}, the checkpoint's {match.wanted} those of group {there}"
    return f"{head.module} is a grouped convolution: {sees}"


def _why_not_by_rows(name: str) -> str:
    mixes = "its weight is computed from all its rows together (spectral_norm or another parametrization)"
    do = "give the checkpoint's channels in their order, or take it away on both sides"
    return f"{name}: rows cannot be taken one by one, {mixes}: {do}"


def _why_not(pair: HeadTensorPair, weights: WeightsTable, *, by_rows: bool) -> str:
    """Say why rows cannot go from the checkpoint's tensor to the model's; empty where they can."""
    if not pair.sources:
        return ""
    entry, target = weights.tensors[pair.sources[0]].entry, pair.target
    source_shape, target_shape = entry.shape, target.shape
    differ = f"shape {list(source_shape)} in the checkpoint, {list(target_shape)} in the model"
    if by_rows:
        if _without(source_shape, pair.axis) != _without(target_shape, pair.axis):
            return differ
    elif source_shape != target_shape:
        return f"{differ}, and no labels to tell the rows apart"
    return why_not_convertible(entry.dtype, target.dtype)


def _without(shape: Shape, axis: int) -> tuple[Shape, Shape]:
    return shape[:axis], shape[axis + 1 :]


def _runs(plan: HeadPlan) -> Iterator[tuple[int, int, int]]:
    """Give (row, source row, count) for each run of rows that are neighbours on both sides."""
    first = plan.head.source_channels.start
    run: tuple[int, int, int] | None = None
    for row, channel in enumerate(plan.rows):
        source = None if channel.source_row is None else channel.source_row - first
        if run and source == run[1] + run[2] and row == run[0] + run[2]:
            run = run[0], run[1], run[2] + 1
            continue
        if run:
            yield run
        run = None if source is None else (row, source, 1)
    if run:
        yield run


def _rows(shape: Shape, axis: int, start: int, count: int) -> Box:
    return tuple((start, start + count) if i == axis else (0, length) for i, length in enumerate(shape))
