"""Checkpoints in folders, and in the local zoo."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cosemzoo.errors import (
    CriterionNotFound,
    IntegrityError,
    InvalidManifest,
    InvalidSafetensors,
    RunNotFound,
    WeightsNotFound,
)
from cosemzoo.zoo import Zoo

Write = Callable[..., Path]


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """A zoo that must not need a Hub."""
    return Zoo(offline=True, cache_dir=tmp_path / "cache", local_dir=tmp_path / "runs")


@pytest.fixture
def runs(tmp_path: Path, write_folder: Write) -> Path:
    """The local zoo with a run of two iterations and a name with a slash; ``best`` is a link."""
    folder = tmp_path / "runs"
    for number, tag in enumerate(["1000", "2000", "jrc_hela-2=2Ff1_score"]):
        write_folder(folder / "run_1" / tag, seed=number, run="run_1", iteration=None)
    (folder / "run_1" / "best").symlink_to("2000")
    return folder


def test_a_folder_is_pinned_by_the_hash_of_its_weights(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint()
    checkpoint = zoo.resolve(folder)
    content_hash = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (checkpoint.identity, checkpoint.content_hash, checkpoint.commit) == (
        content_hash,
        content_hash,
        None,
    )
    assert (checkpoint.folder, checkpoint.repository, checkpoint.criterion) == (folder, None, folder.name)
    assert str(checkpoint) == f"{folder} (content {content_hash[:8]})"
    assert checkpoint.manifest is not None
    assert zoo.fetch(checkpoint) == {"model.safetensors": folder / "model.safetensors"}


def test_a_relative_folder_stays_the_same_when_the_working_directory_changes(
    zoo: Zoo, write_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint()
    monkeypatch.chdir(folder.parent)
    checkpoint = zoo.resolve(f"./{folder.name}")
    monkeypatch.chdir("/")
    assert zoo.fetch(checkpoint) == {"model.safetensors": folder / "model.safetensors"}


def test_the_hash_of_shards_depends_on_each_of_them(zoo: Zoo, write_checkpoint: Write) -> None:
    first, same, other = (zoo.resolve(write_checkpoint(files=2, seed=seed)) for seed in (0, 0, 1))
    assert first.content_hash == same.content_hash != other.content_hash
    assert len(zoo.fetch(first)) == 2


def test_a_folder_that_changed_since_it_was_resolved_is_refused(
    zoo: Zoo, write_checkpoint: Write, write_folder: Write
) -> None:
    folder = write_checkpoint(seed=0)
    checkpoint = zoo.resolve(folder)
    write_folder(folder, seed=1)
    with pytest.raises(IntegrityError, match="has changed since"):
        zoo.fetch(checkpoint)
    (folder / "model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="no file"):
        zoo.fetch(checkpoint)


def test_a_folder_is_left_as_it_is(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint()
    zoo.fetch(folder)
    assert {path.name for path in folder.rglob("*")} == {"config.json", "model.safetensors"}


def test_a_folder_is_hashed_once(zoo: Zoo, write_checkpoint: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint()
    before = zoo.resolve(folder)
    monkeypatch.setattr("cosemzoo.zoo.digests.hash_file", None)
    assert zoo.resolve(folder) == before


def test_a_folder_without_a_manifest_of_ours_has_none(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint(manifest=False)
    assert zoo.resolve(folder).manifest is None
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert zoo.resolve(folder).manifest is None


def test_a_folder_whose_manifest_is_wrong_is_refused(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint()
    (folder / "config.json").write_text('{"format_version": 1, "channels": []}')
    with pytest.raises(InvalidManifest, match=str(folder)):
        zoo.resolve(folder)


def test_a_folder_that_is_not_there_is_no_run(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound, match="nowhere"):
        zoo.resolve(tmp_path / "nowhere")


def test_a_path_to_a_file_is_told_to_be_its_folder(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint()
    with pytest.raises(RunNotFound, match=f"It is a file: give its folder, {folder}"):
        zoo.resolve(folder / "model.safetensors")


def test_weights_of_another_name_are_named(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint()
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(WeightsNotFound, match=r"It holds:\n  - weights\.safetensors\n") as caught:
        zoo.resolve(folder)
    assert caught.value.available == ("weights.safetensors",)


def test_a_folder_of_pickles_has_no_weights(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"\x80\x02")
    with pytest.raises(WeightsNotFound, match="convert"):
        zoo.resolve(tmp_path)


def test_a_folder_that_lacks_a_shard_is_refused(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint(files=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InvalidSafetensors, match="is missing"):
        zoo.resolve(folder)


def test_a_local_run_is_found_by_its_criterion(zoo: Zoo, runs: Path) -> None:
    checkpoint = zoo.resolve("local:run_1@jrc_hela-2/f1_score")
    assert checkpoint.folder == runs / "run_1" / "jrc_hela-2=2Ff1_score"
    assert checkpoint.criterion == "jrc_hela-2/f1_score"
    assert str(checkpoint) == f"local:run_1@jrc_hela-2/f1_score (content {checkpoint.identity[:8]})"


def test_without_a_criterion_the_best_of_a_local_run_is_meant(zoo: Zoo, runs: Path) -> None:
    checkpoint = zoo.resolve("local:run_1")
    assert checkpoint.criterion == "2000"
    assert checkpoint.identity == zoo.resolve("local:run_1@2000").identity
    assert zoo.fetch("local:run_1")


def test_the_best_of_a_local_run_can_be_a_folder_of_its_own(
    zoo: Zoo, runs: Path, write_folder: Write
) -> None:
    (runs / "run_1" / "best").unlink()
    write_folder(runs / "run_1" / "best", seed=9)
    assert zoo.resolve("local:run_1").criterion == "best"


def test_an_unknown_local_run_is_refused_with_those_that_exist(zoo: Zoo, runs: Path) -> None:
    with pytest.raises(RunNotFound, match=r"It holds: run_1\."):
        zoo.resolve("local:run_2")


def test_a_local_zoo_that_is_not_there_holds_nothing(zoo: Zoo) -> None:
    with pytest.raises(RunNotFound, match="It holds: nothing"):
        zoo.resolve("local:run_1")


def test_an_unknown_local_criterion_is_refused_with_those_that_exist(zoo: Zoo, runs: Path) -> None:
    with pytest.raises(CriterionNotFound) as caught:
        zoo.resolve("local:run_1@3000")
    assert caught.value.available == ("1000", "2000", "best", "jrc_hela-2/f1_score")


def test_folders_and_local_runs_have_no_index(zoo: Zoo, runs: Path) -> None:
    assert zoo.criteria("local:run_1") is None
    assert zoo.criteria(runs / "run_1" / "1000") is None


def test_the_local_zoo_is_an_argument_or_set_in_the_environment_or_the_users_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert Zoo().local_dir == tmp_path / "data" / "cosemzoo" / "runs"
    monkeypatch.setenv("COSEMZOO_LOCAL_DIR", "/lab/runs")
    assert Zoo().local_dir == Path("/lab/runs")
    assert Zoo(local_dir=tmp_path).local_dir == tmp_path
    monkeypatch.delenv("COSEMZOO_LOCAL_DIR")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Zoo().local_dir == Path("/home/somebody/.local/share/cosemzoo/runs")
