"""The run that the demonstration publishes: setup04 in names, labels and layers, its weights generated."""

from pathlib import Path
from typing import Final

import torch
from attrs import frozen

from cosemzoo._version import __version__
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.manifest import MANIFEST_FILE, Architecture, Channel, HeadTensor, Manifest, Target
from cosemzoo.nets import CosemUNet
from cosemzoo.nets.cosem import WIDTHS_DOWN, WIDTHS_UP
from cosemzoo.zoo.weights import SINGLE_FILE

#: The channels of setup04, in the order of its head.
LABELS: Final = (
    "ecs",
    "pm",
    "mito",
    "mito_mem",
    "ves",
    "ves_mem",
    "endo",
    "endo_mem",
    "er",
    "er_mem",
    "eres",
    "nuc",
    "mt",
    "mt_out",
)
ITERATION: Final = 1820500


@frozen
class Size:
    """How wide the network is."""

    words: str
    widths_down: tuple[int, ...]
    widths_up: tuple[int, ...]


FULL: Final = Size("in its real size", WIDTHS_DOWN, WIDTHS_UP)
REDUCED: Final = Size(
    "with a sixth of its feature maps",
    tuple(width // 6 for width in WIDTHS_DOWN),
    tuple(width // 6 for width in WIDTHS_UP),
)


def make_network(size: Size, channels: int, seed: int) -> CosemUNet:
    """Make a network with weights as they are before any training; the same seed gives the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CosemUNet(channels, widths_down=size.widths_down, widths_up=size.widths_up)


def write_run(folder: Path, size: Size) -> None:
    """Write the run's checkpoint into a folder, as a maintainer would to publish it."""
    folder.mkdir()
    network = make_network(size, len(LABELS), seed=4)
    write_safetensors(folder / SINGLE_FILE, network.state_dict())
    (folder / MANIFEST_FILE).write_text(_manifest(size).to_json(), encoding="utf-8")


def _manifest(size: Size) -> Manifest:
    return Manifest(
        run="setup04",
        iteration=ITERATION,
        channels=tuple(Channel(label, "distance") for label in LABELS),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        input_voxel_size=(8.0, 8.0, 8.0),
        output_voxel_size=(4.0, 4.0, 4.0),
        input_range=(-1.0, 1.0),
        input_sampling="every second voxel of 4 nm data, at a random offset",
        target=Target("tanh(signed distance / 50 nm)", scale=50.0, threshold=0.0),
        architecture=Architecture(
            "cosem-unet",
            {
                "channels": len(LABELS),
                "widths_down": list(size.widths_down),
                "widths_up": list(size.widths_up),
                "activation_on_upsample": True,
            },
        ),
        layout="cellmap-models",
        generated=True,
        tool_version=__version__,
    )
