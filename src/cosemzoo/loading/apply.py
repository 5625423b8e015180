"""Carrying out a plan: everything that can fail comes first, then one commit that runs to its end."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch

from cosemzoo.checkpoints.mapped import READ_BYTES, MappedWeights
from cosemzoo.errors import AliasConflict, UnsafeConversion
from cosemzoo.loading.copying import move_bytes
from cosemzoo.loading.derived import PlannedWeights
from cosemzoo.loading.materialise import Replacement, materialise
from cosemzoo.loading.model_tensors import ModelTensor
from cosemzoo.loading.plan import Box, LoadPlan
from cosemzoo.loading.signals import run_to_end

#: Elements looked at in one step: bounds the memory that checks and conversions need.
_STEP = 1 << 20

#: Bytes from which on a tensor is moved as a block of memory.
_BLOCK_BYTES = 1 << 20
# How far the target may not lie beyond the source within a page for that: the processor takes each read for
# one of what was just written, and `memmove` took up to four times as long (AMD Zen 3).
_SLOW_DISTANCES = range(1, 1024)
_PAGE_BYTES = 4096

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
    check_equal(plan.equal, weights, plan.reference)
    planned = PlannedWeights(weights, plan.derived)
    tensors = {held.names[0]: held.tensor for held in held_tensors if held.names}
    check_conversions(plan, planned, tensors)
    # Parameters made in inference mode could never be trained.
    with torch.inference_mode(mode=False):
        replacements = materialise(held_tensors, _filled_whole(plan))
    tensors |= {made.held.names[0]: made.tensor for made in replacements if made.held.names}
    sources = [part_of(planned.tensor(copy.source), copy.source_box) for copy in plan.copies]
    targets = [part_of(_plain(tensors[copy.target]), copy.target_box) for copy in plan.copies]
    writes = [(_staged(source, target), target) for source, target in zip(sources, targets, strict=True)]
    blocks: list[_Write] = []
    if weights.in_order:
        writes = sorted(
            (piece for write in writes for piece in _pieces(*write)),
            key=lambda piece: piece[0].data_ptr(),
        )
    else:
        blocks = [write for write in writes if _is_block(*write)]
        writes = [write for write in writes if not _is_block(*write)]
    guard: AbstractContextManager[object] = torch.no_grad()
    if any(target.is_inference() for _, target in [*writes, *blocks]):
        guard = torch.inference_mode()
    run_to_end(lambda: _commit(replacements, writes, blocks, weights, guard))


def _commit(
    replacements: Sequence[Replacement],
    writes: Sequence[_Write],
    blocks: Sequence[_Write],
    weights: MappedWeights,
    guard: AbstractContextManager[object],
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
            target.copy_(weights.values(source))
        moves = [(target.data_ptr(), source.data_ptr(), source.nbytes) for source, target in blocks]
        move_bytes(moves, torch.get_num_threads())
        for _, target in blocks:
            # What autograd has saved of it is no longer valid.
            torch.autograd.graph.increment_version(target)


def _is_block(source: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether a write is one block of memory on both sides."""
    return (
        source.nbytes >= _BLOCK_BYTES
        and source.dtype == target.dtype
        and source.device.type == target.device.type == "cpu"
        and source.is_contiguous()
        and target.is_contiguous()
        and not target.is_conj()
        and not target.is_neg()
        and (target.data_ptr() - source.data_ptr()) % _PAGE_BYTES not in _SLOW_DISTANCES
    )


def _pieces(source: torch.Tensor, target: torch.Tensor) -> Iterator[_Write]:
    """Cut a write into pieces that are read at once; what is not read from the file stays whole."""
    if source.nbytes <= READ_BYTES or not source.is_contiguous():
        yield source, target
    elif source[0].nbytes > READ_BYTES:
        for write in zip(source.unbind(0), target.unbind(0), strict=True):
            yield from _pieces(*write)
    else:
        rows = READ_BYTES // source[0].nbytes
        for start in range(0, len(source), rows):
            yield source[start : start + rows], target[start : start + rows]


def _filled_whole(plan: LoadPlan) -> set[str]:
    return {row.name for row in plan.tensors if row.status != "kept" and row.filled == row.parameters}


def check_equal(pairs: Iterable[tuple[str, str]], weights: MappedWeights, reference: str) -> None:
    """Check that pairs of stored tensors that are one tensor hold the same values.

    Raises
    ------
    AliasConflict
        With the first place of every pair where they differ.
    """
    conflicts = []
    for name, other in pairs:
        where = _first_difference(weights.tensor(name), weights.tensor(other))
        if where:
            conflicts.append((name, other, where))
    if conflicts:
        raise AliasConflict(reference, conflicts)


def check_conversions(plan: LoadPlan, weights: PlannedWeights, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that the model's dtypes hold the values that a load gives them.

    Parameters
    ----------
    plan : LoadPlan
    weights : PlannedWeights
    tensors : mapping of str to torch.Tensor
        The model's tensors, by their first names.

    Raises
    ------
    UnsafeConversion
        With every tensor whose finite values would become infinite, or leave the range of its integers.
    """
    unsafe: dict[str, str] = {}
    for copy in plan.copies:
        source, dtype = weights.tensor(copy.source), tensors[copy.target].dtype
        if dtype != source.dtype and _does_not_hold(part_of(source, copy.source_box), dtype):
            ours, theirs = str(dtype).removeprefix("torch."), str(source.dtype).removeprefix("torch.")
            unsafe[copy.target] = f"{copy.target}: {theirs} in the checkpoint, {ours} in the model"
    if unsafe:
        raise UnsafeConversion(list(unsafe.values()))


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    # A class of its own may have its own idea of copying, and raise in the commit.
    return tensor.detach().as_subclass(torch.Tensor)


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


def part_of(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    """Give the part of a tensor that a box is, as a view."""
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


def _first_difference(one: torch.Tensor, other: torch.Tensor) -> str:
    ours, theirs = (tensor.reshape(-1).view(torch.uint8) for tensor in (one, other))
    for start in range(0, len(ours), _STEP):
        ours_here, theirs_here = ours[start : start + _STEP], theirs[start : start + _STEP]
        if not _same_bytes(ours_here, theirs_here):
            index = (start + int((ours_here != theirs_here).nonzero()[0])) // one.element_size()
            at = (
                [int(i) for i in torch.unravel_index(torch.tensor(index, device="cpu"), one.shape)]
                if one.ndim
                else []
            )
            return f"at {at}: {one.reshape(-1)[index].item()} and {other.reshape(-1)[index].item()}"
    return ""


def _same_bytes(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    # By bits, so that not-a-number equals itself; eight bytes at a time, which is five times as fast as one.
    whole = len(ours) // 8 * 8
    words = (part[:whole].view(torch.int64) for part in (ours, theirs))
    return torch.equal(*words) and torch.equal(ours[whole:], theirs[whole:])
