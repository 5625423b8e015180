"""Giving a network that was built on `meta` its tensors: the mapped ones themselves, or copies of them.

Unlike a load into somebody's model there is nothing to protect: until the last tensor is there, nobody has
the network.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.loading.apply import check_conversions, check_equal, part_of
from cosemzoo.loading.derived import PlannedWeights
from cosemzoo.loading.materialise import Replacement, materialise
from cosemzoo.loading.model_tensors import ModelTensor
from cosemzoo.loading.plan import Copy, LoadPlan, whole


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
    AliasConflict
        If stored tensors that are one tensor in the network hold different values.
    UnsafeConversion
        If finite values would become infinite in the network's dtype.
    MetaTensorsLeft
        If there are tensors that neither the checkpoint nor `reset_parameters` fills.
    InvalidSafetensors, OSError
        If the file cannot be read.

    Notes
    -----
    What is shared is not read here. A page of it that cannot be read ends the process when it is first used
    (SIGBUS), as with every mapped file. Where tensors of the file are copied whole, all of it is read before,
    and an error says what cannot be; the rows of a new head and an adapted first layer alone are not worth
    reading it.
    """
    # Parameters made in inference mode could never be trained.
    with torch.inference_mode(mode=False):
        _assign(plan, held_tensors, weights, device, share=share, generator=generator)


def _assign(
    plan: LoadPlan,
    held_tensors: Sequence[ModelTensor],
    weights: MappedWeights,
    device: torch.device,
    *,
    share: bool,
    generator: torch.Generator | None,
) -> None:
    copies: dict[str, list[Copy]] = {}
    for copy in plan.copies:
        copies.setdefault(copy.target, []).append(copy)
    planned = PlannedWeights(weights, plan.derived)
    values = dict(_whole(held_tensors, copies, planned))
    ready = {
        id(held)
        for held in held_tensors
        if share and id(held) in values and _is_as_needed(values[id(held)], held, device)
    }
    if ready != values.keys():
        weights.read_ahead()
    check_equal(plan.equal, weights, plan.reference)
    check_conversions(plan, planned, {held.names[0]: held.tensor for held in held_tensors if held.names})
    others = [held for held in held_tensors if id(held) not in values]
    # What is overwritten as a whole draws nothing that counts.
    drawn = any(row.filled < row.parameters for row in plan.tensors)
    with _seeded(generator) if drawn else torch.random.fork_rng(devices=[]):
        made = materialise(others, set())
    for replacement in made:
        held, value = replacement.held, replacement.tensor.detach()
        for copy in copies.get(held.names[0], ()) if held.names else ():
            part_of(value, copy.target_box).copy_(part_of(planned.tensor(copy.source), copy.source_box))
        values[id(held)] = value
        if _is_as_needed(value, held, device):
            ready.add(id(held))
    for held in held_tensors:
        value = values[id(held)]
        if id(held) not in ready:
            value = value.to(device, held.tensor.dtype, copy=True)
        if isinstance(held.tensor, nn.Parameter):
            value = nn.Parameter(value, requires_grad=held.tensor.requires_grad)
        Replacement(held, value).put()


def _whole(
    held_tensors: Sequence[ModelTensor], copies: Mapping[str, Sequence[Copy]], weights: PlannedWeights
) -> Iterator[tuple[int, torch.Tensor]]:
    """Give the stored tensors that are all of a tensor of the network."""
    for held in held_tensors:
        mine = copies.get(held.names[0], ()) if held.names else ()
        if len(mine) == 1:
            stored = weights.tensor(mine[0].source)
            if mine[0].source_box == whole(stored.shape) and stored.shape == held.tensor.shape:
                yield id(held), stored


def _is_as_needed(value: torch.Tensor, held: ModelTensor, device: torch.device) -> bool:
    return value.device == device and value.dtype == held.tensor.dtype


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Let what torch draws by itself come from a generator."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds the GPUs as well; nothing would put those back.
        torch.default_generator.manual_seed(seed)
        yield
