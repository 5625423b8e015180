"""Tensors of a plan that are computed from stored ones, beside those that are copied as they are."""

from collections.abc import Mapping

import torch

from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.loading.inputs import DerivedTensor


class PlannedWeights:
    """Every tensor that the copies of a plan read: stored, or derived from what is stored.

    Parameters
    ----------
    weights : MappedWeights
    derived : mapping of str to DerivedTensor
        By what the copies call it.
    """

    def __init__(self, weights: MappedWeights, derived: Mapping[str, DerivedTensor]) -> None:
        self.stored = weights
        self._derived = derived
        self._made: dict[str, torch.Tensor] = {}

    def tensor(self, name: str) -> torch.Tensor:
        """Give a tensor; a derived one is computed once, in float64, and given in float32 at least."""
        if name not in self._derived:
            return self.stored.tensor(name)
        if name not in self._made:
            self._made[name] = self._compute(self._derived[name])
        return self._made[name]

    def _compute(self, one: DerivedTensor) -> torch.Tensor:
        stored = self.stored.tensor(one.source)
        values = stored.double()
        if one.weight is None:
            values = _mixed(values, one)
        else:
            weight = _mixed(self.stored.tensor(one.weight).double(), one)
            values = values + one.offset * weight.sum(dim=tuple(range(1, weight.ndim)))
        return values.to(torch.promote_types(stored.dtype, torch.float32))


def _mixed(weight: torch.Tensor, one: DerivedTensor) -> torch.Tensor:
    mixing = torch.tensor(one.mixing, dtype=torch.float64, device="cpu")
    mixed: torch.Tensor = torch.tensordot(weight, mixing, dims=([1], [1]))
    return mixed.movedim(-1, 1).contiguous()
