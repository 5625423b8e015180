"""The layer that a model gives its input to, as far as its modules tell, and what could be done with it."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.padding import _ConstantPadNd

from cosemzoo.loading.inputs import FirstLayer
from cosemzoo.loading.model_tensors import ModelTensor

#: Layers whose weight has one slice for each input channel along axis 1, and nothing more to it.
_PLAIN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_first_layer(
    model: nn.Module, held_tensors: Sequence[ModelTensor], *, others: bool
) -> FirstLayer | None:
    """Find the first module that has values of its own, in the order in which modules were registered.

    Parameters
    ----------
    model : torch.nn.Module
    held_tensors : sequence of ModelTensor
        Its tensors.
    others : bool
        Whether to look for other layers that could be given the input, too, among all modules.

    Returns
    -------
    FirstLayer or None
        None if no module has values.
    """
    path, module = next(((at, one) for at, one in model.named_modules() if _has_values(one)), ("", None))
    if module is None:
        return None
    plain = _why_not_plain(module)
    weight = module._parameters.get("weight")  # noqa: SLF001 - a parametrized weight is computed when it is read
    held = next((one for one in held_tensors if one.tensor is weight and one.names), None)
    if held is None and not plain:
        plain = "its weight is computed from other parameters"
    reasons = [plain] if plain else []
    # A border of zeros is no border of the shifted value; one of the data's own values is.
    if isinstance(module, _ConvNd) and module.padding_mode == "zeros" and _pads(module):
        reasons.append(f"it pads its input with zeros (padding={module.padding})")
    if others and not plain:
        reasons += _others(model, path, module, held_tensors)
    return FirstLayer(
        path=path or type(module).__name__,
        weight=held.names[0] if held is not None and not plain else None,
        groups=module.groups if isinstance(module, _ConvNd) else 1,
        why_not_plain=plain,
        why_not_exact=tuple(reasons),
    )


def _has_values(module: nn.Module) -> bool:
    members = [*module._parameters.values(), *module._buffers.values()]  # noqa: SLF001 - no public way to all
    return _is_layer(module) and any(member is not None for member in members)


def _is_layer(module: nn.Module) -> bool:
    # What a container holds itself, such as a table of positions, stands beside its layers.
    return not any(module.children()) or isinstance(module, (*_PLAIN, _ConvNd, nn.MultiheadAttention))


def _why_not_plain(module: nn.Module) -> str:
    kind = type(module).__name__
    if not isinstance(module, _PLAIN) or isinstance(module, _ConvTransposeNd):
        return f"it is a {kind}, not a convolution or a linear layer"
    if not any(type(module).forward is one.forward for one in _PLAIN):
        return f"a {kind} does something of its own with its weight"
    return ""


def _others(
    model: nn.Module, path: str, layer: nn.Module, held_tensors: Sequence[ModelTensor]
) -> Iterator[str]:
    for name, tensor in layer._parameters.items():  # noqa: SLF001 - as it is held
        owners = [one.owners for one in held_tensors if one.tensor is tensor]
        if any(len(several) > 1 for several in owners):
            yield f"another layer has the same {name}"
    inputs = _inputs(layer)
    for other, module in model.named_modules():
        kind = f"{other}, a {type(module).__name__},"
        if isinstance(module, _ConstantPadNd) and torch.tensor(module.padding).any():
            yield f"{kind} may pad the input with a constant before it"
        elif (
            other != path
            and _is_layer(module)
            and _inputs(module) == inputs
            and not _in_sequence(model, path, other)
        ):
            yield f"{kind} may be given the same input"


def _in_sequence(model: nn.Module, first: str, other: str) -> bool:
    """Whether both are in one `torch.nn.Sequential`, which gives each the output of the one before."""
    pairs = itertools.takewhile(
        lambda pair: pair[0] == pair[1], zip(first.split("."), other.split("."), strict=False)
    )
    return type(model.get_submodule(".".join(one for one, _ in pairs))).forward is nn.Sequential.forward


def _pads(layer: _ConvNd) -> bool:
    if layer.padding == "same":
        return any(length > 1 for length in layer.kernel_size)
    return layer.padding != "valid" and any(layer.padding)


def _inputs(module: nn.Module) -> int | None:
    for name in ("in_channels", "in_features", "num_features", "input_size", "embed_dim"):
        number = getattr(module, name, None)
        if isinstance(number, int):
            return number
    return None
