"""What an optimizer gets of a model that was loaded, and what is frozen."""

import copy
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from cosemzoo.errors import DifferentModel, InvalidOption
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Channel, HeadTensor, Manifest

DOCS = Path(__file__).parents[2] / "docs" / "fine-tuning.md"
Save = Callable[..., Path]
Load = Callable[..., LoadReport]

HEAD = ("head.weight", "head.bias")
LABELS = ["a", "b", "c"]
RATES: Mapping[str, Any] = {"backbone": 1e-5, "head": 1e-4, "new": 1e-3}


class Net(nn.Module):
    head: Any
    body: Any

    def __init__(self, rows: int = 3, **others: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 3))
        self.head = nn.Conv1d(4, rows, 1)
        for name, module in others.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.body(x)))


BODY = {f"body.{layer}.{leaf}" for layer in range(3) for leaf in ("weight", "bias")}


@pytest.fixture
def folder(save: Save) -> Path:
    return save(Net().state_dict(), LABELS, HEAD)


def named(groups: list[dict[str, Any]], model: nn.Module) -> dict[str, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {names[id(one)] for one in group["params"]} for group in groups}


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- groups ------------------------------------------------------------------------------------------------


def test_groups_go_by_what_was_loaded_remapped_and_left_new(folder: Path, load: Load) -> None:
    model = Net(4, extra=nn.Linear(2, 2))
    report = load(model, folder, new_head=["c", "new", "a", "b"])
    groups = report.parameter_groups(model, **RATES)
    assert named(groups, model) == {
        "backbone": BODY,
        "head": {"head.weight", "head.bias"},
        "new": {"extra.weight", "extra.bias"},
    }
    assert {group["name"]: group["lr"] for group in groups} == RATES


def test_a_head_of_which_no_row_was_loaded_is_new(folder: Path, load: Load) -> None:
    model = Net(2)
    report = load(model, folder, new_head=["x", "y"])
    assert named(report.parameter_groups(model, **RATES), model) == {
        "backbone": BODY,
        "new": {"head.weight", "head.bias"},
    }


def test_a_first_layer_that_was_adapted_is_of_the_backbone(folder: Path, load: Load) -> None:
    model = Net()
    model.body[0] = nn.Conv1d(1, 4, 3)
    report = load(model, folder, new_head=LABELS, in_channels="mean")
    assert named(report.parameter_groups(model, **RATES), model)["backbone"] == BODY


def test_a_tensor_that_did_not_fit_is_new(folder: Path, load: Load) -> None:
    model = Net()
    model.body[2] = nn.Conv1d(4, 4, 5)
    report = load(model, folder, new_head=LABELS, min_coverage=0.3)
    assert named(report.parameter_groups(model, **RATES), model)["new"] == {"body.2.weight"}


def test_what_was_added_or_replaced_after_the_load_is_new(folder: Path, load: Load) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    model.later = nn.Linear(2, 2, bias=False)
    model.head = nn.Conv1d(4, 7, 1)
    assert named(report.parameter_groups(model, **RATES), model)["new"] == {
        "later.weight",
        "head.weight",
        "head.bias",
    }


def test_a_parameter_of_several_names_is_in_one_group_once(save: Save, load: Load) -> None:
    source, model = Net(), Net()
    for one in (source, model):
        one.again = one.body
        one.body[2].weight = one.body[0].weight = nn.Parameter(torch.rand(4, 4, 3))
        one.body[0].in_channels = 4
    report = load(model, save(source.state_dict(), LABELS, HEAD), new_head=LABELS)
    (backbone, _) = report.parameter_groups(model, **RATES)
    assert len(backbone["params"]) == len({id(one) for one in backbone["params"]}) == 5


def test_frozen_parameters_are_in_no_group_and_empty_groups_are_left_out(folder: Path, load: Load) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    model.body[0].weight.requires_grad_(False)
    model.head.requires_grad_(False)
    assert named(report.parameter_groups(model, **RATES), model) == {"backbone": BODY - {"body.0.weight"}}


def test_a_group_may_have_any_options_of_an_optimizer(folder: Path, load: Load) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    options = {"lr": 1e-5, "weight_decay": 0.0}
    backbone, head = report.parameter_groups(model, backbone=options, head={}, new=0)
    assert (backbone["lr"], backbone["weight_decay"], backbone["name"]) == (1e-5, 0.0, "backbone")
    assert head.keys() == {"params", "name"}
    assert options == {"lr": 1e-5, "weight_decay": 0.0}


@pytest.mark.parametrize(
    "given", ["1e-5", -1e-5, float("nan"), float("inf"), True, None, {"params": []}], ids=repr
)
@pytest.mark.parametrize("group", RATES)
def test_what_is_no_option_of_an_optimizer_is_refused(
    group: str, given: Any, *, folder: Path, load: Load
) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    with pytest.raises(InvalidOption, match=f"^{group} is .*; it is a learning rate, or a mapping"):
        report.parameter_groups(model, **{**RATES, group: given})


def test_a_step_of_an_optimizer_moves_each_group_at_its_own_rate(folder: Path, load: Load) -> None:
    model = Net(4)
    report = load(model, folder, new_head=["c", "new", "a", "b"])
    model.later = nn.Linear(4, 4)
    report.freeze(model, "backbone")
    report.unfreeze(model, "backbone")
    before = copy.deepcopy(model.state_dict())
    groups = report.parameter_groups(model, backbone=0.0, head=1e-2, new={"lr": 1e-1, "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    loss = model.later(model(torch.randn(2, 2, 12)).movedim(1, 2)).square().sum()
    loss.backward()
    optimizer.step()
    moved = {
        name: float((value.detach() - before[name]).abs().max()) for name, value in model.named_parameters()
    }
    assert {name for name, by in moved.items() if by == 0} == BODY
    # The first step of Adam is as long as the learning rate.
    assert moved["head.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert moved["later.weight"] == pytest.approx(1e-1, rel=1e-3)


# --- freezing ----------------------------------------------------------------------------------------------


def test_freezing_what_was_loaded_leaves_what_must_learn(folder: Path, load: Load) -> None:
    model = Net(4, extra=nn.Linear(2, 2))
    report = load(model, folder, new_head=["c", "new", "a", "b"])
    names = report.freeze(model, "loaded")
    assert set(names) == BODY
    assert trained(model) == {"head.weight", "head.bias", "extra.weight", "extra.bias"}
    assert set(report.unfreeze(model)) == BODY
    assert trained(model) == {name for name, _ in model.named_parameters()}


def test_a_head_that_was_loaded_wholly_is_loaded(folder: Path, load: Load) -> None:
    model = Net(2)
    report = load(model, folder, new_head=["c", "a"])
    assert set(report.freeze(model)) == BODY | {"head.weight", "head.bias"}
    assert trained(model) == set()
    assert report.parameter_groups(model, **RATES) == []


@pytest.mark.parametrize("part", ["backbone", "head", "new"])
def test_a_part_is_frozen_and_trained_again(part: Any, folder: Path, load: Load) -> None:
    model = Net(4, extra=nn.Linear(2, 2))
    report = load(model, folder, new_head=["c", "new", "a", "b"])
    members = named(report.parameter_groups(model, **RATES), model)[part]
    everything = trained(model)
    assert set(report.freeze(model, part)) == members
    assert trained(model) == everything - members
    assert set(report.freeze(model, part)) == members
    assert set(report.unfreeze(model, part)) == members
    assert trained(model) == everything


def test_a_part_that_there_is_not_is_refused(folder: Path, load: Load) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    with pytest.raises(InvalidOption, match="part is 'all'"):
        report.freeze(model, "all")  # type: ignore[arg-type]


def test_statistics_of_a_frozen_normalisation_change_in_training_mode_only(folder: Path, load: Load) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    report.freeze(model)
    mean = model.body[1].running_mean.clone()
    model.train()(torch.randn(2, 2, 12))
    assert not torch.equal(model.body[1].running_mean, mean)
    mean = model.body[1].running_mean.clone()
    model.eval()(torch.randn(2, 2, 12))
    assert torch.equal(model.body[1].running_mean, mean)


def test_integer_parameters_are_never_trained(folder: Path, load: Load) -> None:
    model = Net()
    model.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    report = load(model, folder, new_head=LABELS)
    assert report.unfreeze(model, "new") == ("codes",)
    assert not model.codes.requires_grad


# --- the model as it is now --------------------------------------------------------------------------------


class Adapted(nn.Module):
    """A low-rank adapter around a layer, with the names that PEFT gives its parts."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(4, 2, bias=False)})


def inside(name: str, module: nn.Module) -> nn.Module:
    around = nn.Module()
    around.add_module(name, module)
    return around


def with_adapters(model: Net) -> nn.Module:
    model.body[2] = Adapted(model.body[2])
    return inside("base_model", inside("model", model))


def compiled_inside(model: Net) -> nn.Module:
    model.body = inside("_orig_mod", model.body)
    return model


CHANGES: Mapping[str, Callable[[Net], nn.Module]] = {
    "data parallel": nn.DataParallel,
    "compiled": lambda model: inside("_orig_mod", model),
    "compiled inside": compiled_inside,
    "of a larger module": lambda model: inside("net", model),
    "adapters": with_adapters,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_is_wrapped_after_the_load_has_the_same_groups(
    change: str, folder: Path, load: Load
) -> None:
    model = Net(4)
    parameters = {id(parameter): name for name, parameter in model.named_parameters()}
    report = load(model, folder, new_head=["c", "new", "a", "b"])
    expected = named(report.parameter_groups(model, **RATES), model)
    wrapped = CHANGES[change](model)
    groups = report.parameter_groups(wrapped, **RATES)
    found = {
        group["name"]: {parameters[id(one)] for one in group["params"] if id(one) in parameters}
        for group in groups
    }
    assert {name: members for name, members in found.items() if members} == expected
    members = [one for group in groups for one in group["params"]]
    assert len(members) == len([*wrapped.parameters()])
    names = report.freeze(wrapped)
    assert {parameters[id(wrapped.get_parameter(name))] for name in names} == BODY


def test_the_copy_that_peft_trains_is_of_the_group_of_its_original(folder: Path, load: Load) -> None:
    model = Net(4)
    report = load(model, folder, new_head=["c", "new", "a", "b"])
    beside = nn.Module()
    beside.original_module = model.head.requires_grad_(False)
    beside.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(model.head).requires_grad_(True)})
    model.head = beside
    asked = with_adapters(model)
    groups = named(report.parameter_groups(asked, **RATES), asked)
    name = "base_model.model.head.modules_to_save.default"
    assert groups["head"] == {f"{name}.weight", f"{name}.bias"}
    assert groups["new"] == {"base_model.model.body.2.lora_A.default.weight"}


@pytest.mark.parametrize("change", ["data parallel", "compiled", "compiled inside", "of a larger module"])
def test_a_model_that_was_wrapped_when_it_was_loaded_may_be_unwrapped(
    change: str, folder: Path, load: Load
) -> None:
    model, body = Net(), None
    body = model.body
    report = load(CHANGES[change](model), folder, new_head=LABELS)
    model.body = body
    assert named(report.parameter_groups(model, **RATES), model)["backbone"] == BODY


#: Untyped in torch.
PRUNE: Any = prune
PARTS: Mapping[str, tuple[Callable[[nn.Module], object], Callable[[nn.Module], object]]] = {
    "weight_norm": (
        parametrizations.weight_norm,
        lambda module: parametrize.remove_parametrizations(module, "weight"),
    ),
    "spectral_norm": (
        parametrizations.spectral_norm,
        lambda module: parametrize.remove_parametrizations(module, "weight"),
    ),
    "old weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm),
    "pruned": (
        lambda module: PRUNE.random_unstructured(module, "weight", 0.5),
        lambda module: PRUNE.remove(module, "weight"),
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("how", PARTS)
def test_a_weight_in_parts_after_the_load_is_what_it_was(how: str, folder: Path, load: Load) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    PARTS[how][0](model.body[2])
    groups = named(report.parameter_groups(model, **RATES), model)
    assert groups.keys() == {"backbone", "head"}
    assert groups["backbone"] == {name for name, _ in model.body.named_parameters(prefix="body")}
    assert set(report.freeze(model, "backbone")) == groups["backbone"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("how", PARTS)
def test_a_weight_that_was_loaded_in_parts_may_be_whole_after_it(how: str, save: Save, load: Load) -> None:
    source, model = Net(), Net()
    for one in (source, model):
        PARTS[how][0](one.body[2])
    report = load(model, save(source.state_dict(), LABELS, HEAD), new_head=LABELS)
    PARTS[how][1](model.body[2])
    assert named(report.parameter_groups(model, **RATES), model)["backbone"] == BODY


def test_weights_that_are_tied_after_the_load_are_in_the_group_that_learns_most(
    folder: Path, load: Load
) -> None:
    model = Net(extra=nn.Conv1d(4, 4, 3))
    report = load(model, folder, new_head=LABELS)
    model.extra.weight = model.body[2].weight  # type: ignore[union-attr]
    groups = named(report.parameter_groups(model, **RATES), model)
    assert groups["new"] == {"body.2.weight", "extra.bias"}
    assert "body.2.weight" not in report.freeze(model)


@pytest.mark.parametrize("other", [nn.Linear(3, 3), nn.Sequential(Net(), nn.Linear(2, 2)), Net().body])
def test_another_model_is_refused(other: nn.Module, folder: Path, load: Load) -> None:
    report = load(Net(), folder, new_head=LABELS)
    for ask in (lambda: report.parameter_groups(other, **RATES), lambda: report.freeze(other)):
        with pytest.raises(DifferentModel, match=r"is not the one that .* was loaded into") as caught:
            ask()
        assert "head.weight" in caught.value.missing
    assert trained(other) == {name for name, _ in other.named_parameters()}


def test_what_was_not_loaded_may_be_gone(folder: Path, load: Load) -> None:
    model = Net(extra=nn.Linear(2, 2))
    report = load(model, folder, new_head=LABELS)
    del model.extra
    assert named(report.parameter_groups(model, **RATES), model).keys() == {"backbone", "head"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(data=st.data())
def test_every_trainable_parameter_is_in_exactly_one_group(
    data: st.DataObject, *, folder: Path, load: Load
) -> None:
    flags = st.booleans()
    rows = data.draw(st.lists(st.sampled_from([*LABELS, "x", "y"]), min_size=1, unique=True))
    model = Net(len(rows), extra=nn.Linear(2, 2))
    report = load(model, folder, new_head=rows)
    if data.draw(flags):
        model.later = nn.Linear(3, 3)
    if data.draw(flags):
        model.alias = model.body
    if data.draw(flags):
        model.extra.weight = nn.Parameter(torch.rand(5, 2))  # type: ignore[union-attr]
    for parameter in model.parameters():
        parameter.requires_grad_(data.draw(flags))
    asked = nn.DataParallel(model) if data.draw(flags) else model
    members = [id(one) for group in report.parameter_groups(asked, **RATES) for one in group["params"]]
    assert len(members) == len(set(members))
    assert set(members) == {id(one) for one in model.parameters() if one.requires_grad}


def test_what_torch_compile_gives_has_the_same_groups(folder: Path, load: Load) -> None:
    model = Net()
    report = load(model, folder, new_head=LABELS)
    with warnings.catch_warnings():
        # Its import makes use of what it calls deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        compiled: Any = torch.compile(model)
    groups = report.parameter_groups(compiled, **RATES)
    assert named(groups, model) == named(report.parameter_groups(model, **RATES), model)


# --- docs/fine-tuning.md -----------------------------------------------------------------------------------


class Documented(nn.Module):
    """The network that the page calls ``model``."""

    def __init__(self, inputs: int = 1, backbone: str = "backbone", head: str = "prediction_head") -> None:
        super().__init__()
        self.add_module(backbone, nn.Sequential(nn.Conv3d(inputs, 4, 3), nn.ReLU(), nn.Conv3d(4, 4, 3)))
        self.add_module(head, nn.Conv3d(4, 3, 1))


@pytest.mark.filterwarnings("ignore::cosemzoo.errors.CosemZooWarning")
def test_every_block_of_the_page_runs(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = save(Documented().state_dict())
    manifest = Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in ("er", "mito", "nuc")),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        input_range=(-1.0, 1.0),
        input_voxel_size=(8.0, 8.0, 8.0),
    )
    (saved / "config.json").write_text(manifest.to_json(), encoding="utf-8")
    (tmp_path / "runs" / "setup04").mkdir(parents=True)
    saved.rename(tmp_path / "runs" / "setup04" / "1820500")
    monkeypatch.setenv("COSEMZOO_LOCAL_DIR", str(tmp_path / "runs"))
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    names: dict[str, Any] = {}
    for block in blocks:
        if "load_into" in block:
            names["model"] = Documented(2 if "in_channels" in block else 1)
        if "rename" in block:
            names["model"] = Documented(1, "encoder", "classifier")
        exec(compile(block, str(DOCS), "exec"), names)
        assert names["report"].coverage.fraction == 1
        assert [row.status for row in names["report"].channels] == ["loaded", "loaded", "kept"]
    assert "mine" in capsys.readouterr().out
    assert [group["name"] for group in names["groups"]] == ["backbone", "head"]
    assert len(names["frozen"]) == 4
