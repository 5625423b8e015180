"""Carrying out a plan: everything that can fail comes first, then one commit that runs to its end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch

from cosemzoo.checkpoints.mapped import MappedWeights
from cosemzoo.errors import AliasConflict, UnsafeConversion
from cosemzoo.loading.materialise import Replacement, materialise
from cosemzoo.loading.model_tensors import ModelTensor
from cosemzoo.loading.plan import Box, Copy, LoadPlan
from cosemzoo.loading.signals import run_to_end

#: Elements looked at in one step: bounds the memory that checks and conversions need.
_STEP = 1 << 20

#: From where, and to where.
_Write = tuple[torch.Tensor, torch.Tensor]


def apply_plan(plan: LoadPlan, held_tensors: Sequence[ModelTensor], weights: MappedWeights) -> None:
    """Fill a model as planned, wholly or not at all.

    Parameters
    ----------
    plan : LoadPlan
        Made for these tensors and these weights.
    held_tensors : sequence of ModelTensor
        The model's tensors.
    weights : MappedWeights

    Raises
    ------
    AliasConflict
        If stored tensors that are one tensor in the model hold different values.
    UnsafeConversion
        If finite values would become infinite in the model's dtype, or leave the range of its integers.
    MetaTensorsLeft, UnsupportedModel
        If tensors on `meta` cannot be given memory.
    OSError
        If the file cannot be read.
    MemoryError, RuntimeError
        If there is no memory for what has to be staged.

    Notes
    -----
    After any of these the model is as it was. Signals that arrive during the commit are handled after it.
    """
    weights.read_ahead()
    _check_equal(plan, weights)
    tensors = {held.names[0]: held.tensor for held in held_tensors if held.names}
    _check_conversions(plan, weights, tensors)
    # Parameters made in inference mode could never be trained.
    with torch.inference_mode(mode=False):
        replacements = materialise(held_tensors, _filled_whole(plan))
    tensors |= {made.held.names[0]: made.tensor for made in replacements if made.held.names}
    writes = [
        (_staged(source, target), target)
        for copy in plan.copies
        for source, target in [_boxes(copy, weights, tensors)]
    ]
    guard: AbstractContextManager[object] = torch.no_grad()
    if any(target.is_inference() for _, target in writes):
        guard = torch.inference_mode()
    run_to_end(lambda: _commit(replacements, writes, guard))


def _commit(
    replacements: Sequence[Replacement], writes: Sequence[_Write], guard: AbstractContextManager[object]
) -> None:
    done: list[Replacement] = []
    try:
        for replacement in replacements:
            done.append(replacement)
            replacement.put()
    except BaseException:
        for replacement in done:
            replacement.take_back()
        raise
    with guard:
        for source, target in writes:
            target.copy_(source)


def _filled_whole(plan: LoadPlan) -> set[str]:
    return {row.name for row in plan.tensors if row.status != "kept" and row.filled == row.parameters}


def _check_conversions(plan: LoadPlan, weights: MappedWeights, tensors: Mapping[str, torch.Tensor]) -> None:
    unsafe: dict[str, str] = {}
    for copy in plan.copies:
        source, target = _boxes(copy, weights, tensors)
        if target.dtype != source.dtype and _does_not_hold(source, target.dtype):
            ours, theirs = str(target.dtype).removeprefix("torch."), str(source.dtype).removeprefix("torch.")
            unsafe[copy.target] = f"{copy.target}: {theirs} in the checkpoint, {ours} in the model"
    if unsafe:
        raise UnsafeConversion(list(unsafe.values()))


def _boxes(copy: Copy, weights: MappedWeights, tensors: Mapping[str, torch.Tensor]) -> _Write:
    # As plain tensors: a class of its own may have its own idea of copying, and raise in the commit.
    target = tensors[copy.target].detach().as_subclass(torch.Tensor)
    return _box(weights.tensor(copy.source), copy.source_box), _box(target, copy.target_box)


def _staged(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Give what the commit copies: for another device, such that the copy needs no memory there."""
    if target.device.type == "cpu":
        return source
    if not torch.ops.aten.is_non_overlapping_and_dense(target):
        return source.to(target.device, target.dtype)
    if target.dtype == source.dtype and target.stride() == source.stride():
        return source
    staged = torch.empty_strided(target.shape, target.stride(), dtype=target.dtype, device="cpu")
    return staged.copy_(source)


def _box(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    return tensor[tuple(slice(start, stop) for start, stop in box)] if box else tensor


def _does_not_hold(source: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether some finite value of `source` is beyond the largest or the smallest of `dtype`."""
    if dtype.is_floating_point:
        largest = torch.finfo(dtype).max
        if largest >= torch.finfo(source.dtype).max:
            return False
        # Values up to half a step beyond the largest are rounded to it.
        limit = largest + math.ldexp(torch.finfo(dtype).eps, math.frexp(largest)[1] - 2)
        return any(_reaches(part, limit) for part in _steps(source))
    held, given = torch.iinfo(dtype), torch.iinfo(source.dtype)
    if held.min <= given.min and held.max >= given.max:
        return False
    # numpy has these of every integer type, torch has not.
    arrays = (part.numpy() for part in _steps(source))
    return any(int(array.min()) < held.min or int(array.max()) > held.max for array in arrays)


def _reaches(part: torch.Tensor, limit: float) -> bool:
    wide = part if part.element_size() > 2 else part.float()
    low, high = torch.aminmax(wide)
    if max(-low.item(), high.item()) < limit:
        return False
    # Infinity stays infinity, and not-a-number stays that.
    return bool((wide.isfinite() & (wide.abs() >= limit)).any())


def _steps(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    if tensor.is_contiguous() or tensor.numel() <= _STEP:
        flat = tensor.reshape(-1)
        yield from (flat[start : start + _STEP] for start in range(0, flat.numel(), _STEP))
    else:
        for part in tensor.unbind(0):
            yield from _steps(part)


def _check_equal(plan: LoadPlan, weights: MappedWeights) -> None:
    conflicts = []
    for name, other in plan.equal:
        where = _first_difference(weights.tensor(name), weights.tensor(other))
        if where:
            conflicts.append((name, other, where))
    if conflicts:
        raise AliasConflict(plan.reference, conflicts)


def _first_difference(one: torch.Tensor, other: torch.Tensor) -> str:
    # By bits, so that not-a-number equals itself.
    size = one.element_size()
    pairs = zip(*(_steps(t.reshape(-1).view(torch.uint8)) for t in (one, other)), strict=True)
    for step, (ours, theirs) in enumerate(pairs):
        if not torch.equal(ours, theirs):
            index = (step * _STEP + int((ours != theirs).nonzero()[0])) // size
            at = (
                [int(i) for i in torch.unravel_index(torch.tensor(index, device="cpu"), one.shape)]
                if one.ndim
                else []
            )
            return f"at {at}: {one.reshape(-1)[index].item()} and {other.reshape(-1)[index].item()}"
    return ""
