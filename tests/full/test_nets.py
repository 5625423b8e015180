"""The same numbers as the networks of cellmap-models 0.2.4, with the same weights and activations."""

import gc
import time
from collections import OrderedDict
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.nets import CosemUNet

pytestmark = pytest.mark.full

USUAL = [(3, 3, 3), (3, 3, 3)]
SMALL: dict[str, Any] = {"widths_down": [1, 2, 3, 4], "widths_up": [2, 2, 3], "factors": [2, 3, 3]}
QUICK: dict[str, Any] = {"widths_down": [2, 3, 4], "widths_up": [3, 3], "factors": [2, 3]}
VARIANTS: dict[str, dict[str, Any]] = {
    "8 nm to 4 nm": SMALL,
    "4 nm to 4 nm": {**SMALL, "final_upsample": 1},
    "plain": {**SMALL, "final_upsample": None},
    "wider in the middle": {**SMALL, "widths_down": [3, 5, 4, 6], "widths_up": [4, 4, 5], "final_width": 7},
    "two inputs": {**QUICK, "input_channels": 2},
    "one level": {"widths_down": [2, 3], "widths_up": [3], "factors": [4]},
    "four levels": {"widths_down": [1, 2, 2, 2, 3], "widths_up": [2, 2, 2, 2], "factors": [2, 2, 2, 1]},
    "other factors": {**QUICK, "factors": [5, 2], "final_upsample": 3},
    "anisotropic": {**QUICK, "factors": [(1, 2, 2), (3, 2, 1)], "final_upsample": (1, 2, 3)},
    "other kernels": {
        **QUICK,
        "kernel_sizes_down": [[(1, 3, 3), (3, 3, 3)], [(3, 3, 3)], [(5, 3, 1)]],
        "kernel_sizes_up": [[(3, 3, 3)], [(1, 3, 5), (3, 1, 1), (3, 3, 3)]],
        "kernel_sizes_final": [[(3, 3, 3), (1, 1, 1), (3, 5, 1)]],
    },
}
FORMS = [
    (upsampling, activation, padding)
    for upsampling in ("constant", "transposed")
    for activation in (True, False)
    for padding in ("valid", "same")
]

#: Voxels beyond the smallest input that fits.
ROOM = {"valid": 0, "same": 40}


def triple(value: int | tuple[int, int, int]) -> tuple[int, int, int]:
    return (value,) * 3 if isinstance(value, int) else value


def peer(channels: int, **arguments: Any) -> nn.Module:
    """Build the network of cellmap-models from our arguments."""
    # Only `make test-full` installs it.
    module = import_module("cellmap_models.pytorch.cosem.load_model")
    given: dict[str, Any] = {
        "in_channels": arguments.get("input_channels", 1),
        "downsample_factors": [triple(factor) for factor in arguments["factors"]],
        "kernel_size_down": arguments.get("kernel_sizes_down"),
        "kernel_size_up": arguments.get("kernel_sizes_up"),
        "feature_widths_down": arguments["widths_down"],
        "feature_widths_up": [*arguments["widths_up"], arguments["widths_down"][-1]],
        "constant_upsample": arguments["upsampling"] == "constant",
        "padding": arguments["padding"],
        "activation_on_upsample": arguments["activation_on_upsample"],
    }
    width, factor = arguments["widths_up"][0], arguments.get("final_upsample", 2)
    if factor is None:
        head = nn.Conv3d(width, channels, 1)
        unet = module.CNNectomeUNetModule(activation="ReLU", **given)
        return nn.Sequential(OrderedDict(backbone=unet, prediction_head=head))

    class Unmeasured(module.Architecture):  # type: ignore[misc, name-defined]
        """It runs the network in its constructor; what it measures there is not needed."""

        def compute_minimal_shapes(self) -> None:
            pass

    return Unmeasured(
        SimpleNamespace(
            **given,
            upsample_factor=triple(factor),
            final_kernel_size=(arguments.get("kernel_sizes_final") or [USUAL])[0],
            final_feature_width=arguments.get("final_width", width),
            classes_out=channels,
        )
    )


def lively(network: nn.Module) -> nn.Module:
    """Fill a network with weights that let its input come through."""
    generator = torch.Generator().manual_seed(4)
    for tensor in network.requires_grad_(False).eval().parameters():
        if tensor.dim() == 5:
            nn.init.kaiming_normal_(tensor, nonlinearity="relu", generator=generator)
        else:
            tensor.fill_(0.1)
    return network


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("upsampling", "activation", "padding"), FORMS)
def test_the_numbers_are_those_of_the_peer(
    name: str, upsampling: str, activation: bool, padding: str
) -> None:
    form = {"upsampling": upsampling, "activation_on_upsample": activation, "padding": padding}
    arguments = VARIANTS[name] | form
    theirs, ours = lively(peer(2, **arguments)), CosemUNet(2, **arguments)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    ours.load_state_dict(theirs.state_dict())
    torch.manual_seed(5)
    # With padding, the peer wants more of axes that it does not crop, if it crops another.
    z, y, x = ours.valid_input_shape([size + ROOM[padding] for size in ours.valid_input_shape()])
    shape = (z + ours.shapes.axes[0].step, y, x)
    raw = torch.randn(1, arguments.get("input_channels", 1), *shape)
    expected, found = theirs(raw), ours(raw)
    assert expected.std() > 0
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_the_shapes_that_fit_are_those_that_the_peer_takes(name: str, padding: str) -> None:
    arguments = VARIANTS[name] | {
        "padding": padding,
        "upsampling": "constant",
        "activation_on_upsample": True,
    }
    with torch.device("meta"):
        theirs, ours = peer(2, **arguments), CosemUNet(2, **arguments)
    axis, *others = ours.shapes.axes
    # Enough for the peer along the other axes, see above.
    rest = [other.at_least(other.smallest + ROOM[padding]) for other in others]

    def taken(size: int) -> bool:
        raw = torch.zeros(1, arguments.get("input_channels", 1), size, *rest, device="meta")
        try:
            output = theirs(raw)
        except (AssertionError, RuntimeError):
            return False
        return tuple(output.shape[2:]) == ours.output_shape((size, *rest))

    largest = axis.smallest + ROOM[padding] + 3 * axis.step
    found = [size for size in range(1, largest) if taken(size)]
    fitting = [size for size in range(1, largest) if axis.fits(size)]
    if padding == "valid":
        assert found == fitting
    else:
        assert found == fitting[len(fitting) - len(found) :] != []


def test_the_same_seed_gives_the_same_new_weights() -> None:
    form = {"upsampling": "constant", "activation_on_upsample": True, "padding": "valid"}
    torch.manual_seed(4)
    theirs = peer(3, **SMALL, **form).state_dict()
    torch.manual_seed(4)
    ours = CosemUNet(3, **SMALL).state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_the_published_network_in_its_full_size_gives_the_numbers_of_the_peer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    form = {"upsampling": "constant", "activation_on_upsample": True, "padding": "valid"}
    arguments = {"widths_down": [12, 72, 432, 2592], "widths_up": [72, 72, 432], "factors": [2, 3, 3]}
    start = time.perf_counter()
    ours = CosemUNet(14)
    built = time.perf_counter() - start
    ours = lively(ours)  # type: ignore[assignment]
    with torch.device("meta"):
        theirs = peer(14, **arguments, **form).eval()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    raw = torch.rand(1, 1, 216, 216, 216, generator=torch.Generator().manual_seed(5))
    outputs, seconds = [], []
    for network in (theirs, ours):
        gc.collect()
        start = time.perf_counter()
        with torch.no_grad():
            outputs.append(network(raw))
        seconds.append(time.perf_counter() - start)
    assert outputs[1].shape == (1, 14, 68, 68, 68)
    assert outputs[1].std() > 0.1
    assert torch.equal(*outputs)
    with capsys.disabled():
        print(
            f"\nbuilt in {built:.2f} s; 216 x 216 x 216 voxels in {seconds[1]:.1f} s, "
            f"{seconds[1] / seconds[0]:.2f} times what the peer takes"
        )


def test_the_published_form_is_exported_for_every_shape() -> None:
    network = lively(CosemUNet(2, **SMALL))
    steps = [torch.export.Dim(f"steps_{axis}", min=11, max=64) for axis in "zyx"]
    shape = {2 + i: 18 * along for i, along in enumerate(steps)}
    traced = torch.rand(1, 1, 216, 216, 216)
    exported = torch.export.export(network, (traced,), dynamic_shapes={"raw": shape}).module()
    for given in ((216, 216, 216), (234, 234, 234), (198, 216, 234)):
        raw = torch.rand(1, 1, *given)
        assert torch.equal(exported(raw), network(raw))


# What torch warns of are parts of its own.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_the_published_form_is_compiled() -> None:
    network = lively(CosemUNet(2, **SMALL))
    # torch 2.13 cannot compile convolutions for any size of all three axes: pytorch/pytorch#188323.
    compiled = torch.compile(network, dynamic=False)
    for size in (198, 216):
        raw = torch.rand(1, 1, size, size, size)
        torch.testing.assert_close(compiled(raw), network(raw))
