"""Networks of cellmap-models 0.2.4 and DaCapo 0.3.5 themselves, from every code base's checkpoints."""

import copy
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.checkpoints.entries import TensorEntry
from cosemzoo.checkpoints.shards import StoredTensor, WeightsTable
from cosemzoo.loading.model_tensors import read_model
from cosemzoo.loading.planner import make_plan
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from tests.full.layout_table import (
    BACKBONE_ALONE,
    LABELS,
    NETWORKS,
    PAGE,
    ROOT,
    TITLES,
    WANTED,
    Outcomes,
    cellmap_network,
    in_dacapo,
    load,
    measured,
    page,
    rows_of,
)
from tests.layout_trees import TREES, LightningNetwork, compiled, names_of, random_network

pytestmark = [
    pytest.mark.full,
    # torch itself uses it when a network is compiled.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning"),
]

KEYS = ROOT / "tests" / "data" / "keys"
LISTS = {path.stem: json.loads(path.read_text()) for path in sorted(KEYS.glob("*.json"))}
RUNS = [name.rpartition("-")[2] for name in LISTS if name.startswith("cellmap")]


def compiled_inside(model: nn.Module) -> nn.Module:
    """Compile the U-Net where it is, as a training does to compile most of a network."""
    paths = [path for path, _ in model.named_modules() if path in ("architecture.unet", "backbone")]
    model.set_submodule(paths[0], compiled(model.get_submodule(paths[0])))
    assert all("._orig_mod." in name for name in model.state_dict() if "l_conv" in name)
    return model


AROUND: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "module.": nn.DataParallel,
    "net.": LightningNetwork,
    "_orig_mod.": compiled,
    "compiled inside": compiled_inside,
}

WRAPPED = """
from tests.full.test_layouts import loaded_into_wrapped
print(json.dumps(loaded_into_wrapped(real, "dacapo 0.3")))
"""


def loaded_into_wrapped(real: nn.Module, layout: str) -> dict[str, list[int]]:
    """Load every code base's checkpoint into a network within every wrapper.

    Returns
    -------
    dict
        By wrapper and checkpoint: tensors of the backbone, and rows of the head, that are the checkpoint's.
    """
    stored, network = random_network(len(LABELS), seed=1), random_network(len(LABELS), seed=2)
    names, expected = names_of(TREES[layout](network), network), stored.state_dict()
    found = {}
    for around, wrap in AROUND.items():
        for source, tree in TREES.items():
            model = copy.deepcopy(real)
            load(wrap(model), tree(stored).state_dict(), WANTED)
            state = {names[name.replace("_orig_mod.", "")]: v for name, v in model.state_dict().items()}
            equal = [name for name in state if torch.equal(state[name], expected[name])]
            rows, stored_rows = rows_of(state), rows_of(expected)
            right = [
                label
                for row, label in enumerate(WANTED)
                if label in LABELS and torch.equal(rows[row], stored_rows[LABELS.index(label)])
            ]
            found[f"{around} {source}"] = [len(equal), len(right)]
    return found


@pytest.fixture(scope="module")
def outcomes() -> Outcomes:
    return measured()


def test_the_page_has_what_is_measured(outcomes: Outcomes) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(outcomes, text) == text


def test_every_checkpoint_fills_every_network_and_its_rows_go_by_label(outcomes: Outcomes) -> None:
    for source, row in outcomes["cosemzoo"].items():
        for target, found in row.items():
            tensors = 40 if BACKBONE_ALONE in (source, target) else 42
            assert (found["tensors"], found["wrong"], found["error"]) == (tensors, 0, "")
            assert found["loaded"] == (13 if tensors == 42 else 0)


def test_the_loader_of_dacapo_fills_a_network_of_other_names_in_part_and_says_nothing(
    outcomes: Outcomes,
) -> None:
    published = outcomes["dacapo without labels"]["DaCapo ≤ 0.3.5"]["DaCapo main"]
    assert published == {"tensors": 2, "all_tensors": 42, "loaded": 0, "kept": 0, "wrong": 14, "error": ""}
    same = outcomes["dacapo with labels"]["DaCapo ≤ 0.3.5"]["DaCapo ≤ 0.3.5"]
    assert same == {"tensors": 42, "all_tensors": 42, "loaded": 13, "kept": 1, "wrong": 0, "error": ""}
    assert outcomes["dacapo with labels"]["cellmap-models"]["DaCapo main"]["error"] == "KeyError"
    assert outcomes.keys() == TITLES.keys()
    assert all(
        row.keys() == cells.keys() == NETWORKS.keys() for cells in outcomes.values() for row in cells.values()
    )


def test_wrappers_around_the_real_networks_do_not_matter() -> None:
    wanted = {f"{around} {source}": [40, 13] for around in AROUND for source in TREES}
    assert loaded_into_wrapped(cellmap_network(), "cellmap-models") == wanted
    assert json.loads(in_dacapo(WRAPPED)) == wanted


def real_network(run: str) -> Any:
    """Build the network of a run as cellmap-models does, in its full size and without memory."""
    module = import_module("cellmap_models.pytorch.cosem.load_model")

    class Unmeasured(module.Architecture):  # type: ignore[misc, name-defined]
        """It runs the network in its constructor, which takes memory."""

        def compute_minimal_shapes(self) -> None:
            pass

    with torch.device("meta"):
        return Unmeasured(import_module(f"cellmap_models.pytorch.cosem.{run.replace('.', '_')}.model"))


@pytest.mark.parametrize("run", RUNS)
def test_the_real_network_of_every_run_takes_42_of_42_tensors_of_every_list(run: str) -> None:
    model = real_network(run)
    assert {n: list(t.shape) for n, t in model.state_dict().items()} == LISTS[f"cellmap_models-0.2.4-{run}"][
        "keys"
    ]
    labels = list(model.classes_channels)
    targets = [held.target for held in read_model(model)]
    for found in LISTS.values():
        aliases = {other: group[0] for group in found["alias_groups"] for other in group[1:]}
        shapes = {name: tuple(shape) for name, shape in found["keys"].items() if name not in aliases}
        # A checkpoint of this code base, with the channels of this run.
        head = {"prediction_head.weight": (len(labels), 72, 1, 1, 1), "prediction_head.bias": (len(labels),)}
        entries = {
            name: StoredTensor("f", TensorEntry(name, "F32", head.get(name, shape), 0, 0))
            for name, shape in shapes.items()
        }
        manifest = Manifest(
            run=run,
            channels=tuple(Channel(label, "distance") for label in labels),
            head=tuple(map(HeadTensor, head)),
        )
        table = WeightsTable(entries, aliases, ("f",))
        plan = make_plan(targets, table, manifest, new_head=labels, strict="require")
        plan.check()
        assert (plan.model_coverage.tensors, plan.model_coverage.all_tensors) == (42, 42)
        assert plan.model_coverage.parameters == LISTS[f"cellmap_models-0.2.4-{run}"]["unique_parameters"]
