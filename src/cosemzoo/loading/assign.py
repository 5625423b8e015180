"""Giving a network that was built on `meta` its tensors: the mapped ones themselves, or copies of them.

Unlike a load into somebody's model there is nothing to protect: until the last tensor is there, nobody has
the network.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.loading.apply import check_conversions
from cosemzoo.loading.materialise import materialise
from cosemzoo.loading.model_tensors import ModelTensor
from cosemzoo.loading.plan import Copy, LoadPlan


def assign_plan(
    plan: LoadPlan,
    held_tensors: Sequence[ModelTensor],
    weights: MappedWeights,
    *,
    device: torch.device,
    share: bool,
    generator: torch.Generator | None = None,
) -> None:
    """Give every tensor of a network on `meta` its values.

    Parameters
    ----------
    plan : LoadPlan
        Made for these tensors and these weights.
    held_tensors : sequence of ModelTensor
        The network's tensors, all on `meta`.
    weights : MappedWeights
    device : torch.device
        Where they are to be. A tensor goes there straight from the file.
    share : bool
        Whether tensors that are stored as they are needed, on the CPU, are the mapped ones: nothing is
        copied, and the pages are shared with every other process until one writes to them.
    generator : torch.Generator, optional
        For the values of rows that do not come from the checkpoint; by default torch's own.

    Raises
    ------
    UnsafeConversion
        If finite values would become infinite in the network's dtype.
    MetaTensorsLeft
        If there are tensors that neither the checkpoint nor `reset_parameters` fills.
    InvalidSafetensors, OSError
        If the file cannot be read.
    """
    check_conversions(plan, weights, {held.names[0]: held.tensor for held in held_tensors if held.names})
    copies: dict[str, list[Copy]] = {}
    for copy in plan.copies:
        copies.setdefault(copy.target, []).append(copy)
    values = dict(_whole(held_tensors, copies, weights))
    others = [held for held in held_tensors if id(held) not in values]
    with _seeded(generator):
        made = materialise(others, set())
    for replacement in made:
        names = replacement.held.names
        with torch.no_grad():
            for copy in copies.get(names[0], ()) if names else ():
                source = weights.tensor(copy.source)[_slices(copy.source_box)]
                replacement.tensor[_slices(copy.target_box)] = source.to(replacement.tensor.dtype)
        values[id(replacement.held)] = replacement.tensor.detach()
    new = {id(one.held) for one in made}
    for held in held_tensors:
        value = values[id(held)]
        fits = value.device == device and value.dtype == held.tensor.dtype
        if not fits or not (share or id(held) in new):
            value = value.to(device, held.tensor.dtype, copy=True)
        _put(held, value)


def _whole(
    held_tensors: Sequence[ModelTensor], copies: Mapping[str, Sequence[Copy]], weights: MappedWeights
) -> Iterator[tuple[int, torch.Tensor]]:
    """Give the stored tensors that are all of a tensor of the network."""
    for held in held_tensors:
        mine = copies.get(held.names[0], ()) if held.names else ()
        if len(mine) == 1:
            stored = weights.tensor(mine[0].source)
            if _is_all(mine[0].source_box, stored.shape) and stored.shape == held.tensor.shape:
                yield id(held), stored


def _is_all(box: Sequence[tuple[int, int]], shape: Sequence[int]) -> bool:
    return all(limits == (0, length) for limits, length in zip(box, shape, strict=True))


def _slices(box: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _put(held: ModelTensor, value: torch.Tensor) -> None:
    new: torch.Tensor = value
    if isinstance(held.tensor, nn.Parameter):
        new = nn.Parameter(value, requires_grad=held.tensor.requires_grad)
    for owner in held.owners:
        setattr(owner.module, owner.attribute, new)


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Let what torch draws by itself come from a generator."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
