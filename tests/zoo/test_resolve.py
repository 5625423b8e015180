"""What a name means in a run that has an index of criteria."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from huggingface_hub import HfApi

from cosemzoo.errors import (
    ContradictoryPublication,
    CriterionNotFound,
    InvalidIndex,
    InvalidManifest,
    NamespaceMissing,
    WeightsNotFound,
    YankedCheckpoint,
)
from cosemzoo.publishing import publish
from cosemzoo.reference import parse_reference
from cosemzoo.zoo import Zoo

Write = Callable[..., Path]


def test_a_checkpoint_is_pinned_to_the_commit_of_its_iteration(zoo: Zoo, run: str) -> None:
    checkpoint = zoo.resolve("setup04@1820500")
    assert (checkpoint.commit, checkpoint.identity, checkpoint.content_hash) == (run, run, None)
    assert (checkpoint.repository, checkpoint.folder) == ("cosemzoo/setup04", None)
    assert checkpoint.endpoint == zoo.endpoint
    assert str(checkpoint) == f"cosemzoo/setup04@1820500 (commit {run[:8]})"


def test_a_checkpoint_cannot_be_changed(zoo: Zoo, run: str) -> None:
    with pytest.raises(FrozenInstanceError):
        zoo.resolve("setup04").commit = "0" * 40  # type: ignore[misc]


def test_without_a_criterion_the_best_is_meant(zoo: Zoo, run: str) -> None:
    checkpoint = zoo.resolve("setup04")
    assert (checkpoint.criterion, checkpoint.commit) == ("1820500", run)
    assert checkpoint.reference == parse_reference("setup04")


def test_an_alias_means_its_iteration(zoo: Zoo, run: str) -> None:
    assert zoo.resolve("setup04@first").criterion == "500000"


def test_an_alias_that_moves_is_followed_and_the_old_pin_stays(
    zoo: Zoo, run: str, write_checkpoint: Write
) -> None:
    before = zoo.resolve("setup04@best")
    release = publish(
        write_checkpoint(seed=3, iteration=2000000), "setup04", zoo=zoo, aliases=["best"], move_aliases=True
    )
    after = zoo.resolve("setup04@best")
    assert (after.commit, after.criterion) == (release.commit, "2000000")
    assert after.files[0].sha256 != before.files[0].sha256
    assert (
        zoo.fetch(before)["model.safetensors"].read_bytes()
        == write_checkpoint(seed=2).joinpath("model.safetensors").read_bytes()
    )


def test_a_commit_means_its_iteration(zoo: Zoo, run: str) -> None:
    assert zoo.resolve(f"setup04@{run}").criterion == "1820500"


def test_manifest_and_tensors_are_known_before_the_weights_are(zoo: Zoo, run: str) -> None:
    checkpoint = zoo.resolve("setup04")
    assert checkpoint.manifest is not None
    assert checkpoint.manifest.labels == ("ecs", "mito", "er")
    assert checkpoint.weights.tensors["prediction_head.weight"].entry.shape == (3, 4)
    assert not list(zoo.cache_dir.rglob("*.safetensors"))


def test_what_was_published_is_known_before_the_weights_are(
    zoo: Zoo, run: str, write_checkpoint: Write
) -> None:
    (file,) = zoo.resolve("setup04").files
    (same,) = zoo.resolve(write_checkpoint(seed=2)).files
    assert (file.name, file.size, file.sha256) == (same.name, same.size, same.sha256)


def test_fetched_weights_are_the_published_ones(zoo: Zoo, run: str, write_checkpoint: Write) -> None:
    paths = zoo.fetch("setup04")
    expected = write_checkpoint(seed=2) / "model.safetensors"
    assert {name: path.read_bytes() for name, path in paths.items()} == {expected.name: expected.read_bytes()}


def test_the_index_can_be_read(zoo: Zoo, run: str) -> None:
    index = zoo.criteria("setup04")
    assert index is not None
    assert set(index.criteria) == {"500000", "1820500"}
    assert index.aliases == {"first": "500000", "best": "1820500"}


def test_an_unknown_criterion_is_refused_with_those_that_exist(zoo: Zoo, run: str) -> None:
    with pytest.raises(CriterionNotFound, match=r"Did you mean '1820500'\?") as caught:
        zoo.resolve("setup04@1820501")
    assert set(caught.value.available) == {"best", "first", "500000", "1820500"}


def test_a_commit_that_does_not_exist_is_an_unknown_criterion(zoo: Zoo, run: str) -> None:
    with pytest.raises(CriterionNotFound) as caught:
        zoo.resolve(f"setup04@{'0' * 40}")
    assert "1820500" in caught.value.available


@pytest.mark.parametrize("name", ["1820500", "the commit"])
def test_a_yanked_checkpoint_resolves_by_iteration_and_by_commit_with_a_warning(
    zoo: Zoo, run: str, yank: Callable[[str, str], None], name: str
) -> None:
    yank("1820500", "trained on the test set")
    criterion = run if name == "the commit" else name
    with pytest.warns(YankedCheckpoint, match="trained on the test set"):
        assert zoo.resolve(f"setup04@{criterion}").commit == run


def test_a_yanked_checkpoint_does_not_resolve_by_an_alias(
    zoo: Zoo, run: str, yank: Callable[[str, str], None]
) -> None:
    yank("1820500", "trained on the test set")
    with pytest.raises(CriterionNotFound, match="trained on the test set") as caught:
        zoo.resolve("setup04")
    assert set(caught.value.available) == {"first", "500000"}


def test_a_cached_commit_warns_of_a_yank_that_the_cached_index_knows(
    zoo: Zoo, run: str, yank: Callable[[str, str], None], asked: Callable[[], list[str]]
) -> None:
    zoo.fetch(f"setup04@{run}")
    yank("1820500", "trained on the test set")
    zoo.resolve("setup04@first")
    asked()
    with pytest.warns(YankedCheckpoint):
        zoo.resolve(f"setup04@{run}")
    assert asked() == []


def test_an_index_and_a_hub_that_disagree_are_refused_before_anything_is_downloaded(
    zoo: Zoo, run: str, amend_index: Callable[..., None]
) -> None:
    def change(index: Any) -> Any:
        release = evolve(index.criteria["1820500"], weights={"model.safetensors": "0" * 64})
        return evolve(index, criteria={**index.criteria, "1820500": release})

    amend_index(change)
    with pytest.raises(ContradictoryPublication, match="0000"):
        zoo.resolve("setup04")
    assert not list(zoo.cache_dir.rglob("model.safetensors"))


def test_a_malformed_index_is_refused(zoo: Zoo, run: str, commit_files: Callable[..., str]) -> None:
    commit_files("cosemzoo/setup04", {"criteria.json": b'{"format_version": 99}'})
    with pytest.raises(InvalidIndex, match="upgrade"):
        zoo.resolve("setup04")


def test_a_manifest_that_contradicts_the_tensors_is_refused(
    zoo: Zoo, run: str, amend_index: Callable[..., None], commit_files: Callable[..., str], tmp_path: Path
) -> None:
    path = zoo.resolve("setup04")
    assert path.manifest is not None
    wrong = evolve(path.manifest, channels=path.manifest.channels[:2])
    commit = commit_files("cosemzoo/setup04", {"config.json": wrong.to_json().encode()})

    def change(index: Any) -> Any:
        release = evolve(index.criteria["1820500"], commit=commit)
        return evolve(index, criteria={**index.criteria, "1820500": release})

    amend_index(change)
    with pytest.raises(InvalidManifest, match="3 slices"):
        zoo.resolve("setup04")


def test_an_index_without_a_manifest_beside_the_weights_is_refused(
    zoo: Zoo, run: str, amend_index: Callable[..., None], api: HfApi
) -> None:
    commit = api.delete_file("config.json", "cosemzoo/setup04").oid

    def change(index: Any) -> Any:
        release = evolve(index.criteria["1820500"], commit=commit)
        return evolve(index, criteria={**index.criteria, "1820500": release})

    amend_index(change)
    with pytest.raises(InvalidManifest, match="is missing"):
        zoo.resolve("setup04")


def test_pickled_weights_are_never_read(zoo: Zoo, commit_files: Callable[..., str]) -> None:
    commit_files("lab/run_1", {"pytorch_model.bin": b"\x80\x02", "model.pt": b"\x80\x03"})
    with pytest.raises(WeightsNotFound, match="convert"):
        zoo.resolve("lab/run_1")


def test_shards_are_one_checkpoint(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint(files=2)
    publish(folder, "setup04", zoo=zoo, aliases=["best"])
    checkpoint = zoo.resolve("setup04")
    assert len(checkpoint.files) == 2
    assert set(checkpoint.weights.tensors) == {
        "backbone.conv.weight",
        "prediction_head.weight",
        "prediction_head.bias",
    }
    paths = zoo.fetch(checkpoint)
    assert {name: path.read_bytes() for name, path in paths.items()} == {
        path.name: path.read_bytes() for path in folder.glob("*.safetensors")
    }


def test_known_runs_need_no_namespace_and_others_do(
    make_zoo: Callable[..., Zoo], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = parse_reference("run_1")
    assert make_zoo(namespace="lab").repository_of(parse_reference("setup04")) == "cosemzoo/setup04"
    assert make_zoo(namespace="lab").repository_of(bare) == "lab/run_1"
    assert make_zoo(namespace="lab").repository_of(parse_reference("other/run_1")) == "other/run_1"
    with pytest.raises(NamespaceMissing):
        make_zoo().repository_of(bare)
    monkeypatch.setenv("COSEMZOO_NAMESPACE", "from-environment")
    assert make_zoo().repository_of(bare) == "from-environment/run_1"


def test_making_a_zoo_asks_nothing(make_zoo: Callable[..., Zoo], asked: Callable[[], list[str]]) -> None:
    zoo = make_zoo()
    assert not zoo.cache_dir.exists()
    assert asked() == []
