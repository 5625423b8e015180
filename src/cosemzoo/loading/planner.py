"""Making a plan, from names, shapes, dtypes and channels alone: no tensor data is needed."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidHead, InvalidOption
from cosemzoo.loading.account import TensorRow, UnusedTensor
from cosemzoo.loading.dtypes import why_not_convertible
from cosemzoo.loading.garbage import garbage_kept
from cosemzoo.loading.head_plan import HeadPlan, head_copies, head_row, plan_heads
from cosemzoo.loading.heads import HeadNames, find_heads
from cosemzoo.loading.labels import parse_new_head
from cosemzoo.loading.pairing import (
    Pairing,
    TargetTensor,
    check_same_type,
    module_of,
    pair_tensors,
    stored_names,
)
from cosemzoo.loading.plan import Copy, LoadPlan, Strict, whole
from cosemzoo.manifest import Manifest


@garbage_kept()
def make_plan(
    targets: Sequence[TargetTensor],
    weights: WeightsTable,
    manifest: Manifest | None,
    *,
    reference: str = "the checkpoint",
    commit: str | None = None,
    new_head: Any = None,
    head: HeadNames = None,
    strict: Strict = "auto",
    min_coverage: float = 0.5,
) -> LoadPlan:
    """Plan a load.

    Parameters
    ----------
    targets : sequence of TargetTensor
        The model's tensors, each once.
    weights : WeightsTable
        The checkpoint's tensors, each once.
    manifest : Manifest or None
        What the checkpoint says of itself; it must fit `weights`. Without one, channels are unknown.
    reference, commit : str
        For the report.
    new_head : NewHead
        The channels of the model's head; see `cosemzoo.loading.labels`.
    head : HeadNames
        The model's head, where its name is not the manifest's; see `cosemzoo.loading.heads`.
    strict : {"auto", "require", "never"}
        Whether everything must agree; "never" says that a partial load is expected.
    min_coverage : float
        The fraction of the backbone, by tensors and by parameters, that must be filled.

    Raises
    ------
    InvalidHead
        If `new_head` or `head` do not fit the model or the checkpoint.
    AliasConflict
        If names of one tensor have different shapes in the file.
    InvalidOption
        If `strict` or `min_coverage` is none of the values allowed.
    """
    _check_options(strict, min_coverage)
    wanted = parse_new_head(new_head)
    pairing = pair_tensors(targets, weights, manifest.layout if manifest else None)
    heads = find_heads(targets, weights, manifest, pairing, head)
    channels = manifest.channels if manifest else ()
    head_plans = plan_heads(heads, wanted, channels, weights)
    if wanted is not None and not heads:
        raise InvalidHead([_no_head(manifest, targets, pairing)])

    rows: dict[str, TensorRow] = {}
    copies: list[Copy] = []
    sources_of: dict[str, tuple[str, ...]] = {}
    for head_plan in head_plans:
        for pair in head_plan.head.pairs:
            made = head_copies(head_plan, pair, weights)
            copies.extend(made)
            sources_of[pair.target.name] = pair.sources
            rows[pair.target.name] = head_row(head_plan, pair, weights, made)
    of_heads = frozenset().union(*(head.source_names for head in heads))
    for target in targets:
        if target.name in rows:
            continue
        names = pairing.names[target.name]
        if not of_heads.isdisjoint(names):
            names = tuple(name for name in names if name not in of_heads)
        sources = stored_names(names, weights)
        entry = weights.tensors[sources[0]].entry if sources else None
        reason = _why_kept(target, entry)
        if not reason:
            box = whole(target.shape)
            copies.append(Copy(sources[0], box, target.name, box))
        sources_of[target.name] = sources
        rows[target.name] = _backbone_row(target, entry, reason)
    check_same_type(sources_of.values(), weights)
    tensors = tuple(rows[target.name] for target in targets)

    copied = dict.fromkeys(copy.target for copy in copies)
    equal = [(sources_of[name][0], other) for name in copied for other in sources_of[name][1:]]
    used = {name for target in copied for name in sources_of[target]}
    unused = tuple(_unused(weights, used, tensors, sources_of))
    channel_rows = tuple(row for head_plan in head_plans for row in head_plan.rows)
    taken = {row.source_row for row in channel_rows}
    unused_channels = tuple(str(channel) for i, channel in enumerate(channels) if i not in taken)
    differences = tuple(_differences(tensors, head_plans, unused, unused_channels))
    return LoadPlan(
        reference=reference,
        commit=commit,
        outcome="partial" if differences or strict == "never" else "strict",
        tensors=tensors,
        channels=channel_rows,
        unused=unused,
        unused_channels=unused_channels,
        source_layout=pairing.source.layout.name,
        model_layout=pairing.model.layout.name,
        generated=manifest is not None and manifest.generated,
        copies=tuple(copies),
        equal=tuple(dict.fromkeys(equal)),
        differences=differences,
        strict=strict,
        min_coverage=min_coverage,
    )


def _check_options(strict: str, min_coverage: float) -> None:
    if strict not in ("auto", "require", "never"):
        raise InvalidOption("strict", strict, '"require" (all or nothing), "auto" or "never"')
    if not isinstance(min_coverage, (int, float)) or not 0 <= min_coverage <= 1:
        raise InvalidOption("min_coverage", min_coverage, "a fraction from 0 to 1")


def _no_head(manifest: Manifest | None, targets: Sequence[TargetTensor], pairing: Pairing) -> str:
    unmatched = [target.name for target in targets if not pairing.names[target.name]]
    modules = list(dict.fromkeys(module_of(name) for name in unmatched))
    looks = f"; perhaps head={modules[-1]!r}" if modules else ""
    if manifest is None:
        return (
            f"new_head was given, but the checkpoint does not say which tensors are its head: name it{looks}"
        )
    names = ", ".join(tensor.name for tensor in manifest.head) or "none"
    return f"new_head was given, but the model has no head of the checkpoint's name ({names}): name it{looks}"


def _why_kept(target: TargetTensor, entry: TensorEntry | None) -> str:
    if entry is None:
        return "not in the checkpoint"
    if entry.shape != target.shape:
        return f"shape {list(entry.shape)} in the checkpoint, {list(target.shape)} in the model"
    return why_not_convertible(entry.dtype, target.dtype)


def _backbone_row(target: TargetTensor, entry: TensorEntry | None, reason: str) -> TensorRow:
    return TensorRow(
        name=target.name,
        aliases=target.aliases,
        shape=target.shape,
        dtype=target.dtype,
        status="kept" if reason else "copied",
        is_head=False,
        filled=0 if reason else math.prod(target.shape),
        source=entry.name if entry else None,
        source_shape=entry.shape if entry else None,
        source_dtype=entry.dtype if entry else None,
        reason=reason,
    )


def _unused(
    weights: WeightsTable,
    used: set[str],
    tensors: Sequence[TensorRow],
    sources_of: Mapping[str, Sequence[str]],
) -> Iterator[UnusedTensor]:
    kept = {name: row for row in tensors if row.status == "kept" for name in sources_of[row.name]}
    for name in sorted(name for name in weights.tensors if name not in used):
        reason = "the model has no such tensor"
        if name in kept:
            reason = f"{kept[name].name}: {kept[name].reason}"
        yield UnusedTensor(name=name, shape=weights.tensors[name].entry.shape, reason=reason)


def _differences(
    tensors: Sequence[TensorRow],
    head_plans: Sequence[HeadPlan],
    unused: Sequence[UnusedTensor],
    unused_channels: Sequence[str],
) -> Iterator[str]:
    for tensor in tensors:
        if tensor.status == "kept":
            yield f"{tensor.name}: {tensor.reason}"
    yield from (f"{left.name} {list(left.shape)}: in the checkpoint only" for left in unused)
    yield from (f"channel {channel}: in the checkpoint only" for channel in unused_channels)
    for plan in head_plans:
        for i, row in enumerate(plan.rows, plan.head.source_channels.start):
            where = f"row {row.row} of {row.head} ({row.label})"
            if row.status == "kept":
                yield f"{where}: {row.reason}"
            elif row.status == "loaded" and row.source_row != i:
                yield f"{where}: channel {row.source_row} in the checkpoint"
