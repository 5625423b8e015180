"""What becomes of every tensor that is no head: copied whole, adapted to another input, or kept, and why."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.loading.account import TensorRow
from cosemzoo.loading.dtypes import why_not_convertible
from cosemzoo.loading.input_copies import input_copies, input_row
from cosemzoo.loading.inputs import InputPlan
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.plan import Copy, whole

# What a named tuple is made by. Its own constructor takes twice as long, and there can be 100,000 of them.
_new: Final = tuple.__new__


def plan_backbone(
    targets: Sequence[TargetTensor],
    sources: Mapping[str, tuple[str, ...]],
    weights: WeightsTable,
    inputs: InputPlan,
) -> tuple[list[TensorRow], list[Copy]]:
    """Plan every tensor of the backbone.

    Parameters
    ----------
    targets : sequence of TargetTensor
    sources : mapping of str to tuple of str
        By the name of each, the stored tensors that belong to it; the first is read.
    weights : WeightsTable
    inputs : InputPlan
        What becomes of the first layer.

    Returns
    -------
    rows : list of TensorRow
        For each of them.
    copies : list of Copy
    """
    rows: list[TensorRow] = []
    copies: list[Copy] = []
    stored = dict(weights.tensors.items())
    for target in targets:
        name, aliases, shape, dtype = target
        found = sources[name]
        if not found:
            rows.append(
                TensorRow(name, aliases, shape, dtype, "kept", False, 0, reason="not in the checkpoint")
            )
            continue
        source = found[0]
        _, entry = stored[source]
        _, source_dtype, source_shape, _, _ = entry
        if name in inputs.derived:
            made = input_copies(inputs, target)
            copies.extend(made)
            rows.append(input_row(inputs, target, entry, made))
            continue
        same = source_shape == shape and source_dtype == dtype
        if same or not (reason := _why_kept(target, entry)):
            box, filled = whole(shape), math.prod(shape)
            copies.append(_new(Copy, (source, box, name, box)))
            row = name, aliases, shape, dtype, "copied", False, filled, source, shape, source_dtype, ""
            rows.append(_new(TensorRow, row))
        else:
            of_source = source, source_shape, source_dtype
            rows.append(TensorRow(name, aliases, shape, dtype, "kept", False, 0, *of_source, reason))
    return rows, copies


def _why_kept(target: TargetTensor, entry: TensorEntry) -> str:
    if entry.shape != target.shape:
        return f"shape {list(entry.shape)} in the checkpoint, {list(target.shape)} in the model"
    return why_not_convertible(entry.dtype, target.dtype)
