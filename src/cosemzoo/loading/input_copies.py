"""The copies that fill a first layer which is adapted to another input, and the account of them."""

import math
from collections.abc import Sequence

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.loading.account import TensorRow
from cosemzoo.loading.inputs import InputPlan
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.plan import Copy, whole


def input_copies(plan: InputPlan, target: TargetTensor) -> list[Copy]:
    """Give the copies that fill a tensor of the first layer: of its filled input channels, or of all."""
    derived = plan.derived[target.name]
    box = whole(target.shape)
    if plan.columns is None or derived.weight is not None:
        return [Copy(derived.name, box, target.name, box)]
    boxes = [(box[0], (i, i + 1), *box[2:]) for i in plan.columns]
    return [Copy(derived.name, part, target.name, part) for part in boxes]


def input_row(plan: InputPlan, target: TargetTensor, entry: TensorEntry, copies: Sequence[Copy]) -> TensorRow:
    """Account for a tensor of the first layer."""
    filled = sum(math.prod(stop - start for start, stop in copy.target_box) for copy in copies)
    stored = entry.name, entry.shape, entry.dtype
    name, aliases, shape, dtype = target
    return TensorRow(name, aliases, shape, dtype, "adapted", False, filled, *stored, plan.reason)
