"""Loads into a network that exists."""

import ctypes
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import nn

from benchmarks.network import LABELS, RUN, SIZES
from cosemzoo.nets import CosemUNet

_Act = Callable[[], object]


def prepare(contestant: str, path: str, size: str, device: str) -> _Act:
    """Build the network, with weights of its own.

    Parameters
    ----------
    contestant : str
        One of `ACTIONS`.
    path : str
        What it loads: a file, for cosemzoo a reference.
    size : str
        One of `SIZES`.
    device : str
        Where the network is.
    """
    network = CosemUNet(len(LABELS), **SIZES[size]).to(device)
    act = ACTIONS[contestant](network, path)
    if device == "cpu":
        return act

    def act_and_wait() -> object:
        done = act()
        torch.cuda.synchronize()
        return done

    return act_and_wait


def _cosemzoo(network: nn.Module, reference: str) -> _Act:
    from cosemzoo import load_into

    return lambda: load_into(network, reference, new_head=LABELS, strict="require")


def _copy(network: nn.Module, _: str) -> _Act:
    pairs = [(tensor.detach().clone(), tensor.detach()) for tensor in network.state_dict().values()]

    def act() -> None:
        for source, target in pairs:
            target.copy_(source)

    return act


def _memmove(network: nn.Module, _: str) -> _Act:
    pairs = [(tensor.detach().clone(), tensor.detach()) for tensor in network.state_dict().values()]

    def act() -> None:
        for source, target in pairs:
            ctypes.memmove(target.data_ptr(), source.data_ptr(), target.nbytes)

    return act


def _torch(network: nn.Module, path: str) -> _Act:
    return lambda: network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))


def _torch_mapped(network: nn.Module, path: str) -> _Act:
    return lambda: network.load_state_dict(torch.load(path, weights_only=True, mmap=True, map_location="cpu"))


def _safetensors(network: nn.Module, path: str) -> _Act:
    from safetensors.torch import load_model

    return lambda: load_model(network, path)


def _hub(network: nn.Module, path: str) -> _Act:
    from huggingface_hub import load_torch_model

    return lambda: load_torch_model(network, path, strict=True)


def _dacapo(network: nn.Module, path: str) -> _Act:
    from benchmarks.peers import AliasedNetwork, dacapo_set_weights

    logging.disable(logging.WARNING)
    model, set_weights = AliasedNetwork(network), dacapo_set_weights()

    def act() -> None:
        weights: Any = SimpleNamespace(**torch.load(path, weights_only=True, map_location="cpu"))
        set_weights(model, weights, RUN, "1820500")

    return act


ACTIONS: Final[dict[str, Callable[[nn.Module, str], _Act]]] = {
    "cosemzoo": _cosemzoo,
    "copy": _copy,
    "memmove": _memmove,
    "torch": _torch,
    "torch, mapped": _torch_mapped,
    "safetensors": _safetensors,
    "huggingface_hub": _hub,
    "dacapo": _dacapo,
}
