"""What becomes of every tensor that is no head: copied whole, adapted to another input, or kept, and why."""

import math
from collections.abc import Iterable, Mapping

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.loading.account import TensorRow
from cosemzoo.loading.dtypes import why_not_convertible
from cosemzoo.loading.input_copies import input_copies, input_row
from cosemzoo.loading.inputs import InputPlan
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.plan import Copy, whole


def plan_backbone(
    targets: Iterable[TargetTensor],
    sources: Mapping[str, tuple[str, ...]],
    weights: WeightsTable,
    inputs: InputPlan,
) -> tuple[dict[str, TensorRow], list[Copy]]:
    """Plan every tensor of the backbone.

    Parameters
    ----------
    targets : iterable of TargetTensor
    sources : mapping of str to tuple of str
        By the name of each, the stored tensors that belong to it; the first is read.
    weights : WeightsTable
    inputs : InputPlan
        What becomes of the first layer.

    Returns
    -------
    rows : dict of str to TensorRow
    copies : list of Copy
    """
    rows: dict[str, TensorRow] = {}
    copies: list[Copy] = []
    stored = dict(weights.tensors.items())
    # There can be 100,000 of them: what nearly all are, copied whole, costs no call that can be spared.
    for target in targets:
        name, aliases, shape, dtype = target
        found = sources[name]
        if not found:
            rows[name] = TensorRow(
                name, aliases, shape, dtype, "kept", False, 0, reason="not in the checkpoint"
            )
            continue
        entry = stored[found[0]].entry
        if name in inputs.derived:
            made = input_copies(inputs, target)
            copies.extend(made)
            rows[name] = input_row(inputs, target, entry, made)
            continue
        same = entry.shape == shape and entry.dtype == dtype
        reason = "" if same else _why_kept(target, entry)
        if reason:
            row = TensorRow(
                name, aliases, shape, dtype, "kept", False, 0, entry.name, entry.shape, entry.dtype, reason
            )
        else:
            box = whole(shape)
            copies.append(Copy(found[0], box, name, box))
            filled = math.prod(shape)
            row = TensorRow(
                name, aliases, shape, dtype, "copied", False, filled, entry.name, shape, entry.dtype
            )
        rows[name] = row
    return rows, copies


def _why_kept(target: TargetTensor, entry: TensorEntry) -> str:
    if entry.shape != target.shape:
        return f"shape {list(entry.shape)} in the checkpoint, {list(target.shape)} in the model"
    return why_not_convertible(entry.dtype, target.dtype)
