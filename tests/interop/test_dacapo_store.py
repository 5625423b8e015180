"""DaCapo's store of weights as a place that checkpoints come from."""

import json
import multiprocessing
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from torch import nn

from cosemzoo import load_into
from cosemzoo.errors import (
    CriterionNotFound,
    IntegrityError,
    InvalidReference,
    InvalidSetting,
    NonFiniteValues,
    PartialLoad,
    UnsafePickle,
)
from cosemzoo.interop.dacapo import DacapoStore
from cosemzoo.interop.dacapo.options import runs_base_dir
from cosemzoo.starts import Start

LABELS = ["ecs", "mito", "er"]
TASK = {"__type__": "DistanceTaskConfig", "name": "task", "channels": LABELS}


class Model(nn.Module):
    """A model with the module tree of DaCapo up to 0.3.5."""

    def __init__(self, rows: int = 3) -> None:
        super().__init__()
        self.architecture = nn.Module()
        self.architecture.unet = nn.Module()
        self.architecture.unet.l_conv = nn.Conv3d(1, 4, 3)
        self.prediction_head = nn.Conv3d(4, rows, 1)
        self.chain = nn.Sequential(self.architecture, self.prediction_head)


class Weights:
    """Pickled under the name of DaCapo's class."""

    def __init__(self, model: object, optimizer: object) -> None:
        self.model, self.optimizer = model, optimizer


Weights.__module__, Weights.__qualname__ = "dacapo.store.weights_store", "Weights"


class Saved:
    """A run as DaCapo leaves it."""

    def __init__(self, base: Path) -> None:
        self.base, self.checkpoints = base, base / "run_1" / "checkpoints"
        self.model = Model()
        (self.checkpoints / "iterations").mkdir(parents=True)

    def store(self, iteration: int, model: nn.Module | None = None) -> Path:
        path = self.checkpoints / "iterations" / str(iteration)
        torch.save({"model": (model or self.model).state_dict(), "optimizer": {"state": {}}}, path)
        return path

    def best(self, iteration: int, name: str) -> None:
        link = self.checkpoints / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(self.checkpoints / "iterations" / str(iteration))
        (self.checkpoints / f"{name}.json").write_text(json.dumps({"iteration": iteration}))

    def configure(self, task: object) -> None:
        folder = self.base / "configs" / "runs"
        folder.mkdir(parents=True)
        (folder / "run_1.yaml").write_text(yaml.dump({"name": "run_1", "task_config": task}))


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    made = Saved(tmp_path / "dacapo")
    made.store(1000, Model())
    made.store(2000)
    made.best(2000, "jrc_hela-2/f1_score")
    return made


@pytest.fixture
def store(saved: Saved, tmp_path: Path) -> DacapoStore:
    return DacapoStore(saved.base, cache_dir=tmp_path / "converted")


@pytest.mark.parametrize("criterion", ["2000", "best", "jrc_hela-2/f1_score", "f1_score/jrc_hela-2"])
def test_a_start_takes_what_dacapo_stored_by_label(saved: Saved, store: DacapoStore, criterion: str) -> None:
    saved.configure(TASK)
    start = Start(f"run_1@{criterion}", store=store)
    assert start.channels == LABELS
    assert start.checkpoint.criterion == "2000"
    assert start.checkpoint.manifest is not None
    assert start.checkpoint.manifest.iteration == 2000
    model = Model()
    with pytest.warns(PartialLoad):
        start.initialize_weights(model, new_head=["er", "mito", "ecs"])
    assert torch.equal(model.prediction_head.weight, saved.model.prediction_head.weight.flip(0))
    name = "architecture.unet.l_conv.weight"
    assert torch.equal(model.get_parameter(name), saved.model.get_parameter(name))


def test_without_a_stored_configuration_the_labels_are_unknown(saved: Saved, store: DacapoStore) -> None:
    start = Start("run_1@2000", store=store)
    assert start.channels is None
    model = Model()
    start.initialize_weights(model, strict="require")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), saved.model.parameters(), strict=True))


def test_labels_that_do_not_fit_the_head_are_not_used(
    saved: Saved, store: DacapoStore, caplog: pytest.LogCaptureFixture
) -> None:
    saved.configure(TASK | {"channels": ["mito"]})
    assert store.resolve("run_1@2000").manifest is None
    assert "does not fit the channels" in caplog.text


def test_a_pickled_weights_object_is_read_without_running_it(
    saved: Saved, store: DacapoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import ModuleType

    module = ModuleType("dacapo.store.weights_store")
    module.Weights = Weights  # type: ignore[attr-defined]
    for name in ("dacapo", "dacapo.store"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save(Weights(saved.model.state_dict(), {}), saved.checkpoints / "iterations" / "3000")
    model = Model()
    report = load_into(model, "run_1@3000", strict="require", zoo=store)
    assert report.reference == "local:run_1@3000"
    assert torch.equal(model.prediction_head.bias, saved.model.prediction_head.bias)  # type: ignore[arg-type]


class _Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("false",)


def test_a_pickle_that_would_run_code_is_refused_and_leaves_nothing(
    saved: Saved, store: DacapoStore, tmp_path: Path
) -> None:
    path = saved.checkpoints / "iterations" / "3000"
    torch.save({"model": {"weight": torch.zeros(1)}, "optimizer": _Runs()}, path)
    with pytest.raises(UnsafePickle):
        store.resolve("run_1@3000")
    assert not [*(tmp_path / "converted").rglob("*.safetensors")]


def test_weights_of_a_training_that_diverged_are_refused(saved: Saved, store: DacapoStore) -> None:
    model = Model()
    nn.init.constant_(model.prediction_head.bias, float("nan"))  # type: ignore[arg-type]
    saved.store(3000, model)
    with pytest.raises(NonFiniteValues):
        store.resolve("run_1@3000")


def converted(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "converted").rglob("*.safetensors"))


def test_what_is_converted_is_used_again(saved: Saved, store: DacapoStore, tmp_path: Path) -> None:
    first = store.resolve("run_1@2000")
    (file,) = converted(tmp_path)
    before = file.stat()
    again = DacapoStore(saved.base, cache_dir=tmp_path / "converted").resolve("run_1@best")
    assert again.content_hash == first.content_hash
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert file.stat().st_ino == before.st_ino


def test_other_weights_under_the_same_name_are_converted_anew(saved: Saved, store: DacapoStore) -> None:
    first = store.resolve("run_1@2000")
    saved.store(2000, Model())
    assert store.resolve("run_1@2000").content_hash != first.content_hash


@pytest.mark.parametrize("damage", ["cut", "other bytes", "no record"])
def test_a_damaged_conversion_is_made_again(store: DacapoStore, tmp_path: Path, damage: str) -> None:
    first = store.resolve("run_1@2000")
    (file,) = converted(tmp_path)
    if damage == "no record":
        (file.parent / "conversion.json").unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[:-4] if damage == "cut" else data[:-4] + b"gone")
    assert store.resolve("run_1@2000").content_hash == first.content_hash
    store.fetch(first)


def test_a_conversion_that_changes_after_it_was_resolved_is_an_error(
    store: DacapoStore, tmp_path: Path
) -> None:
    checkpoint = store.resolve("run_1@2000")
    (file,) = converted(tmp_path)
    file.write_bytes(file.read_bytes()[:-4] + b"gone")
    with pytest.raises(IntegrityError):
        store.fetch(checkpoint)


def test_what_a_killed_conversion_left_behind_is_removed(store: DacapoStore, tmp_path: Path) -> None:
    store.resolve("run_1@2000")
    (file,) = converted(tmp_path)
    left = file.with_name(".0123.safetensors")
    left.write_bytes(b"half")
    (file.parent / "conversion.json").unlink()
    store.resolve("run_1@2000")
    assert converted(tmp_path) == [file]


def _resolve(base: Path, cache: Path) -> str | None:
    return DacapoStore(base, cache_dir=cache).resolve("run_1@2000").content_hash


def test_two_processes_at_once_get_the_same(saved: Saved, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.starmap(_resolve, [(saved.base, tmp_path / "converted")] * 4, chunksize=1)
    assert len(set(found)) == 1
    assert len(converted(tmp_path)) == 1


@pytest.mark.parametrize("asked", ["my-lab/run_1@2000", "./run_1", "/run_1"])
def test_only_runs_of_the_store_can_be_asked_for(store: DacapoStore, asked: str) -> None:
    with pytest.raises(InvalidReference, match="the run of one store"):
        store.resolve(asked)


def test_a_criterion_that_is_not_there_is_said_with_those_that_are(store: DacapoStore) -> None:
    with pytest.raises(CriterionNotFound, match="1000, 2000, jrc_hela-2/f1_score"):
        store.resolve("run_1@3000")


def test_a_cache_that_cannot_be_made_is_said(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidSetting, match="DacapoStore"):
        DacapoStore(saved.base, cache_dir=tmp_path / "file").resolve("run_1@2000")


# --- DaCapo's options --------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home, work = tmp_path / "home", tmp_path / "work"
    (home / ".config" / "dacapo").mkdir(parents=True)
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("DACAPO_OPTIONS_FILE", raising=False)
    monkeypatch.chdir(work)
    return home


def options(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_folder_of_runs_is_that_of_the_options_in_dacapos_order(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs_base_dir() == home / "dacapo"
    options(home / ".config" / "dacapo" / "dacapo.yaml", "runs_base_dir: /of/home\n")
    assert runs_base_dir() == Path("/of/home")
    options(tmp_path / "work" / "dacapo.yaml", "runs_base_dir: /of/work\ntype: files\n")
    assert runs_base_dir() == Path("/of/work")
    named = options(tmp_path / "named.yaml", "runs_base_dir: ~/named\n")
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", str(named))
    assert runs_base_dir() == DacapoStore().runs_base_dir == home / "named"


def test_options_that_do_not_say_the_folder_leave_the_default(home: Path, tmp_path: Path) -> None:
    options(tmp_path / "work" / "dacapo.yaml", "type: files\n")
    assert runs_base_dir() == home / "dacapo"


@pytest.mark.parametrize("text", ["runs_base_dir: [1, 2]\n", "runs_base_dir: ''\n", "a: [\n", "\x00"])
def test_options_that_cannot_be_read_are_an_error(home: Path, tmp_path: Path, text: str) -> None:
    options(tmp_path / "work" / "dacapo.yaml", text)
    with pytest.raises(InvalidSetting, match=r"dacapo\.yaml"):
        runs_base_dir()


def test_an_options_file_that_is_named_and_not_there_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DACAPO_OPTIONS_FILE", "/nowhere/dacapo.yaml")
    with pytest.raises(InvalidSetting, match=r"/nowhere/dacapo\.yaml"):
        DacapoStore().resolve("run_1@1")


def test_making_a_store_reads_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DacapoStore("/nowhere", cache_dir="/nowhere/else")
        DacapoStore()
