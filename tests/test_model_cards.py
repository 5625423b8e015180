"""The cards of the COSEM runs, against what is known of them."""

# ruff: noqa: RUF001 - signs as the cards print them

import math
import re
from pathlib import Path

import pytest
from attrs import frozen

from cosemzoo.manifest import Target
from cosemzoo.nets import CosemUNet
from cosemzoo.nets.cosem import WIDTHS_DOWN, WIDTHS_UP
from cosemzoo.publishing.card import RunCard, check_card
from cosemzoo.reference import known_runs

CARDS = Path(__file__).parents[1] / "model_cards"


@frozen
class Published:
    """A run as it was published: its head's rows in their order, its iterations, nm, parameters."""

    head: str
    iterations: tuple[int, ...]
    input_voxel: float
    parameters: int


RUNS = {
    "setup04": Published(
        "ecs pm mito mito_mem ves ves_mem endo endo_mem er er_mem eres nuc mt mt_out",
        (625000, 975000, 1820500),
        8,
        234_967_826,
    ),
    "setup26.1": Published("mito mito_mem mito_ribo", (650000, 2580000), 8, 234_967_023),
    "setup28": Published("er er_mem", (775000, 1440000), 8, 234_966_950),
    "setup36": Published("nuc nucleo", (500000, 1100000), 8, 234_966_950),
    "setup45": Published("ecs pm", (625000, 1634500), 4, 234_966_950),
}

# Classes of the COSEM ground truth, where they were confirmed.
CLASS_IDS = {
    "ecs": "1",
    "pm": "2",
    "mito": "3, 4, 5",
    "mito_mem": "3",
    "mito_ribo": "5",
    "ves": "8, 9",
    "endo": "10, 11",
    "er": "16–23",
    "er_mem": "16, 18, 20",
    "eres": "18, 19",
    "nuc": "20–29, 37",
    "nucleo": "29",
    "mt": "30, 36",
    "mt_out": "30",
}

THICKNESS = {
    "jrc_hela-2": "5.24",
    "jrc_hela-3": "3.24",
    "jrc_jurkat-1": "3.44",
    "jrc_macrophage-2": "3.36",
    "jrc_sum159-1": "4.56",
}

every_run = pytest.mark.parametrize("run", RUNS)


def card_of(run: str) -> RunCard:
    return check_card(CARDS / f"{run}.md")


def prose_of(run: str) -> str:
    return " ".join(card_of(run).body.split())


def parameters_of(rows: int, *, plain: bool = False) -> int:
    """Count the parameters of the published network, without its head if it is the plain U-Net."""

    def conv(before: int, after: int, size: int) -> int:
        return after * before * size**3 + after

    down = sum(
        conv(before, width, 3) + conv(width, width, 3)
        for before, width in zip((1, *WIDTHS_DOWN), WIDTHS_DOWN, strict=False)
    )
    below = (*WIDTHS_UP[1:], WIDTHS_DOWN[-1])
    up = sum(
        conv(wide, width, 1) + conv(left + width, width, 3) + conv(width, width, 3)
        for wide, left, width in zip(below, WIDTHS_DOWN, WIDTHS_UP, strict=False)
    )
    last = WIDTHS_UP[0]
    final = conv(last, last, 1) + 2 * conv(last, last, 3) + conv(last, rows, 1)
    return down + up + (0 if plain else final)


def test_every_known_run_has_a_card_and_nothing_else_has() -> None:
    assert sorted(path.name for path in CARDS.iterdir()) == sorted(f"{run}.md" for run in known_runs())
    assert set(RUNS) == set(known_runs())


@every_run
def test_a_card_says_what_the_hub_asks_of_it(run: str) -> None:
    data = card_of(run).data
    assert (data.license, data.library_name) == ("bsd-3-clause", "cosemzoo")
    assert data.pipeline_tag == "image-segmentation"
    assert data.tags is not None
    assert {"electron-microscopy", "cosem", "safetensors"} <= set(data.tags)


@every_run
def test_a_card_claims_no_scores(run: str) -> None:
    card = card_of(run)
    assert card.data.eval_results is None
    assert card.data.metrics is None
    evaluation = card.body.partition("## Evaluation\n")[2].partition("##")[0]
    assert evaluation.strip().startswith("None is stated here.")
    assert not re.search(r"\d", evaluation)
    assert "not evidence" in card.body


@every_run
def test_a_card_describes_the_run_that_was_published(run: str) -> None:
    described, published = card_of(run).description, RUNS[run]
    assert described.run == run
    assert described.labels == tuple(published.head.split())
    assert described.vocabulary == "cosem"
    assert {channel.kind for channel in described.channels} == {"distance"}
    assert described.iterations == published.iterations
    assert described.input_voxel_size == (published.input_voxel,) * 3
    assert described.output_voxel_size == (4, 4, 4)
    assert described.input_range == (-1, 1)
    assert described.target == Target("tanh(signed distance / 50 nm)", scale=50, threshold=0)
    assert described.architecture is not None
    assert described.architecture.arguments == {
        "activation_on_upsample": True,
        "factors": [2, 3, 3],
        "upsampling": "constant",
        "padding": "valid",
    }


@every_run
def test_the_channels_have_the_classes_that_were_confirmed(run: str) -> None:
    rows = re.findall(r"^\| \d+ \| `(\w+)` \| ([^|]*) \| ([^|]+) \|$", card_of(run).body, re.MULTILINE)
    assert {label: ids for label, ids, _ in rows} == {
        label: CLASS_IDS.get(label, "–") for label in RUNS[run].head.split()
    }
    assert all(meaning.strip() for *_, meaning in rows)


@every_run
def test_a_card_names_every_iteration_and_no_best_one(run: str) -> None:
    text = card_of(run).body
    listed = ", ".join(map(str, RUNS[run].iterations))
    assert f"Iterations published for this run: {listed}." in text
    assert f"{run}@best" not in text


@every_run
def test_a_card_names_the_data_and_its_real_thickness(run: str) -> None:
    rows = re.findall(r"^\| (jrc_\S+) \| (\S+) \|$", card_of(run).body, re.MULTILINE)
    assert dict(rows) == THICKNESS


@every_run
def test_a_card_says_what_is_to_be_known_of_all_runs(run: str) -> None:
    prose = prose_of(run)
    for said in (
        "198 + 18·k voxels along each axis",
        "**[−1, 1]**",
        "**taking every second voxel**, at a random offset",
        "tanh(signed distance / 50 nm)",
        "balanced, masked mean squared error",
        "widths 12, 72, 432, 2592 on the way down, 432, 72, 72 on the way up",
        "**then ReLU**",
        "cellmap-models 0.2.4 leaves it out unless `activation_on_upsample=True`",
        f"v0003.2-pytorch/cosem_models/cosem_models/{run}/",
        "No separate licence of the weights was found",
        "https://doi.org/10.1038/s41586-021-03977-3",
        f"cosemzoo import {run}@{RUNS[run].iterations[-1]}",
    ):
        assert said in prose, said


@pytest.mark.parametrize("run", [run for run in RUNS if run != "setup45"])
def test_a_card_says_how_large_the_network_is(run: str) -> None:
    prose, rows = prose_of(run), len(RUNS[run].head.split())
    parameters = RUNS[run].parameters
    assert parameters_of(rows) == parameters
    assert f"Head: a 1×1×1 convolution, {rows} rows." in prose
    assert f"42 tensors, {parameters:,} parameters, {4 * parameters:,} bytes as float32" in prose
    assert "2·(input − 180) − 4 voxels: 216 → 68" in prose


def test_the_card_of_setup45_says_everything_that_is_doubtful() -> None:
    prose = prose_of("setup45")
    plain = parameters_of(2, plain=True)
    assert plain == 234_681_468
    assert parameters_of(2) == RUNS["setup45"].parameters
    assert "**Several things about this run are doubtful**" in prose
    doubts = prose.partition("## What is doubtful")[2].partition("## Limits")[0]
    for said in (
        "1,000,000",
        "1,700,000",
        "1634500",
        "The README of cellmap-models says setup46 where its code says setup45.",
        f"34 tensors and {plain:,} parameters without the head",
        "names without the leading `0.`",
        f"42 tensors for it, head included, {RUNS['setup45'].parameters:,} parameters",
        "216 → 32",
        "216 → 68",
        "If the files are those of setup46, it is 8 nm.",
        "The tensors of a file say which form it has, not the run's name",
        "The `final_upsample` of 1 that `config.json` then states follows from the voxel sizes of this card",
        "as doubtful as they are; at 8 nm input it would be 2",
    ):
        assert said in doubts, said
    sampling = card_of("setup45").description.input_sampling
    assert sampling is not None
    assert sampling.startswith("not confirmed")


def test_the_card_of_setup45_can_describe_both_forms_of_its_network() -> None:
    head = {"prediction_head.weight": (2, 72, 1, 1, 1), "prediction_head.bias": (2,)}
    for final in (None, 1):
        found = {"channels": 2, "final_upsample": final, "upsampling": "constant"}
        manifest = card_of("setup45").manifest(head, iteration=1634500, architecture=found)
        assert manifest.architecture is not None
        assert manifest.architecture.arguments["final_upsample"] == final


def test_the_card_of_setup45_has_the_output_sizes_of_every_form() -> None:
    def size(factor: int | None) -> str:
        network = CosemUNet(2, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3), final_upsample=factor)
        return str(network.shapes.output_shape((216, 216, 216))[0])

    rows = re.findall(r"^\| output size, (.*?) \|.*: 216 → (\d+),", card_of("setup45").body, re.MULTILINE)
    assert rows == [
        ("42 tensors, 4 nm input", size(1)),
        ("42 tensors, 8 nm input", size(2)),
        ("plain U-Net", size(None)),
    ]


@every_run
def test_the_weights_fit_the_card(run: str) -> None:
    rows = len(RUNS[run].head.split())
    shapes = {"prediction_head.weight": (rows, 72, 1, 1, 1), "prediction_head.bias": (rows,)}
    manifest = card_of(run).manifest(shapes, iteration=RUNS[run].iterations[0])
    assert sum(math.prod(shapes[tensor.name]) for tensor in manifest.head) == 73 * rows
