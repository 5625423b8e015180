"""Plans of loads into models of many tensors."""

from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import StoredTensor, WeightsTable
from cosemzoo.loading.model_tensors import read_model, targets_of
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.planner import make_plan

#: Of a layer: name, shape and bytes.
_TENSORS: Final = (("weight", (2, 2), 16), ("bias", (2,), 8))


def prepare(count: int, *, read: bool) -> Callable[[], object]:
    """Make a model on ``meta`` and the table of a checkpoint of it.

    Parameters
    ----------
    count : int
        Tensors of each.
    read : bool
        Whether the model's tensors are looked up anew for each plan, as a load does.
    """
    layers = count // len(_TENSORS)
    with torch.device("meta"):
        model = nn.ModuleList(nn.Linear(2, 2) for _ in range(layers))
    weights = _table(layers)

    def targets() -> list[TargetTensor]:
        return targets_of(read_model(model))

    if read:
        return lambda: make_plan(targets(), weights, None)
    known = targets()
    return lambda: make_plan(known, weights, None)


def prepare_tuples(count: int) -> Callable[[], object]:
    """Make as many tuples as a plan of so many tensors holds, and nothing else."""

    def make() -> object:
        rows, copies = {}, []
        for number in range(count):
            name, box = f"{number}.weight", ((0, number), (0, 2))
            copies.append((name, box, name, box))
            rows[name] = (name, (), (2, number), "F32", "copied", False, 4, name, (2, number), "F32", "")
        return tuple(copies), tuple(rows.values())

    return make


def _table(layers: int) -> WeightsTable:
    tensors, start = {}, 0
    for number in range(layers):
        for name, shape, size in _TENSORS:
            entry = TensorEntry(f"{number}.{name}", "F32", shape, start, start + size)
            tensors[entry.name] = StoredTensor("model.safetensors", entry)
            start += size
    return WeightsTable(tensors, {}, ("model.safetensors",))
