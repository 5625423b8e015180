"""A network from what a manifest says of its architecture."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from torch import nn

from cosemzoo.nets.arguments import read_arguments
from cosemzoo.nets.cosem import CosemUNet

#: The networks that can be built, by the name of a manifest's architecture.
NETWORKS: Final = ("cosem-unet",)


def build_network(name: str, arguments: Mapping[str, Any], *, channels: int | None = None) -> nn.Module:
    """Build the network of a manifest's architecture, with new weights.

    Parameters
    ----------
    name : str
        Of the architecture: ``"cosem-unet"``.
    arguments : mapping
        Its arguments, JSON values: those of `CosemUNet`. Anything but ``channels`` may be left out.
    channels : int, optional
        Output rows of the head, instead of those in the arguments.

    Raises
    ------
    ValueError
        If the architecture is unknown, or no network can be built from the arguments.

    Examples
    --------
    >>> small = {"channels": 14, "widths_down": [1, 2, 3, 4], "widths_up": [2, 2, 3]}
    >>> build_network("cosem-unet", small, channels=2).prediction_head
    Conv3d(2, 2, kernel_size=(1, 1, 1), stride=(1, 1, 1))
    """
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no network {name!r} can be built{hint} (known: {', '.join(NETWORKS)})")
    given = arguments if channels is None else {**arguments, "channels": channels}
    # Names that the class does not know are a TypeError there.
    read_arguments(given)
    return CosemUNet(**given)
