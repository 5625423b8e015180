import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cosemzoo
from cosemzoo import models
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import (
    AliasConflict,
    CosemZooError,
    IntegrityError,
    InvalidHead,
    InvalidOption,
    PartialLoad,
    RunNotFound,
)
from cosemzoo.models import fetch, load_into, plan_load, resolve, state_dict
from cosemzoo.publishing import publish
from cosemzoo.starts import CosemStart, FolderStore
from cosemzoo.zoo import Zoo

WriteCheckpoint = Callable[..., Path]

LABELS = ["ecs", "mito", "er"]


class Net(nn.Module):
    """A model for the checkpoints of these tests."""

    def __init__(self, rows: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.conv = nn.Conv1d(2, 4, 3, bias=False)
        self.prediction_head = nn.Linear(4, rows)


@pytest.fixture
def offline() -> Zoo:
    return Zoo(offline=True)


def test_a_folder_is_resolved_fetched_and_loaded(write_checkpoint: WriteCheckpoint, offline: Zoo) -> None:
    folder, model = write_checkpoint(), Net()
    checkpoint = resolve(folder, zoo=offline)
    assert checkpoint.folder == folder
    assert fetch(folder, zoo=offline) == {"model.safetensors": folder / "model.safetensors"}
    stored = state_dict(folder, zoo=offline)
    report = load_into(model, folder, new_head=LABELS, zoo=offline)
    assert report.outcome == "strict"
    assert report.commit == checkpoint.content_hash
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_that_is_resolved_already_is_taken_as_it_is(
    write_checkpoint: WriteCheckpoint, offline: Zoo
) -> None:
    checkpoint = resolve(write_checkpoint(), zoo=offline)
    assert resolve(checkpoint) is checkpoint
    assert load_into(Net(), checkpoint, new_head=LABELS, zoo=offline).outcome == "strict"


@pytest.mark.parametrize("files", [1, 2, 3])
def test_shards_are_loaded_as_one_checkpoint(
    files: int, write_checkpoint: WriteCheckpoint, offline: Zoo
) -> None:
    folder, model = write_checkpoint(files=files), Net()
    assert load_into(model, folder, new_head=LABELS, zoo=offline).outcome == "strict"
    whole = state_dict(write_checkpoint(), zoo=offline)
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def test_a_run_on_the_hub_is_loaded_from_its_commit(write_checkpoint: WriteCheckpoint, zoo: Zoo) -> None:
    commit = publish(write_checkpoint(), "setup04@1820500", zoo=zoo, aliases=["best"]).commit
    model = Net()
    assert plan_load(model, "setup04", new_head=LABELS, zoo=zoo).commit == commit
    report = load_into(model, "setup04", new_head=LABELS, zoo=zoo)
    assert (report.outcome, report.commit, report.reference) == ("strict", commit, "setup04")


def test_a_plan_is_made_without_the_weights_and_without_changing_anything(
    write_checkpoint: WriteCheckpoint, offline: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, checkpoint = Net(4), resolve(write_checkpoint(), zoo=offline)
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(Zoo, "fetch", lambda *_: pytest.fail("the weights were fetched"))
    plan = plan_load(model, checkpoint, new_head=["er", "new", "ecs", "mito"], zoo=offline)
    assert [row.source_row for row in plan.channels] == [2, None, 0, 1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_load_that_its_plan_refuses_fetches_nothing(
    write_checkpoint: WriteCheckpoint, offline: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint()
    monkeypatch.setattr(Zoo, "fetch", lambda *_: pytest.fail("the weights were fetched"))
    for model, options in (
        (nn.Linear(9, 9), {}),
        (Net(), {"new_head": ["a"]}),
        (Net(), {"strict": "require", "new_head": ["a", "b", "c"]}),
        (nn.LazyLinear(3), {}),
    ):
        with pytest.raises(CosemZooError):
            load_into(model, folder, zoo=offline, **options)


def test_the_plan_is_what_is_done(write_checkpoint: WriteCheckpoint, offline: Zoo) -> None:
    folder, model = write_checkpoint(), Net(4)
    plan = plan_load(model, folder, new_head=["er", "new", "ecs", "mito"], zoo=offline)
    with pytest.warns(PartialLoad):
        report = load_into(model, folder, new_head=["er", "new", "ecs", "mito"], zoo=offline)
    assert (report.tensors, report.channels, report.unused) == (plan.tensors, plan.channels, plan.unused)


def test_a_file_that_changed_between_plan_and_load_is_refused_and_the_model_is_as_it_was(
    write_checkpoint: WriteCheckpoint, offline: Zoo
) -> None:
    folder, model = write_checkpoint(), Net()
    checkpoint = resolve(folder, zoo=offline)
    plan_load(model, checkpoint, zoo=offline)
    before = copy.deepcopy(model.state_dict())
    content = (folder / "model.safetensors").read_bytes()
    for changed in (content[:-4], content[:-1] + bytes([content[-1] ^ 1]), b""):
        (folder / "model.safetensors").write_bytes(changed)
        with pytest.raises(IntegrityError):
            load_into(model, checkpoint, zoo=offline)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (folder / "model.safetensors").unlink()
    with pytest.raises(IntegrityError):
        load_into(model, checkpoint, zoo=offline)


def test_a_state_dict_has_every_name_and_never_reaches_the_file(
    write_checkpoint: WriteCheckpoint, offline: Zoo
) -> None:
    folder = write_checkpoint()
    before = (folder / "model.safetensors").read_bytes()
    state = state_dict(folder, zoo=offline)
    assert set(state) == {"backbone.conv.weight", "prediction_head.weight", "prediction_head.bias"}
    for value in state.values():
        value.zero_()
    assert (folder / "model.safetensors").read_bytes() == before
    assert Net().load_state_dict(state).missing_keys == []


@pytest.mark.parametrize(
    ("layout", "backbone", "head"),
    [
        ("cellmap-models", ["backbone."], ["prediction_head."]),
        ("cellmap-models before 2024-03", ["unet."], ["prediction_head."]),
        ("dacapo 0.3", ["architecture.unet.", "chain.0.unet."], ["prediction_head.", "chain.1."]),
        ("dacapo main", ["chain.0."], ["prediction_head.", "chain.1."]),
    ],
)
def test_a_state_dict_has_the_names_of_another_code_base_and_several_names_share_memory(
    layout: str, backbone: list[str], head: list[str], write_checkpoint: WriteCheckpoint, offline: Zoo
) -> None:
    folder = write_checkpoint()
    own, state = state_dict(folder, zoo=offline), state_dict(folder, layout=layout, zoo=offline)
    groups = {
        name: [prefix + name.partition(".")[2] for prefix in (backbone if name[0] == "b" else head)]
        for name in own
    }
    assert set(state) == {other for others in groups.values() for other in others}
    for name, others in groups.items():
        assert all(torch.equal(state[other], own[name]) for other in others)
        assert len({state[other].data_ptr() for other in others}) == 1
    assert set(
        state_dict(_written(folder.parent / "other", state), layout="cellmap-models", zoo=offline)
    ) == {*own}


def _written(folder: Path, state: Mapping[str, torch.Tensor]) -> Path:
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", state)
    return folder


def test_a_wrapper_has_no_place_in_the_names_of_another_code_base(tmp_path: Path, offline: Zoo) -> None:
    names = ("net.backbone.weight", "net.prediction_head.bias")
    folder = _written(tmp_path / "wrapped", {name: torch.rand(2) for name in names})
    assert set(state_dict(folder, layout="dacapo main", zoo=offline)) == {
        "chain.0.weight",
        "prediction_head.bias",
        "chain.1.bias",
    }


def test_a_layout_that_there_is_not_or_a_checkpoint_of_none_is_refused_before_the_weights_are_fetched(
    write_checkpoint: WriteCheckpoint, tmp_path: Path, offline: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint()
    unknown = _written(tmp_path / "unknown", {"stem.weight": torch.rand(2)})
    monkeypatch.setattr(Zoo, "fetch", lambda *_: pytest.fail("the weights were fetched"))
    with pytest.raises(InvalidOption, match=r"'cellmap-models before 2024-03', 'dacapo 0\.3', 'dacapo main'"):
        state_dict(folder, layout="dacapo", zoo=offline)
    with pytest.raises(InvalidOption, match=r"stem\.weight.* are of no known layout"):
        state_dict(unknown, layout="dacapo main", zoo=offline)


def test_names_that_become_one_and_hold_different_values_are_refused(tmp_path: Path, offline: Zoo) -> None:
    state = {"chain.0.weight": torch.rand(2), "prediction_head.bias": torch.ones(2)}
    same = _written(tmp_path / "same", state | {"chain.1.bias": torch.ones(2)})
    assert len(state_dict(same, layout="cellmap-models", zoo=offline)) == 2
    for number, other in enumerate((torch.zeros(2), torch.ones(3))):
        folder = _written(tmp_path / str(number), state | {"chain.1.bias": other})
        assert len(state_dict(folder, zoo=offline)) == 3
        with pytest.raises(AliasConflict):
            state_dict(folder, layout="cellmap-models", zoo=offline)


def test_a_store_is_all_that_is_needed(write_folder: WriteCheckpoint, tmp_path: Path) -> None:
    write_folder(tmp_path / "runs" / "setup04" / "best")
    store = FolderStore(tmp_path / "runs")
    assert load_into(Net(), "setup04", new_head=LABELS, zoo=store).outcome == "strict"
    with pytest.raises(RunNotFound):
        load_into(Net(), "setup05", zoo=store)


def test_options_are_those_of_the_plan(write_checkpoint: WriteCheckpoint, offline: Zoo) -> None:
    folder = write_checkpoint()
    with pytest.raises(InvalidHead):
        plan_load(Net(), folder, head="nowhere", zoo=offline)
    with pytest.raises(ValueError, match="min_coverage is 2"):
        plan_load(Net(), folder, min_coverage=2, zoo=offline)
    assert plan_load(Net(), folder, strict="never", new_head=LABELS, zoo=offline).outcome == "partial"


def test_a_strict_load_does_not_warn(write_checkpoint: WriteCheckpoint, offline: Zoo) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_into(Net(), write_checkpoint(), new_head=LABELS, zoo=offline)


@pytest.mark.parametrize("name", ["resolve", "fetch", "state_dict", "plan_load", "load_into"])
def test_the_face_is_the_packages_own(name: str) -> None:
    face: Any = getattr(cosemzoo, name)
    assert face is getattr(models, name)


def test_the_warning_of_a_partial_load_points_at_the_caller_and_names_what_is_kept(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "run" / "1")
    calls: list[Callable[[nn.Module], Any]] = [
        lambda model: load_into(model, folder, new_head=["mito", "Er"]),
        lambda model: CosemStart(folder).initialize_weights(model, ["mito", "Er"]),
    ]
    for call in calls:
        with pytest.warns(PartialLoad, match=r"kept: Er \(.*Did you mean 'er'\?") as caught:
            call(Net(2))
        assert caught[0].filename == __file__


def test_an_option_that_is_none_is_an_error_of_this_package(
    write_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "run" / "1")
    for options in ({"strict": True}, {"min_coverage": "0.5"}, {"min_coverage": 50}):
        with pytest.raises(InvalidOption):
            load_into(Net(), folder, **options)
