"""The tensors of a torch module, each once, with every name that it has and every module that holds it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import Factory, define, frozen
from torch import nn
from torch.nn.parameter import is_lazy

from cosemzoo.checkpoints.mapped import TORCH_DTYPES
from cosemzoo.errors import UnsupportedModel
from cosemzoo.loading.pairing import TargetTensor

_NAMES_OF_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

# Where a tensor's memory is (space and byte), its shape, its strides, its dtype.
_Memory = tuple[object, int, tuple[int, ...], tuple[int, ...], torch.dtype]


@frozen(eq=False)
class Owner:
    """A module that holds a tensor, and the attribute it holds it under."""

    module: nn.Module
    attribute: str
    path: str


@define(eq=False)
class ModelTensor:
    """One tensor of a model.

    Attributes
    ----------
    tensor : torch.Tensor
        The parameter or buffer.
    names : list of str
        Its names in the state dict; empty for a buffer that is not part of it.
    owners : list of Owner
    """

    tensor: torch.Tensor
    names: list[str] = Factory(list)
    owners: list[Owner] = Factory(list)

    @property
    def target(self) -> TargetTensor:
        """What a plan needs to know."""
        dtype = self.tensor.dtype
        name = _NAMES_OF_DTYPES.get(dtype, str(dtype).removeprefix("torch."))
        return TargetTensor(self.names[0], tuple(self.names[1:]), tuple(self.tensor.shape), name)


def read_model(model: nn.Module) -> tuple[ModelTensor, ...]:
    """Find every tensor of a model: those of its state dict first, in its order, then the others.

    Raises
    ------
    UnsupportedModel
        With every tensor of the state dict that cannot be written safely; if it is no module at all.
    """
    if not isinstance(model, nn.Module):
        raise UnsupportedModel(
            [("model", f"it is a {type(model).__name__}, not a torch.nn.Module; it comes first")]
        )
    problems: list[tuple[str, str]] = []
    found: dict[_Memory, ModelTensor] = {}
    state = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, torch.Tensor)
    }
    for name, tensor in state.items():
        problem = _why_not_plain(tensor)
        if problem:
            problems.append((name, problem))
        else:
            found.setdefault(_memory(tensor), ModelTensor(tensor)).names.append(name)
    refused = {id(state[name]) for name, _ in problems}
    for owner, tensor in _held_tensors(model):
        if id(tensor) in refused or _why_not_plain(tensor):
            continue
        found.setdefault(_memory(tensor), ModelTensor(tensor)).owners.append(owner)
    problems.extend(
        (held.names[0], "the state dict gives a copy of it; writing there would not reach the model")
        for held in found.values()
        if not held.owners
    )
    problems.extend(_overlaps([held for held in found.values() if held.names]))
    if problems:
        raise UnsupportedModel(problems)
    return tuple(sorted(found.values(), key=lambda held: not held.names))


def _held_tensors(model: nn.Module) -> Iterator[tuple[Owner, torch.Tensor]]:
    for path, module in model.named_modules():
        members: Mapping[str, Any] = {**module._parameters, **module._buffers}  # noqa: SLF001 - no public way to all
        for attribute, tensor in members.items():
            if isinstance(tensor, torch.Tensor):
                yield Owner(module, attribute, f"{path}.{attribute}" if path else attribute), tensor


def _why_not_plain(tensor: torch.Tensor) -> str:
    if is_lazy(tensor):
        return "it has no shape yet; run one forward pass of the lazy module first"
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return f"it is a {type(tensor).__name__}, not a plain tensor"
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout)
        return f"it is {kind}, not a plain tensor"
    if _overlaps_itself(tensor):
        return "several of its elements share one place in memory (an expanded tensor)"
    return ""


def _memory(tensor: torch.Tensor) -> _Memory:
    # Of an empty tensor, only its holder is an identity.
    space, start = (None, id(tensor)) if tensor.numel() == 0 else _place(tensor)
    # An axis of length one may have any stride: it is never stepped along.
    strides = tuple(s if n > 1 else 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return space, start, tuple(tensor.shape), strides, tensor.dtype


def _place(tensor: torch.Tensor) -> tuple[object, int]:
    """Give the space that a tensor's memory lies in, and its first byte there."""
    if tensor.device.type != "meta":
        # Not the storage: two of them can lie over the same memory, such as a numpy array's.
        return tensor.device, tensor.data_ptr()
    storage = tensor.untyped_storage()._cdata  # noqa: SLF001 - all that identifies memory on `meta`
    return storage, int(tensor.storage_offset()) * tensor.element_size()


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    reach = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if tensor.numel() and length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False


def _overlaps(held: Sequence[ModelTensor]) -> Iterator[tuple[str, str]]:
    """Find tensors that share some of their memory, without being the same tensor."""
    spans: dict[object, list[tuple[int, int, str]]] = {}
    for one in held:
        tensor = one.tensor
        if tensor.numel():
            space, start = _place(tensor)
            reach = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            span = start, start + reach * tensor.element_size(), one.names[0]
            spans.setdefault(space, []).append(span)
    for members in spans.values():
        members.sort()
        end, last = -1, ""
        for start, stop, name in members:
            if start < end:
                yield name, f"it shares a part of its memory with {last}, as another view of it"
            if stop > end:
                end, last = stop, name
