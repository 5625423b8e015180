"""Whether scaling a layer's input is the same as scaling its weight and shifting its bias."""

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cosemzoo.loading.model_tensors import ModelTensor


def why_not_exact(held_tensors: Iterable[ModelTensor]) -> dict[str, str]:
    """Say of every weight of a model why its layer cannot take a change of the input's range.

    Returns
    -------
    dict of str to str
        By the weight's name; an empty text where it can.
    """
    return {
        name: _why_not(owner.module)
        for held in held_tensors
        for owner in held.owners
        if owner.attribute == "weight"
        for name in held.names
    }


def _why_not(module: nn.Module) -> str:
    if isinstance(module, nn.Linear):
        return ""
    if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
        return f"a {type(module).__name__} does not see every input value alike"
    # A border of zeros is no border of the shifted value; one of the data's own values is.
    padded = module.padding != "valid" and any(module.padding)
    if padded and module.padding_mode == "zeros":
        return f"it pads its input with zeros (padding={module.padding})"
    return ""
