"""From nothing to a network with its weights; what it needs is imported before."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Final

import torch
from torch import nn

from benchmarks.network import LABELS, SIZES

_Act = Callable[[], nn.Module]


def prepare(contestant: str, path: str, size: str, device: str, *, read: bool = False) -> _Act:
    """Import what is needed.

    Parameters
    ----------
    contestant : str
        One of `ACTIONS`.
    path : str
        What it loads: a file, for cosemzoo a reference, for cellmap-models the folder to import it from.
    size : str
        One of `SIZES`.
    device : str
        Where the network is to be.
    read : bool
        Whether to read every parameter once as well.
    """
    act = ACTIONS[contestant](path, size, torch.device(device))

    def act_and_read() -> nn.Module:
        network = act()
        if device != "cpu":
            torch.cuda.synchronize()
        if read:
            with torch.no_grad():
                for tensor in network.state_dict().values():
                    tensor.sum()
        return network

    return act_and_read


def _shared(reference: str, _: str, device: torch.device) -> _Act:
    from cosemzoo.ready import load_model

    return lambda: load_model(reference, device=device)


def _copied(reference: str, _: str, device: torch.device) -> _Act:
    from cosemzoo.ready import load_model

    return lambda: load_model(reference, device=device, share=False)


def _torch(path: str, size: str, device: torch.device) -> _Act:
    from cosemzoo.nets import CosemUNet

    def act() -> nn.Module:
        network = CosemUNet(len(LABELS), **SIZES[size])
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.to(device).eval()

    return act


def _cellmap_models(folder: str, _: str, device: torch.device) -> _Act:
    sys.path.insert(0, folder)
    load_model = import_module("cellmap_models.pytorch.cosem").load_model

    def act() -> nn.Module:
        network: nn.Module = load_model("setup04/1820500")
        return network.to(device)

    return act


ACTIONS: Final[dict[str, Callable[[str, str, torch.device], _Act]]] = {
    "share=True": _shared,
    "share=False": _copied,
    "torch": _torch,
    "cellmap-models": _cellmap_models,
}
