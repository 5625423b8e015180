"""Making a plan, from names, shapes, dtypes and channels alone: no tensor data is needed."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidHead, InvalidOption
from cosemzoo.garbage import garbage_kept
from cosemzoo.loading.account import TensorRow, UnusedTensor
from cosemzoo.loading.backbone_plan import plan_backbone
from cosemzoo.loading.expected import expected_input
from cosemzoo.loading.head_plan import HeadPlan, head_copies, head_row, plan_heads
from cosemzoo.loading.heads import Head, HeadNames, find_heads
from cosemzoo.loading.inputs import Inputs, plan_inputs
from cosemzoo.loading.labels import parse_new_head
from cosemzoo.loading.pairing import (
    Pairing,
    TargetTensor,
    check_same_type,
    module_of,
    stored_names,
)
from cosemzoo.loading.plan import Copy, LoadPlan, Strict
from cosemzoo.loading.prefixes import Rename, pair_tensors
from cosemzoo.loading.vocabularies import Dialects
from cosemzoo.manifest import Manifest

_AS_TRAINED: Final = Inputs()


@garbage_kept()
def make_plan(
    targets: Sequence[TargetTensor],
    weights: WeightsTable,
    manifest: Manifest | None,
    *,
    reference: str = "the checkpoint",
    commit: str | None = None,
    new_head: Any = None,
    label_map: Any = None,
    vocabulary: str | None = None,
    head: HeadNames = None,
    rename: Rename = None,
    inputs: Inputs = _AS_TRAINED,
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
    label_map : LabelMap
        Which of the checkpoint's channels some of them take; see `cosemzoo.loading.label_map`.
    vocabulary : str or None
        What the labels of `new_head` mean; see `cosemzoo.loading.vocabularies`.
    head : HeadNames
        The model's head, where its name is not the manifest's; see `cosemzoo.loading.heads`.
    rename : Rename
        How names change; see `cosemzoo.loading.prefixes`.
    inputs : Inputs
        What the model will be given.
    strict : {"auto", "require", "never"}
        Whether everything must agree; "never" says that a partial load is expected.
    min_coverage : float
        The fraction of the backbone, by tensors and by parameters, that must be filled.

    Raises
    ------
    InvalidHead
        If `new_head`, `label_map` or `head` do not fit the model or the checkpoint.
    InvalidInput
        If the input cannot be what the caller says.
    InvalidRename, AmbiguousNames
        If names cannot be paired as `rename` says, or could be in several ways.
    AliasConflict
        If names of one tensor have different shapes in the file.
    InvalidOption
        If `strict`, `min_coverage` or `vocabulary` is none of the values allowed.
    """
    _check_options(strict, min_coverage)
    dialects = Dialects.of(vocabulary, manifest.vocabulary if manifest else None)
    wanted = parse_new_head(new_head)
    pairing = pair_tensors(targets, weights, manifest, rename=rename)
    heads = find_heads(targets, weights, manifest, pairing, head)
    channels = manifest.channels if manifest else ()
    head_plans = plan_heads(heads, wanted, channels, weights, label_map=label_map, dialects=dialects)
    if wanted is not None and not heads:
        raise InvalidHead([_no_head(manifest, targets, pairing)])

    head_rows: dict[str, TensorRow] = {}
    copies: list[Copy] = []
    for head_plan in head_plans:
        for pair in head_plan.head.pairs:
            made = head_copies(head_plan, pair, weights)
            copies.extend(made)
            head_rows[pair.target.name] = head_row(head_plan, pair, weights, made)
    sources_of = _sources(pairing, heads, weights)
    backbone = [target for target in targets if target.name not in head_rows] if head_rows else targets
    input_plan = plan_inputs(inputs, backbone, sources_of, weights, manifest)
    rows, backbone_copies = plan_backbone(backbone, sources_of, weights, input_plan)
    copies += backbone_copies
    check_same_type(sources_of.values(), weights)
    if head_rows:
        by_name = head_rows | {row.name: row for row in rows}
        rows = [by_name[target.name] for target in targets]
    tensors = tuple(rows)

    filled = {copy.target for copy in copies}
    groups = [names for target, names in sources_of.items() if target in filled]
    equal = [(group[0], other) for group in groups if len(group) > 1 for other in group[1:]]
    unused = tuple(_unused(weights, set(chain.from_iterable(groups)), tensors, sources_of))
    channel_rows = tuple(row for head_plan in head_plans for row in head_plan.rows)
    taken = {row.source_row for row in channel_rows}
    unused_channels = tuple(str(channel) for i, channel in enumerate(channels) if i not in taken)
    inferred = [f"names: {change}" for change in pairing.changes if change.why == "inferred"]
    differences = (
        *inferred,
        *_differences(tensors, head_plans, unused, unused_channels, mixes=input_plan.mixes),
    )
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
        prefixes=pairing.changes,
        input_expected=expected_input(manifest),
        input_differences=input_plan.differences,
        generated=manifest is not None and manifest.generated,
        copies=tuple(copies),
        equal=tuple(dict.fromkeys(equal)),
        differences=differences,
        derived={one.name: one for one in input_plan.derived.values()},
        input_problem=input_plan.problem,
        strict=strict,
        min_coverage=min_coverage,
    )


def _sources(pairing: Pairing, heads: Sequence[Head], weights: WeightsTable) -> Mapping[str, tuple[str, ...]]:
    """Give, for each tensor of the model, the stored tensors that belong to it; the first is read."""
    if not heads and not weights.aliases:
        return pairing.names
    of_heads = frozenset().union(*(head.source_names for head in heads))
    found = {
        target: stored_names([name for name in names if name not in of_heads], weights)
        for target, names in pairing.names.items()
    }
    return found | {pair.target.name: pair.sources for head in heads for pair in head.pairs}


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


def _unused(
    weights: WeightsTable,
    used: set[str],
    tensors: Sequence[TensorRow],
    sources_of: Mapping[str, Sequence[str]],
) -> Iterator[UnusedTensor]:
    if len(used) == len(weights.tensors):
        return
    left = sorted(weights.tensors.keys() - used)
    kept = {name: row for row in tensors if row.status == "kept" for name in sources_of[row.name]}
    for name in left:
        reason = "the model has no such tensor"
        if name in kept:
            reason = f"{kept[name].name}: {kept[name].reason}"
        yield UnusedTensor(name=name, shape=weights.tensors[name].entry.shape, reason=reason)


def _differences(
    tensors: Sequence[TensorRow],
    head_plans: Sequence[HeadPlan],
    unused: Sequence[UnusedTensor],
    unused_channels: Sequence[str],
    *,
    mixes: bool,
) -> Iterator[str]:
    for tensor in tensors:
        if tensor.status == "kept" or (tensor.status == "adapted" and mixes):
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
