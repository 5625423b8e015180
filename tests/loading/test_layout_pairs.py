"""Every code base's checkpoint into every other's network: whole, whatever is around it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import PartialLoad
from cosemzoo.loading.model_tensors import read_model
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.plan import LoadPlan
from cosemzoo.loading.planner import make_plan
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.models import load_into
from cosemzoo.nets import CosemUNet
from cosemzoo.zoo import Zoo
from tests.layout_trees import TREES, LightningNetwork, compiled, names_of, random_network

# torch itself uses it when a network is compiled.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")

Save = Callable[..., Path]
Table = Callable[..., WeightsTable]

#: The names and shapes of the networks that the code bases themselves have built.
LISTS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[1] / "data" / "keys").glob("*.json"))
}
LABELS: Mapping[str, Sequence[str]] = {
    name: found.get("classes_channels") or LISTS["cellmap_models-0.2.4-setup04"]["classes_channels"]
    for name, found in LISTS.items()
}
#: How a network of 8 nm and 4 nm ends, one of 4 nm as cellmap-models builds it, and a plain U-Net.
FORMS: Mapping[str, Mapping[str, Any]] = {
    "8 nm to 4 nm": {},
    "4 nm to 4 nm": {"final_upsample": 1},
    "plain": {"final_upsample": None},
}
WRAPPERS: Mapping[str, Callable[[nn.Module], nn.Module]] = {
    "nothing": lambda network: network,
    "module.": nn.DataParallel,
    "net.": LightningNetwork,
    "_orig_mod.": compiled,
    "module._orig_mod.": lambda network: nn.DataParallel(compiled(network)),
}
TENSORS = {"8 nm to 4 nm": 42, "4 nm to 4 nm": 42, "plain": 36}


def tree_like(name: str, channels: int) -> nn.Module:
    """Build the tree that a list is of, in its full size and without memory."""
    layout = next((one for one in TREES if name.startswith(one.replace(" ", "-"))), "cellmap-models")
    form = FORMS["4 nm to 4 nm" if name.endswith("setup45") else "8 nm to 4 nm"]
    return TREES[layout](CosemUNet(channels, device="meta", **form))


def targets_of(model: nn.Module) -> list[TargetTensor]:
    return [held.target for held in read_model(model) if held.names]


@cache
def wrapped_targets(layout: str, form: str, around: str) -> list[TargetTensor]:
    return targets_of(WRAPPERS[around](TREES[layout](CosemUNet(3, device="meta", **FORMS[form]))))


def stored(table: Table, targets: Iterable[TargetTensor]) -> WeightsTable:
    targets = list(targets)
    aliases = {alias: target.name for target in targets for alias in target.aliases}
    return table({target.name: target.shape for target in targets}, aliases)


def manifest(labels: Iterable[str], head: str) -> Manifest:
    return Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in labels),
        head=(HeadTensor(f"{head}.weight"), HeadTensor(f"{head}.bias")),
    )


def plan(
    targets: Sequence[TargetTensor], weights: WeightsTable, labels: Iterable[str], new_head: Sequence[str]
) -> LoadPlan:
    head = next(name for name in weights.tensors if name.endswith("prediction_head.weight"))
    made = make_plan(targets, weights, manifest(labels, head.rpartition(".")[0]), new_head=new_head)
    made.check()
    return made


@pytest.mark.parametrize("name", LISTS)
def test_the_trees_of_these_tests_have_the_names_of_the_real_ones(name: str) -> None:
    found = targets_of(tree_like(name, len(LABELS[name])))
    assert {n: list(t.shape) for t in found for n in t.names} == LISTS[name]["keys"]
    aliased = {frozenset(target.names) for target in found if target.aliases}
    assert aliased == {frozenset(group) for group in LISTS[name]["alias_groups"]}
    assert len(found) == 42


@pytest.mark.parametrize("target", LISTS)
@pytest.mark.parametrize("source", LISTS)
def test_every_network_in_its_full_size_takes_42_of_42_tensors_of_every_other(
    source: str, target: str, table: Table
) -> None:
    labels, wanted = LABELS[source], LABELS[target]
    weights = stored(table, targets_of(tree_like(source, len(labels))))
    made = plan(targets_of(tree_like(target, len(labels))), weights, labels, labels)
    assert (made.outcome, made.model_coverage.tensors, made.unused) == ("strict", 42, ())
    assert made.model_coverage.parameters == LISTS[source]["unique_parameters"]
    remapped = plan(targets_of(tree_like(target, len(wanted))), weights, labels, wanted)
    rows = [labels.index(label) if label in labels else None for label in wanted]
    assert [row.source_row for row in remapped.channels] == rows
    assert (remapped.coverage.tensors, remapped.coverage.all_tensors) == (40, 40)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", TREES)
@pytest.mark.parametrize("source", TREES)
def test_the_values_are_those_of_the_checkpoint_and_the_rows_those_of_their_labels(
    source: str, target: str, form: str, save: Save
) -> None:
    stored, network = random_network(3, seed=1, **FORMS[form]), random_network(3, seed=2, **FORMS[form])
    expected, own = stored.state_dict(), network.prediction_head.weight.detach().clone()
    head = ("prediction_head.weight", "prediction_head.bias")
    folder = save(TREES[source](stored).state_dict(), ["a", "b", "c"], head)
    model = TREES[target](network)
    with pytest.warns(PartialLoad):
        report = load_into(model, folder, new_head=["c", "new", "a"], zoo=Zoo(offline=True))
    assert report.coverage.tensors == report.coverage.all_tensors == TENSORS[form] - 2
    names = names_of(model, network)
    assert len(set(names.values())) == TENSORS[form]
    for name, value in model.state_dict().items():
        if names[name].startswith("backbone."):
            assert torch.equal(value, expected[names[name]])
    rows = network.prediction_head.weight
    assert torch.equal(rows[0], expected["prediction_head.weight"][2])
    assert torch.equal(rows[1], own[1])
    assert torch.equal(rows[2], expected["prediction_head.weight"][0])


@pytest.mark.parametrize("around_target", WRAPPERS)
@pytest.mark.parametrize("around_source", WRAPPERS)
def test_wrappers_around_either_network_do_not_matter(
    around_source: str, around_target: str, table: Table
) -> None:
    for form, source, target in product(("8 nm to 4 nm", "plain"), TREES, TREES):
        weights = stored(table, wrapped_targets(source, form, around_source))
        made = plan(wrapped_targets(target, form, around_target), weights, "abc", [*"cab"])
        assert made.coverage.fraction == 1
        assert (made.model_coverage.tensors, made.unused) == (TENSORS[form], ())
        assert [row.source_row for row in made.channels] == [2, 0, 1]


@pytest.mark.parametrize("target", TREES)
@pytest.mark.parametrize("source", TREES)
def test_a_backbone_that_is_compiled_is_looked_into(source: str, target: str, save: Save) -> None:
    stored, network = random_network(2, seed=1), random_network(2, seed=2)
    plain = names_of(TREES[target](network), network)
    folder = save(
        TREES[source](stored).state_dict(), "ab", ("prediction_head.weight", "prediction_head.bias")
    )
    network.backbone = compiled(network.backbone)
    report = load_into(TREES[target](network), folder, new_head=["a", "b"], zoo=Zoo(offline=True))
    assert report.outcome == "strict"
    state = TREES[target](network).state_dict()
    assert any("._orig_mod." in name for name in state)
    for name, value in state.items():
        assert torch.equal(value, stored.state_dict()[plain[name.replace("_orig_mod.", "")]])


@pytest.mark.parametrize("layout", TREES)
def test_a_backbone_alone_goes_into_every_tree_and_comes_out_of_every_tree(layout: str, save: Save) -> None:
    stored, network = random_network(2, seed=1), random_network(2, seed=2)
    head = network.prediction_head.weight.detach().clone()
    folder = save(stored.backbone.state_dict())
    with pytest.warns(PartialLoad, match="names changed"):
        report = load_into(TREES[layout](network), folder, zoo=Zoo(offline=True))
    assert report.coverage.tensors == 40
    expected = stored.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in network.backbone.state_dict().items())
    assert torch.equal(network.prediction_head.weight, head)
    back = random_network(2, seed=3).backbone
    folder = save(
        TREES[layout](stored).state_dict(), "ab", ("prediction_head.weight", "prediction_head.bias")
    )
    with pytest.warns(PartialLoad, match="2 unused"):
        load_into(back, folder, zoo=Zoo(offline=True))
    assert all(torch.equal(value, expected[name]) for name, value in back.state_dict().items())
