"""Recognising the network from its tensors. The names are those that cellmap-models 0.2.4 gives them."""

import math
from typing import Any

import pytest
import torch
from attrs import evolve, field, frozen
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.nets import CosemUNet, build_network
from cosemzoo.nets.arguments import UNKNOWN
from cosemzoo.nets.recognise import recognise

Shapes = dict[str, tuple[int, ...]]
Kernels = list[list[list[int]]]

WIDTHS = {"widths_down": [12, 72, 432, 2592], "widths_up": [72, 72, 432]}
UNSAID = {"factors": UNKNOWN, "activation_on_upsample": UNKNOWN, "final_upsample": UNKNOWN}
PUBLISHED = {
    "input_channels": 1,
    "upsampling": "constant",
    "factors": [2, 3, 3],
    "activation_on_upsample": True,
    "final_upsample": 2,
    **WIDTHS,
}
USUAL = [[3, 3, 3], [3, 3, 3]]


@frozen(kw_only=True)
class Network:
    """A network as its parts are listed, by hand: not with the code that reads it."""

    down: list[int]
    up: list[int]
    inputs: int = 1
    channels: int = 2
    nested: bool = True
    final: int = 0
    transposed: str = ""
    factors: list[list[int]] = field(factory=list)
    kernels_down: Kernels = field(factory=list)
    kernels_up: Kernels = field(factory=list)
    kernels_final: list[list[int]] = field(factory=lambda: USUAL)

    def shapes(self) -> Shapes:
        shapes: Shapes = {}
        root = "backbone.0" if self.nested else "backbone"
        levels = len(self.down)

        def convolution(name: str, out: int, into: int, kernel: list[int]) -> None:
            shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into, *kernel), (out,)

        def up(name: str, out: int, into: int, factor: list[int]) -> None:
            if not self.transposed:
                convolution(f"{name}.up.1", out, into, [1, 1, 1])
            else:
                shapes[f"{name}.{self.transposed}.weight"] = (into, out, *factor)
                shapes[f"{name}.{self.transposed}.bias"] = (out,)

        def passes(name: str, out: int, into: int, kernels: list[list[int]]) -> None:
            for i, kernel in enumerate(kernels):
                convolution(f"{name}.conv_pass.{2 * i}", out, out if i else into, kernel)

        for i in range(levels):
            into = self.down[i - 1] if i else self.inputs
            passes(f"{root}.l_conv.{i}", self.down[i], into, self.kernels_down[i])
        for i in range(levels - 1):
            deeper = self.down[-1] if i == levels - 2 else self.up[i + 1]
            up(f"{root}.r_up.0.{i}", self.up[i], deeper, self.factors[i])
            passes(f"{root}.r_conv.0.{i}", self.up[i], self.up[i] + self.down[i], self.kernels_up[i])
        last = self.up[0]
        if self.nested:
            up("backbone.1", last, last, self.factors[-1])
            passes("backbone.2", self.final, last, self.kernels_final)
            last = self.final
        convolution("prediction_head", self.channels, last, [1, 1, 1])
        return shapes


widths = st.integers(1, 9)
sizes = st.lists(st.integers(1, 5), min_size=3, max_size=3)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    levels = draw(st.integers(2, 5))

    def kernels(count: int) -> Kernels:
        several = st.lists(sizes, min_size=1, max_size=3)
        return draw(st.lists(st.just(USUAL) | several, min_size=count, max_size=count))

    return Network(
        down=draw(st.lists(widths, min_size=levels, max_size=levels)),
        up=draw(st.lists(widths, min_size=levels - 1, max_size=levels - 1)),
        inputs=draw(widths),
        channels=draw(widths),
        nested=draw(st.booleans()),
        final=draw(widths),
        transposed=draw(st.sampled_from(["", "up", "up.0"])),
        factors=draw(st.lists(sizes, min_size=levels, max_size=levels)),
        kernels_down=kernels(levels),
        kernels_up=kernels(levels - 1),
        kernels_final=draw(st.just(USUAL) | st.lists(sizes, min_size=1, max_size=3)),
    )


PUBLISHED_FORM = Network(
    down=[12, 72, 432, 2592],
    up=[72, 72, 432],
    final=72,
    factors=[[2] * 3, [3] * 3, [3] * 3, [2] * 3],
    kernels_down=[USUAL] * 4,
    kernels_up=[USUAL] * 3,
)


def published(channels: int, *, nested: bool = True) -> Shapes:
    return evolve(PUBLISHED_FORM, channels=channels, nested=nested).shapes()


def short(factor: list[int]) -> int | list[int]:
    return factor[0] if len(set(factor)) == 1 else factor


@pytest.mark.parametrize("channels", [14, 3, 2])
def test_the_published_networks_are_recognised(channels: int) -> None:
    shapes = published(channels)
    assert len(shapes) == 42
    found = recognise(shapes, input_voxel_size=(8.0, 8.0, 8.0), output_voxel_size=(4.0, 4.0, 4.0))
    assert found == {**PUBLISHED, "channels": channels}


def test_the_form_without_a_final_upsampling_is_recognised() -> None:
    shapes = published(2, nested=False)
    backbone = [math.prod(shape) for name, shape in shapes.items() if name.startswith("backbone.")]
    assert (len(backbone), sum(backbone)) == (34, 234_681_468)
    assert recognise(shapes) == {**PUBLISHED, "channels": 2, "final_upsample": None}


@pytest.mark.parametrize(
    ("voxels_in", "voxels_out", "factor"),
    [
        ((8, 8, 8), (4, 4, 4), 2),
        ((4, 4, 4), (4, 4, 4), 1),
        ((1.2, 1.2, 1.2), (0.4, 0.4, 0.4), 3),
        ((8, 8, 8), (8, 4, 4), [1, 2, 2]),
        ((6, 6, 6), (4, 4, 4), UNKNOWN),
        ((4, 4, 4), (8, 8, 8), UNKNOWN),
        ((8, 8, 8), None, 2),
        (None, None, 2),
    ],
)
def test_the_final_upsampling_is_the_ratio_of_the_voxels_or_as_published_where_none_is_known(
    voxels_in: Any, voxels_out: Any, factor: object
) -> None:
    found = recognise(published(2), input_voxel_size=voxels_in, output_voxel_size=voxels_out)
    assert found == {**PUBLISHED, "channels": 2, "final_upsample": factor}


@given(
    st.integers(1, 20),
    st.lists(widths, min_size=4, max_size=4),
    st.lists(widths, min_size=3, max_size=3),
)
def test_nothing_is_made_up_of_a_network_whose_widths_are_not_the_published(
    channels: int, down: list[int], up: list[int]
) -> None:
    with torch.device("meta"):
        network = CosemUNet(channels, widths_down=down, widths_up=up)
    found = recognise({name: tensor.shape for name, tensor in network.state_dict().items()})
    widths = {"widths_down": down, "widths_up": up}
    assert found == {**PUBLISHED, **UNSAID, **widths, "channels": channels}
    with pytest.raises(
        ValueError, match="factors, activation_on_upsample, final_upsample: unknown"
    ) as caught:
        build_network("cosem-unet", found)
    assert "cosemzoo.architecture.arguments" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": 2},
        {"final": 71},
        {"up": [71, 72, 432]},
        {"down": [12, 72, 432, 2591]},
        {"kernels_down": [USUAL] * 3 + [[[1, 3, 3]] * 2]},
        {"kernels_final": USUAL[:1]},
    ],
)
def test_one_number_that_is_not_published_and_pooling_is_unknown(change: dict[str, Any]) -> None:
    found = recognise(evolve(PUBLISHED_FORM, **change).shapes())
    assert found is not None
    assert {name: found[name] for name in UNSAID} == UNSAID


@given(networks())
def test_any_consistent_network_is_recognised_with_what_it_was_made_from(network: Network) -> None:
    found = recognise(network.shapes(), input_voxel_size=(8, 8, 8), output_voxel_size=(4, 4, 4))
    assert found is not None
    assert (found.pop("widths_down"), found.pop("widths_up")) == (network.down, network.up)
    assert (found.pop("input_channels"), found.pop("channels")) == (network.inputs, network.channels)
    assert found.pop("upsampling") == ("transposed" if network.transposed else "constant")
    factors = [short(factor) for factor in network.factors] if network.transposed else []
    assert found.pop("factors") == (factors[: len(network.up)] or UNKNOWN)
    activated = network.transposed == "up.0" if network.transposed else UNKNOWN
    assert found.pop("activation_on_upsample") == activated
    final = found.pop("final_upsample")
    kernels = {"down": network.kernels_down, "up": network.kernels_up}
    if network.nested:
        kernels["final"] = [network.kernels_final]
        assert final == (factors[-1] if network.transposed else 2)
        assert found.pop("final_width", network.up[0]) == network.final
    else:
        assert final is None
    for name, those in kernels.items():
        assert found.pop(f"kernel_sizes_{name}", [USUAL] * len(those)) == those
    assert found == {}


@given(networks())
def test_what_is_recognised_builds_the_same_tensors_or_nothing(network: Network) -> None:
    found = recognise(network.shapes())
    assert found is not None
    if UNKNOWN in found.values():
        with pytest.raises(ValueError, match=": unknown, as no tensor says it"):
            build_network("cosem-unet", found)
        return
    with torch.device("meta"):
        built = build_network("cosem-unet", found)
    assert {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()} == network.shapes()


@given(networks(), st.data())
def test_a_tensor_that_is_missing_added_or_of_another_shape_makes_it_another_network(
    network: Network, data: st.DataObject
) -> None:
    shapes = network.shapes()
    name = data.draw(st.sampled_from(sorted(shapes)))
    shape = shapes[name]
    damage = data.draw(st.sampled_from(["missing", "added", "renamed", "rank", "bias"]))
    if damage == "bias":
        # A number of a weight is free where it alone says a kernel or a width; none of a bias is.
        name = name.replace(".weight", ".bias")
        shapes[name] = (shapes[name][0] + 1,)
    elif damage == "rank":
        shapes[name] = shape[:-1]
    else:
        if damage != "added":
            del shapes[name]
        if damage != "missing":
            shapes[f"{name}.more"] = shape
    assert recognise(shapes) is None


@pytest.mark.parametrize(
    "shapes",
    [
        {},
        {"backbone.conv.weight": (4, 2, 3), "prediction_head.weight": (3, 4), "prediction_head.bias": (3,)},
        {"prediction_head.weight": (2, 72, 1, 1, 1), "prediction_head.bias": (2,)},
        {name.replace("backbone.", "unet."): shape for name, shape in published(2).items()},
        {name: shape for name, shape in published(2).items() if ".r_" not in name},
        {name: shape for name, shape in published(2, nested=False).items() if ".r_" not in name},
        {name: shape for name, shape in published(2).items() if "l_conv.3" not in name},
        {name: shape[:-1] if len(shape) > 1 else shape for name, shape in published(2).items()},
        dict.fromkeys(published(2), ()),
    ],
    ids=[
        "nothing",
        "another",
        "a head",
        "other names",
        "no way up",
        "only down",
        "no bottom",
        "two dimensions",
        "scalars",
    ],
)
def test_what_is_no_such_network_is_not_recognised(shapes: Shapes) -> None:
    assert recognise(shapes) is None
