"""Reading the arguments of a network, whoever wrote them."""

from typing import Any

import numpy as np
import pytest
from attrs import asdict
from hypothesis import given
from hypothesis import strategies as st

from cosemzoo.nets.arguments import CosemArguments, read_arguments


def refusal(arguments: Any) -> str:
    with pytest.raises(ValueError, match="no cosem-unet can be built from these arguments:") as raised:
        read_arguments(arguments)
    return str(raised.value)


def test_what_is_left_out_is_as_in_the_published_networks() -> None:
    usual = ((3, 3, 3), (3, 3, 3))
    assert read_arguments({"channels": 14}) == CosemArguments(
        channels=14,
        input_channels=1,
        widths_down=(12, 72, 432, 2592),
        widths_up=(72, 72, 432),
        factors=((2, 2, 2), (3, 3, 3), (3, 3, 3)),
        upsampling="constant",
        final_upsample=(2, 2, 2),
        final_width=72,
        kernel_sizes_down=(usual,) * 4,
        kernel_sizes_up=(usual,) * 3,
        kernel_sizes_final=(usual,),
        padding="valid",
        activation_on_upsample=True,
    )


def test_nothing_follows_the_plain_form() -> None:
    read = read_arguments({"channels": 2, "final_upsample": None})
    assert (read.final_upsample, read.final_width, read.kernel_sizes_final) == (None, 72, ())


def test_one_number_stands_for_three_axes() -> None:
    read = read_arguments(
        {
            "channels": 1,
            "widths_down": [1, 2],
            "widths_up": [3],
            "factors": [[1, 2, 3]],
            "final_upsample": [1, 1, 2],
            "kernel_sizes_up": [[3, [1, 3, 3]]],
        }
    )
    assert read.factors == ((1, 2, 3),)
    assert read.final_upsample == (1, 1, 2)
    assert read.kernel_sizes_up == (((3, 3, 3), (1, 3, 3)),)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("channels", 0, "channels is 0; it must be a whole number from 1 to 100,000"),
        ("channels", None, "channels is missing; say how many rows the head has"),
        ("channels", True, "channels is True"),
        ("channels", 10**9, "channels is 1000000000"),
        ("input_channels", 1.0, "input_channels is 1.0"),
        ("input_channels", "1", "input_channels is '1'"),
        ("widths_down", [12, -72, 432, 2592], "widths_down[1] is -72"),
        ("widths_down", 12, "widths_down is 12; it must be a list"),
        ("widths_down", [12, 72, 432], "widths_down has 3 entries and widths_up has 3"),
        ("widths_up", [], "widths_up is []; it must be a list"),
        ("widths_up", "72", "widths_up is '72'; it must be a list"),
        ("widths_up", [1] * 17, "it must be a list of 1 to 16 whole numbers"),
        ("factors", [2, 3], "factors has 2 entries; widths_up has 3 levels"),
        ("factors", [2, 3, 0], "factors[2] is 0"),
        ("factors", [2, 3, [3, 3]], "factors[2] is [3, 3]; it must be one number, or three for z, y and x"),
        ("factors", [2, 3, 33], "factors[2] is 33; it must be a whole number from 1 to 32"),
        ("upsampling", "linear", "upsampling is 'linear'; it must be 'constant' or 'transposed'"),
        ("upsampling", ["constant"], "upsampling is ['constant']"),
        ("padding", "reflect", "padding is 'reflect'; it must be 'valid' or 'same'"),
        ("final_upsample", 0, "final_upsample is 0"),
        ("final_upsample", False, "final_upsample is False"),
        ("final_width", [72], "final_width is [72]"),
        ("kernel_sizes_down", [[3, 3]] * 3, "kernel_sizes_down has 3 entries"),
        ("kernel_sizes_up", [[3, 3], [], [3]], "kernel_sizes_up[1] is []; it must be a list"),
        ("kernel_sizes_up", [[3, 3], [[3, 3, -1]], [3]], "kernel_sizes_up[1][0][2] is -1"),
        ("kernel_sizes_final", [[3], [3]], "kernel_sizes_final has 2 entries"),
        ("activation_on_upsample", "yes", "activation_on_upsample is 'yes'; it must be true or false"),
        ("activation_on_upsample", 1, "activation_on_upsample is 1"),
        ("widths_dwon", [1], "'widths_dwon' is not known; did you mean 'widths_down'? known are: channels, "),
        ("dropout", 0.5, "'dropout' is not known; known are: channels, "),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_name(name: str, value: Any, said: str) -> None:
    assert said in refusal({"channels": 2, name: value})


def test_an_array_is_refused_in_words() -> None:
    said = refusal({"channels": 2, "widths_down": np.array([1, 2, 2, 2])})
    assert "widths_down is array([1, 2, 2, 2]); it must be a list" in said


def test_everything_that_is_wrong_is_said_at_once() -> None:
    said = refusal({"width": 3, "widths_up": [0, 1], "padding": 3, "final_upsample": None, "final_width": 4})
    problems = [line.removeprefix("  - ").split(" ")[0] for line in said.splitlines()[1:]]
    assert problems == [
        "'width'",
        "widths_up[0]",
        "final_width",
        "channels",
        "factors",
        "padding",
        "widths_down",
    ]


def test_what_would_follow_the_plain_form_is_refused() -> None:
    said = refusal({"channels": 1, "final_upsample": None, "kernel_sizes_final": [[3]], "final_width": 2})
    assert "kernel_sizes_final is given, but final_upsample is None" in said
    assert "final_width is given, but final_upsample is None" in said


def test_even_kernels_cannot_be_padded() -> None:
    arguments = {"channels": 1, "kernel_sizes_up": [[3], [[3, 3, 2]], [3]]}
    assert read_arguments(arguments).kernel_sizes_up[1] == ((3, 3, 2),)
    assert "kernel_sizes_up has an even size" in refusal({**arguments, "padding": "same"})


def test_a_long_value_is_shown_in_part() -> None:
    assert len(refusal({"channels": "x" * 10_000})) < 300


json = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*asdict(read_arguments({"channels": 1})), "more"]), json))
def test_whatever_is_given_is_read_or_refused_in_words(arguments: dict[str, Any]) -> None:
    message = "no cosem-unet can be built from these arguments:\n  - "
    try:
        read = read_arguments(arguments)
    except ValueError as error:
        text = str(error)
    else:
        text = message
        assert read.channels == arguments["channels"]
        assert len(read.widths_down) == len(read.kernel_sizes_down) == len(read.factors) + 1
    assert text.startswith(message)
