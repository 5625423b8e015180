"""The COSEM network as the module tree of every code base, and what is put around a network."""

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import torch
from torch import nn

from benchmarks.peers import AliasedNetwork
from cosemzoo.nets import CosemUNet

#: Widths at which every layer is there, DaCapo can build it, and a load takes milliseconds.
NARROW: Final[Mapping[str, Any]] = {"widths_down": (2, 4, 8, 16), "widths_up": (4, 4, 8)}


class OlderNetwork(nn.Module):
    """A network whose tensors have the names of cellmap-models before 2024-03-18."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.unet = network.get_submodule("backbone")
        self.prediction_head = network.get_submodule("prediction_head")


class MainNetwork(nn.Module):
    """A network whose tensors have the names of DaCapo's main branch, whose architecture is the U-Net."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.prediction_head = network.get_submodule("prediction_head")
        self.chain = nn.Sequential(network.get_submodule("backbone"), self.prediction_head)


class LightningNetwork(nn.Module):
    """A network that is an attribute of a module, as it is in a training of Lightning."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network


def compiled(network: nn.Module) -> nn.Module:
    """Give a network that is compiled when it is first run."""
    return cast("nn.Module", torch.compile(network))


#: The tree of every code base, by the name of its layout; the modules in it are those of the network.
TREES: Final[Mapping[str, Callable[[nn.Module], nn.Module]]] = {
    "cellmap-models": lambda network: network,
    "cellmap-models before 2024-03": OlderNetwork,
    "dacapo 0.3": AliasedNetwork,
    "dacapo main": MainNetwork,
}


def names_of(tree: nn.Module, network: nn.Module) -> dict[str, str]:
    """Give the network's name for every name in a tree of it: one tensor is one object."""
    own = {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items()}
    return {name: own[id(tensor)] for name, tensor in tree.state_dict(keep_vars=True).items()}


def random_network(channels: int, seed: int, **arguments: Any) -> CosemUNet:
    """Build a narrow network in which every value is another."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = CosemUNet(channels, **{**NARROW, **arguments})
        for tensor in network.parameters():
            nn.init.normal_(tensor)
    return network
