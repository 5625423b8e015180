"""The arithmetic of shapes, against a walk through the layers and against torch."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cosemzoo.nets import CosemUNet
from cosemzoo.nets.shapes import shapes_of

Arguments = dict[str, Any]

PUBLISHED: Arguments = {"channels": 2}
PLAIN: Arguments = {"channels": 2, "final_upsample": None}
EQUAL: Arguments = {"channels": 2, "final_upsample": 1}

sizes = st.integers(1, 4)
triples = st.lists(sizes, min_size=3, max_size=3)


@st.composite
def networks(draw: st.DrawFn) -> Arguments:
    levels = draw(st.integers(1, 3))
    padding = draw(st.sampled_from(["valid", "same"]))
    kernel = triples if padding == "valid" else st.lists(st.sampled_from([1, 3, 5]), min_size=3, max_size=3)
    passes = st.lists(kernel, min_size=1, max_size=3)
    final = draw(st.none() | sizes | triples)
    return {
        "channels": draw(sizes),
        "input_channels": draw(sizes),
        "widths_down": draw(st.lists(sizes, min_size=levels + 1, max_size=levels + 1)),
        "widths_up": draw(st.lists(sizes, min_size=levels, max_size=levels)),
        "factors": draw(st.lists(sizes | triples, min_size=levels, max_size=levels)),
        "upsampling": draw(st.sampled_from(["constant", "transposed"])),
        "final_upsample": final,
        "kernel_sizes_down": draw(st.none() | st.lists(passes, min_size=levels + 1, max_size=levels + 1)),
        "kernel_sizes_up": draw(st.none() | st.lists(passes, min_size=levels, max_size=levels)),
        "kernel_sizes_final": draw(st.none() | st.lists(passes, min_size=1, max_size=1)) if final else None,
        "padding": padding,
        "activation_on_upsample": draw(st.booleans()),
    }


def along(value: int | Sequence[int], axis: int) -> int:
    return value if isinstance(value, int) else value[axis]


def walk(arguments: Arguments, axis: int, size: int) -> int | None:
    """Follow an axis through the layers, as cellmap-models does: the output's size, or None."""
    levels = len(arguments["widths_up"])
    usual = [[3, 3, 3], [3, 3, 3]]
    valid = arguments["padding"] == "valid"
    factors = [along(factor, axis) for factor in arguments["factors"]]

    def lost(name: str, level: int) -> int:
        return sum(kernel[axis] - 1 for kernel in (arguments[name] or [usual] * (levels + 1))[level])

    for level in range(levels):
        size -= valid * lost("kernel_sizes_down", level)
        if size < 1 or size % factors[level]:
            return None
        size //= factors[level]
    size -= valid * lost("kernel_sizes_down", levels)
    for level in reversed(range(levels)):
        if size < 1:
            return None
        size *= factors[level]
        step, taken = 1, lost("kernel_sizes_up", level)
        for factor in factors[level:]:
            step *= factor
        kept = size - (size - taken) % step
        if kept != size and kept <= taken:
            return None
        size = kept - valid * taken
    if size >= 1 and arguments["final_upsample"] is not None:
        size = size * along(arguments["final_upsample"], axis) - valid * lost("kernel_sizes_final", 0)
    return size if size >= 1 else None


@given(networks())
def test_what_fits_and_what_comes_out_is_what_a_walk_through_the_layers_gives(arguments: Arguments) -> None:
    shapes = shapes_of(arguments)
    for axis, found in enumerate(shapes.axes):
        last = found.smallest + 2 * found.step
        fitting = {size: found.output_of(size) for size in range(1, last + 1) if found.fits(size)}
        walked = {size: walk(arguments, axis, size) for size in range(1, last + 1)}
        assert fitting == {size: output for size, output in walked.items() if output is not None}


# The first use of `meta` tensors takes a second.
@settings(deadline=None)
@given(networks(), st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_the_output_has_the_shape_that_the_arithmetic_gives(arguments: Arguments, steps: list[int]) -> None:
    network = CosemUNet(**arguments, device="meta")
    shape = [axis.smallest + n * axis.step for axis, n in zip(network.shapes.axes, steps, strict=True)]
    raw = torch.empty(2, arguments["input_channels"], *shape, device="meta")
    assert network(raw).shape == (2, arguments["channels"], *network.output_shape(shape))


@given(networks(), st.lists(st.integers(-5, 300), min_size=3, max_size=3))
def test_the_valid_input_is_the_smallest_that_fits_and_is_large_enough(
    arguments: Arguments, at_least: list[int]
) -> None:
    shapes = shapes_of(arguments)
    found = shapes.valid_input_shape(at_least)
    for size, wanted, axis in zip(found, at_least, shapes.axes, strict=True):
        assert axis.fits(size)
        assert size >= wanted
        assert not any(axis.fits(smaller) for smaller in range(wanted, size))


@given(networks())
def test_the_context_is_what_the_output_lacks_at_each_end(arguments: Arguments) -> None:
    shapes = shapes_of(arguments)
    size = shapes.valid_input_shape((50, 60, 70))
    output = shapes.output_shape(size)
    for axis, lacking in enumerate(shapes.context):
        factor = along(arguments["final_upsample"] or 1, axis)
        assert (size[axis] - 2 * lacking) * factor == pytest.approx(output[axis])


@pytest.mark.parametrize(
    ("arguments", "outputs", "context"),
    [(PUBLISHED, (32, 68, 104), 91.0), (PLAIN, (18, 36, 54), 90.0), (EQUAL, (14, 32, 50), 92.0)],
    ids=["8 nm to 4 nm", "plain", "4 nm to 4 nm with final convolutions"],
)
def test_the_sizes_of_the_published_networks(
    arguments: Arguments, outputs: tuple[int, int, int], context: float
) -> None:
    shapes = shapes_of(arguments)
    assert shapes.valid_input_shape() == (198, 198, 198)
    assert shapes.output_shape((198, 216, 234)) == outputs
    assert shapes.context == (context,) * 3


def test_padding_the_published_networks_takes_smaller_inputs_and_still_crops() -> None:
    shapes = shapes_of({**PLAIN, "padding": "same"})
    assert shapes.valid_input_shape() == (54, 54, 54)
    assert shapes.output_shape((54, 72, 216)) == (22, 40, 184)


def test_an_input_that_does_not_fit_is_refused_with_the_nearest_that_do() -> None:
    with pytest.raises(ValueError, match="does not fit") as raised:
        shapes_of(PUBLISHED).output_shape((217, 216, 180))
    assert str(raised.value) == (
        "an input of 217 x 216 x 180 voxels (z y x) does not fit the network: "
        "z has 217, the nearest that fit are 216 and 234; x has 180, the smallest that fits is 198. "
        "The next larger input that fits has 234 x 216 x 198."
    )


@pytest.mark.parametrize("sizes", [(20,), (1, 1, 20, 20, 20), 20])
def test_voxels_are_three_numbers(sizes: Any) -> None:
    shapes = shapes_of(PUBLISHED)
    for method in (shapes.valid_input_shape, shapes.output_shape):
        with pytest.raises(ValueError, match="three numbers, not"):
            method(sizes)


def test_the_arithmetic_needs_no_torch() -> None:
    check = (
        "import sys; from cosemzoo.nets.shapes import shapes_of; "
        "print(shapes_of({'channels': 2}).output_shape((216, 216, 216)), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "(68, 68, 68) False\n"
