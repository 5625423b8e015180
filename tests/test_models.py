import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cosemzoo
from cosemzoo import models
from cosemzoo.errors import (
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
