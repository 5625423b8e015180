"""The COSEM U-Net. Names and shapes were read off the network that cellmap-models 0.2.4 builds."""

import pytest
import torch

from cosemzoo.nets import CosemUNet, output_size

# Each convolution of setup04: its name, and the shape of its weight.
CONVOLUTIONS = {
    "backbone.0.l_conv.0.conv_pass.0": (12, 1, 3, 3, 3),
    "backbone.0.l_conv.0.conv_pass.2": (12, 12, 3, 3, 3),
    "backbone.0.l_conv.1.conv_pass.0": (72, 12, 3, 3, 3),
    "backbone.0.l_conv.1.conv_pass.2": (72, 72, 3, 3, 3),
    "backbone.0.l_conv.2.conv_pass.0": (432, 72, 3, 3, 3),
    "backbone.0.l_conv.2.conv_pass.2": (432, 432, 3, 3, 3),
    "backbone.0.l_conv.3.conv_pass.0": (2592, 432, 3, 3, 3),
    "backbone.0.l_conv.3.conv_pass.2": (2592, 2592, 3, 3, 3),
    "backbone.0.r_up.0.0.up.1": (72, 72, 1, 1, 1),
    "backbone.0.r_up.0.1.up.1": (72, 432, 1, 1, 1),
    "backbone.0.r_up.0.2.up.1": (432, 2592, 1, 1, 1),
    "backbone.0.r_conv.0.0.conv_pass.0": (72, 84, 3, 3, 3),
    "backbone.0.r_conv.0.0.conv_pass.2": (72, 72, 3, 3, 3),
    "backbone.0.r_conv.0.1.conv_pass.0": (72, 144, 3, 3, 3),
    "backbone.0.r_conv.0.1.conv_pass.2": (72, 72, 3, 3, 3),
    "backbone.0.r_conv.0.2.conv_pass.0": (432, 864, 3, 3, 3),
    "backbone.0.r_conv.0.2.conv_pass.2": (432, 432, 3, 3, 3),
    "backbone.1.up.1": (72, 72, 1, 1, 1),
    "backbone.2.conv_pass.0": (72, 72, 3, 3, 3),
    "backbone.2.conv_pass.2": (72, 72, 3, 3, 3),
    "prediction_head": (14, 72, 1, 1, 1),
}


def small(*, channels: int = 2, activation_on_upsample: bool = True) -> CosemUNet:
    """Make a network whose output follows its input: as it is made, hardly anything comes through."""
    torch.manual_seed(4)
    network = CosemUNet(
        channels,
        widths_down=(1, 2, 3, 4),
        widths_up=(2, 2, 3),
        activation_on_upsample=activation_on_upsample,
    ).requires_grad_(False)
    for tensor in network.parameters():
        if tensor.dim() == 5:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        else:
            tensor.fill_(0.1)
    return network


def is_varied(output: torch.Tensor) -> bool:
    return bool(output[0, 0].std() > 0.1 * output[0, 0].mean().abs())


def test_the_names_and_shapes_are_those_of_the_published_networks() -> None:
    with torch.device("meta"):
        network = CosemUNet(14)
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in CONVOLUTIONS.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    found = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert list(found.items()) == list(expected.items())
    assert sum(tensor.numel() for tensor in network.parameters()) == 234_967_826


@pytest.mark.parametrize("activation_on_upsample", [True, False])
def test_the_activation_has_no_part_in_the_names(activation_on_upsample: bool) -> None:
    assert list(small(activation_on_upsample=activation_on_upsample).state_dict()) == [
        f"{name}.{kind}" for name in CONVOLUTIONS for kind in ("weight", "bias")
    ]


def test_the_output_has_the_size_that_the_arithmetic_gives_along_each_axis() -> None:
    network = small(channels=3)
    assert network(torch.zeros(1, 1, 198, 216, 198)).shape == (1, 3, 32, 68, 32)
    assert [output_size(size) for size in (198, 216, 234)] == [32, 68, 104]


def test_an_input_moved_by_a_step_gives_the_same_output_moved() -> None:
    network = small()
    raw = torch.rand(1, 1, 216, 198, 198)
    whole, moved = network(raw), network(raw[:, :, 18:])
    assert is_varied(whole)
    torch.testing.assert_close(whole[:, :, 36:], moved)


def test_the_output_is_centred_in_the_input() -> None:
    # A mirrored input gives the mirrored output where every kernel is its own mirror image. So it is for the
    # finest level alone: the crops below it are odd, and take one voxel more at the end of an axis.
    network = small()
    network.get_parameter("backbone.0.r_up.0.0.up.1.weight").zero_()
    for tensor in network.parameters():
        if tensor.dim() == 5:
            tensor.copy_((tensor + tensor.flip(-3)) / 2)
    raw = torch.rand(1, 1, 198, 198, 198)
    output = network(raw)
    assert is_varied(output)
    torch.testing.assert_close(network(raw.flip(-3)), output.flip(-3))


def test_the_activation_follows_every_upsampling() -> None:
    def upsampled(network: CosemUNet) -> list[float]:
        values = []
        for name in CONVOLUTIONS:
            if name.endswith(".up.1"):
                convolution = network.get_submodule(name)
                for tensor in convolution.parameters():
                    tensor.fill_(-1.0)
                features = torch.ones(1, network.get_parameter(f"{name}.weight").shape[1], 1, 1, 1)
                values.append(float(network.get_submodule(name.removesuffix(".up.1"))(features).max()))
        return values

    assert upsampled(small()) == [0.0] * 4
    assert upsampled(small(activation_on_upsample=False)) == [-3.0, -4.0, -5.0, -3.0]


@pytest.mark.parametrize(("size", "nearest"), [(180, 198), (200, 198), (217, 216), (0, 198)])
def test_an_input_that_does_not_fit_is_refused_with_what_does(size: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"{size} voxels .* 198 \+ 18·k .* nearest is {nearest}$"):
        small()(torch.zeros(1, 1, 198, 198, size))
