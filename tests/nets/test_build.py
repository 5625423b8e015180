"""From a manifest's architecture to the network."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosemzoo.nets import CosemUNet, build_network
from cosemzoo.nets.arguments import UNKNOWN
from cosemzoo.nets.recognise import recognise

SMALL = {"channels": 3, "widths_down": [1, 2, 3, 4], "widths_up": [2, 2, 3]}

widths = st.integers(1, 9)
triples = st.lists(st.integers(1, 5), min_size=3, max_size=3)
passes = st.lists(triples, min_size=1, max_size=3)


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@st.composite
def networks(draw: st.DrawFn) -> dict[str, Any]:
    levels = draw(st.integers(1, 4))
    final: dict[str, Any] = {"final_upsample": draw(st.none() | st.integers(1, 4))}
    if final["final_upsample"] is not None:
        final |= {"final_width": draw(widths), "kernel_sizes_final": draw(st.none() | st.tuples(passes))}
    return {
        "channels": draw(widths),
        "input_channels": draw(widths),
        "widths_down": draw(st.lists(widths, min_size=levels + 1, max_size=levels + 1)),
        "widths_up": draw(st.lists(widths, min_size=levels, max_size=levels)),
        "factors": draw(st.lists(st.integers(1, 4), min_size=levels, max_size=levels)),
        "upsampling": draw(st.sampled_from(["constant", "transposed"])),
        "kernel_sizes_down": draw(st.none() | st.lists(passes, min_size=levels + 1, max_size=levels + 1)),
        "kernel_sizes_up": draw(st.none() | st.lists(passes, min_size=levels, max_size=levels)),
        "activation_on_upsample": draw(st.booleans()),
        **final,
    }


# The first use of `meta` tensors takes a second.
@settings(deadline=None)
@given(networks())
def test_what_is_recognised_in_the_tensors_builds_them_again(arguments: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = build_network("cosem-unet", arguments)
        factor = arguments["final_upsample"] or 1
        found = recognise(shapes(network), input_voxel_size=(8, 8, 8), output_voxel_size=(8 / factor,) * 3)
        assert found is not None
        said = {name: arguments[name] for name in found if found[name] == UNKNOWN}
        assert {*said} <= {"factors", "activation_on_upsample"}
        again = build_network("cosem-unet", {**found, **said})
    assert str(again) == str(network)


def test_the_arguments_of_old_manifests_mean_the_published_network() -> None:
    old = {**SMALL, "activation_on_upsample": False}
    network, expected = build_network("cosem-unet", old), CosemUNet(**old)  # type: ignore[arg-type]
    assert str(network) == str(expected)
    assert "Upsample(scale_factor=(2.0, 2.0, 2.0)" in str(network)


def test_another_head_takes_the_place_of_the_manifests() -> None:
    assert shapes(build_network("cosem-unet", SMALL))["prediction_head.bias"] == (3,)
    assert shapes(build_network("cosem-unet", SMALL, channels=7))["prediction_head.bias"] == (7,)
    del (without := dict(SMALL))["channels"]
    assert shapes(build_network("cosem-unet", without, channels=7))["prediction_head.bias"] == (7,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "cosem_unet",
            r"no network 'cosem_unet' can be built; did you mean 'cosem-unet'\? \(known: cosem-unet\)",
        ),
        ("resnet", r"no network 'resnet' can be built \(known: cosem-unet\)"),
    ],
)
def test_an_unknown_network_is_refused_with_those_that_are_known(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_network(name, SMALL)


def test_arguments_that_are_not_the_networks_are_refused() -> None:
    # These two are parameters of the class, but no arguments of an architecture.
    with pytest.raises(ValueError, match=r"(?s)'device' is not known.*'dtype' is not known"):
        build_network("cosem-unet", {**SMALL, "device": "meta", "dtype": "half"})
    with pytest.raises(ValueError, match="channels is missing"):
        build_network("cosem-unet", {})
    with pytest.raises(ValueError, match="channels is 0"):
        build_network("cosem-unet", SMALL, channels=0)
