"""The tensors of a torch module, each once, with every name that it has and every module that holds it."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeGuard

import torch
from attrs import define
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy

from cosemzoo.checkpoints.mapped import TORCH_DTYPES
from cosemzoo.errors import UnsupportedModel
from cosemzoo.garbage import garbage_kept
from cosemzoo.loading.pairing import GroupedTensor, TargetTensor, leaf_of

_PLAIN_TYPES: Final = (torch.Tensor, nn.Parameter)
_NAMES_OF_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

# Where a tensor's memory is (space and byte; no space for an empty one), its shape, its strides (None where
# it is contiguous), its dtype.
_Memory = tuple[object, int, tuple[int, ...], tuple[int, ...] | None, torch.dtype]


class Owner(NamedTuple):
    """A module that holds a tensor, and the attribute it holds it under."""

    module: nn.Module
    attribute: str
    module_path: str

    @property
    def path(self) -> str:
        """The tensor's name in the model."""
        return f"{self.module_path}.{self.attribute}" if self.module_path else self.attribute


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
    names: list[str]
    owners: list[Owner]

    @property
    def target(self) -> TargetTensor:
        """What a plan needs to know."""
        dtype, shape, (name, *aliases) = self.tensor.dtype, tuple(self.tensor.shape), self.names
        type_name = _NAMES_OF_DTYPES.get(dtype) or str(dtype).removeprefix("torch.")
        target = TargetTensor(name, tuple(aliases), shape, type_name)
        if len(shape) < 3:
            return target
        groups = [one.module.groups for one in self.owners if isinstance(one.module, _ConvNd)]
        return GroupedTensor.of(target, groups[0]) if groups[:1] > [1] else target


@garbage_kept()
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
    # The state dict and the modules give the same objects: each is looked at once. None: not plain.
    seen: dict[int, ModelTensor | None] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not _is_tensor(tensor):
            problems.extend(_why_not_skipped(name, tensor))
            continue
        problem = _why_not_plain(tensor)
        if problem:
            problems.append((name, problem))
        else:
            held = seen[id(tensor)] = _same_memory(tensor, found)
            held.names.append(name)
    modules = list(model.named_modules())
    for owner, tensor in _held_tensors(modules):
        key = id(tensor)
        if key not in seen:
            seen[key] = None if _why_not_plain(tensor) else _same_memory(tensor, found)
        known = seen[key]
        if known is not None:
            known.owners.append(owner)
    problems.extend(
        (held.names[0], "the state dict gives a copy of it; writing there would not reach the model")
        for held in found.values()
        if not held.owners
    )
    problems.extend(_overlaps(found))
    problems.extend(_hooked(modules))
    if problems:
        raise UnsupportedModel(problems)
    return tuple(sorted(found.values(), key=lambda held: not held.names))


@garbage_kept()
def targets_of(tensors: Iterable[ModelTensor]) -> list[TargetTensor]:
    """Give what a plan needs to know of the tensors of the state dict."""
    return [one.target for one in tensors if one.names]


def _hooked(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, str]]:
    """Find modules that compute something from what was loaded, after `load_state_dict` has loaded it."""
    for path, module in modules:
        if module._load_state_dict_post_hooks:  # noqa: SLF001 - no public way to know
            does = "something is to be done after load_state_dict (register_load_state_dict_post_hook)"
            do = "remove the hook, load, and do it yourself"
            yield path or "model", f"{does}, which a load does not call: {do}"


def _same_memory(tensor: torch.Tensor, found: dict[_Memory, ModelTensor]) -> ModelTensor:
    memory = _memory(tensor)
    held = found.get(memory)
    if held is None:
        held = found[memory] = ModelTensor(tensor, [], [])
    return held


def _held_tensors(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[Owner, torch.Tensor]]:
    for path, module in modules:
        for members in (module._parameters, module._buffers):  # noqa: SLF001 - no public way to all
            for attribute, tensor in members.items():
                if _is_tensor(tensor):
                    yield Owner(module, attribute, path), tensor


def _why_not_skipped(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Say why something in the state dict that is no tensor is more than a note beside them."""
    members = value if isinstance(value, (tuple, list)) else [value]
    packed = any(isinstance(member, (torch.Tensor, torch.ScriptObject)) for member in members)
    if packed and leaf_of(name) != "_extra_state":
        yield name, "its values are packed, as in a quantised module: load first, quantise the model then"


def _is_tensor(value: object) -> TypeGuard[torch.Tensor]:
    # torch's own check takes some time, and there can be 100,000 of them.
    return type(value) in _PLAIN_TYPES or isinstance(value, torch.Tensor)


def _why_not_plain(tensor: torch.Tensor) -> str:
    if type(tensor) not in _PLAIN_TYPES:
        if is_lazy(tensor):
            return "it has no shape yet; run one forward pass of the lazy module first"
        if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
            return f"it is a {type(tensor).__name__}, not a plain tensor"
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = "quantised" if tensor.is_quantized else "nested" if tensor.is_nested else str(tensor.layout)
        return f"it is {kind}, not a plain tensor"
    if not tensor.is_contiguous() and _overlaps_itself(tensor):
        return "several of its elements share one place in memory (an expanded tensor)"
    return ""


def _memory(tensor: torch.Tensor) -> _Memory:
    shape, strides = tensor.shape, None
    space: object
    if 0 in shape:
        # Of an empty tensor, only its holder is an identity.
        space, start = None, id(tensor)
    elif tensor.is_meta:
        space = tensor.untyped_storage()._cdata  # noqa: SLF001 - all that identifies memory on `meta`
        start = int(tensor.storage_offset()) * tensor.element_size()
    else:
        # Not the storage: two of them can lie over the same memory, such as a numpy array's.
        space, start = tensor.device, tensor.data_ptr()
    if not tensor.is_contiguous():
        # An axis of length one may have any stride: it is never stepped along.
        strides = tuple(s if n > 1 else 0 for n, s in zip(shape, tensor.stride(), strict=True))
    return space, start, shape, strides, tensor.dtype


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    reach = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if tensor.numel() and length > 1:
            if stride < reach:
                return True
            reach += stride * (length - 1)
    return False


def _overlaps(found: Mapping[_Memory, ModelTensor]) -> Iterator[tuple[str, str]]:
    """Find tensors of the state dict that share some of their memory, without being the same tensor."""
    spans: dict[object, list[tuple[int, int, str]]] = {}
    for (space, start, shape, strides, dtype), held in found.items():
        if held.names and space is not None:
            reach = math.prod(shape)
            if strides is not None:
                reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
            spans.setdefault(space, []).append((start, start + reach * dtype.itemsize, held.names[0]))
    for members in spans.values():
        members.sort()
        end, last = -1, ""
        for start, stop, name in members:
            if start < end:
                yield name, f"it shares a part of its memory with {last}, as another view of it"
            if stop > end:
                end, last = stop, name
