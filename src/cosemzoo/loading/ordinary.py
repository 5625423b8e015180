"""Reading a model of which nothing is unusual, in one pass: that is nearly every model.

A careful look at each of 10,000 tensors takes a tenth of a second. Here a model is asked as a whole whether
there is anything to be careful about.
"""

from itertools import pairwise
from operator import attrgetter
from typing import Any, Final

import torch
from torch import Tensor, nn

_PLAIN_TYPES: Final = {Tensor, nn.Parameter}
#: What makes the state dict of a module and finds its modules, as torch has it.
_OF_TORCH: Final = {
    name: getattr(nn.Module, name)
    for name in ("state_dict", "_save_to_state_dict", "get_extra_state", "named_modules", "__getattribute__")
}


def ordinary_tensors(model: nn.Module) -> list[tuple[Tensor, str, nn.Module, str, str]] | None:
    """Give every tensor of a model, its name, the module that holds it, as what, and the module's path.

    Returns
    -------
    list of (Tensor, str, Module, str, str) or None
        In the order of the state dict. None if anything may be unusual: modules that make their state dict
        in a way of their own, or do something after it was loaded; modules and tensors that are registered
        more than once; buffers that are not part of the state dict; tensors that are empty, not contiguous,
        quantised, nested, of a type of their own or on several devices; memory that several of them share.
    """
    modules = list(model.named_modules())
    if not all(_is_ordinary(kind) for kind in {type(module) for _, module in modules}):
        return None
    found: list[tuple[Tensor, str, nn.Module, str, str]] = []
    children = 0
    for path, module in modules:
        state = vars(module)
        if _has_its_own(state):
            return None
        children += len(state["_modules"]) - list(state["_modules"].values()).count(None)
        prefix = f"{path}." if path else ""
        for members in (state["_parameters"], state["_buffers"]):
            for attribute, tensor in members.items():
                if tensor is not None:
                    found.append((tensor, prefix + attribute, module, attribute, path))
    # A module that is registered twice is found once.
    if children != len(modules) - 1 or not _are_apart([one[0] for one in found]):
        return None
    return found


def _is_ordinary(kind: type[nn.Module]) -> bool:
    return all(getattr(kind, name) is own for name, own in _OF_TORCH.items())


def _has_its_own(state: dict[str, Any]) -> bool:
    """Whether a module does something of its own; what is held in another way than torch's is that, too."""
    return bool(
        state.get("_non_persistent_buffers_set", True)
        or state.get("_state_dict_hooks", True)
        or state.get("_state_dict_pre_hooks", True)
        or state.get("_load_state_dict_post_hooks", True)
        or "state_dict" in state
        or "_save_to_state_dict" in state
        or "named_modules" in state
        or type(state.get("_parameters")) is not dict
        or type(state.get("_buffers")) is not dict
        or type(state.get("_modules")) is not dict
    )


def _are_apart(tensors: list[Tensor]) -> bool:
    """Whether all are plain, and none has any memory in common with another."""
    if not set(map(type, tensors)) <= _PLAIN_TYPES or any(map(attrgetter("is_nested"), tensors)):
        return False
    if not all(map(Tensor.is_contiguous, tensors)) or any(map(attrgetter("is_quantized"), tensors)):
        return False
    if len({one.device for one in tensors}) > 1 or {one.layout for one in tensors} - {torch.strided}:
        return False
    sizes = [one.nbytes for one in tensors]
    if 0 in sizes:
        return False
    if tensors and tensors[0].is_meta:
        # Nothing but its storage says where a tensor on `meta` is.
        storages = {one.untyped_storage()._cdata for one in tensors}  # noqa: SLF001
        return len(storages) == len(tensors)
    spans = sorted(zip(map(Tensor.data_ptr, tensors), sizes, strict=True))
    return not any(start + size > after for (start, size), (after, _) in pairwise(spans))
