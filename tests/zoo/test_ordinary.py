"""Repositories without an index of criteria: the criterion is a branch, a tag or a commit."""

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from cosemzoo.errors import CriterionNotFound, InvalidManifest, NotCached
from cosemzoo.zoo import Zoo

Write = Callable[..., Path]
MODEL = "lab/run_1"


@pytest.fixture
def commits(api: HfApi, write_checkpoint: Write, commit_folder: Callable[..., str]) -> list[str]:
    """Two commits of an ordinary repository: the tag ``v1`` and the branch ``main``."""
    first = commit_folder(MODEL, write_checkpoint(seed=1, manifest=False))
    api.create_tag(MODEL, tag="v1", revision=first)
    return [first, commit_folder(MODEL, write_checkpoint(seed=2, manifest=False))]


def test_without_a_criterion_main_is_meant(zoo: Zoo, commits: list[str]) -> None:
    checkpoint = zoo.resolve(MODEL)
    assert (checkpoint.commit, checkpoint.criterion, checkpoint.manifest) == (commits[1], "main", None)


def test_a_tag_is_a_criterion(zoo: Zoo, commits: list[str]) -> None:
    checkpoint = zoo.resolve(f"{MODEL}@v1")
    assert (checkpoint.commit, checkpoint.criterion) == (commits[0], "v1")


def test_a_branch_with_a_slash_is_a_criterion(zoo: Zoo, commits: list[str], api: HfApi) -> None:
    api.create_branch(MODEL, branch="wider/heads", revision=commits[0])
    assert zoo.resolve(f"{MODEL}@wider/heads").commit == commits[0]


def test_a_commit_is_a_criterion(zoo: Zoo, commits: list[str]) -> None:
    checkpoint = zoo.resolve(f"{MODEL}@{commits[0]}")
    assert (checkpoint.commit, checkpoint.criterion) == (commits[0], commits[0])


def test_an_unknown_revision_is_refused_with_branches_and_tags(zoo: Zoo, commits: list[str]) -> None:
    with pytest.raises(CriterionNotFound) as caught:
        zoo.resolve(f"{MODEL}@v2")
    assert set(caught.value.available) == {"main", "v1"}


def test_an_unknown_commit_is_refused_with_branches_and_tags(zoo: Zoo, commits: list[str]) -> None:
    with pytest.raises(CriterionNotFound) as caught:
        zoo.resolve(f"{MODEL}@{'0' * 40}")
    assert set(caught.value.available) == {"main", "v1"}


def test_an_empty_repository_has_no_criteria(zoo: Zoo, api: HfApi) -> None:
    api.create_repo(MODEL)
    with pytest.raises(CriterionNotFound, match="no criterion 'v1'"):
        zoo.resolve(f"{MODEL}@v1")


def test_a_configuration_of_another_library_is_no_manifest(
    zoo: Zoo, commits: list[str], commit_files: Callable[..., str]
) -> None:
    commit_files(MODEL, {"config.json": b'{"model_type": "bert"}'})
    assert zoo.resolve(MODEL).manifest is None


def test_a_manifest_of_ours_is_read(
    zoo: Zoo, write_checkpoint: Write, commit_folder: Callable[..., str]
) -> None:
    commit_folder(MODEL, write_checkpoint(run="run_1"))
    manifest = zoo.resolve(MODEL).manifest
    assert manifest is not None
    assert manifest.run == "run_1"


def test_a_malformed_manifest_of_ours_is_refused(
    zoo: Zoo, commits: list[str], commit_files: Callable[..., str]
) -> None:
    commit_files(MODEL, {"config.json": b'{"format_version": 1, "channels": []}'})
    with pytest.raises(InvalidManifest):
        zoo.resolve(MODEL)


def test_it_has_no_index(zoo: Zoo, commits: list[str]) -> None:
    assert zoo.criteria(MODEL) is None


@pytest.mark.parametrize("criterion", ["", "@main", "@v1"])
def test_a_fetched_name_resolves_offline(
    zoo: Zoo, make_zoo: Callable[..., Zoo], commits: list[str], criterion: str, asked: Callable[[], list[str]]
) -> None:
    paths = zoo.fetch(f"{MODEL}{criterion}")
    asked()
    assert make_zoo(offline=True).fetch(f"{MODEL}{criterion}") == paths
    assert asked() == []


def test_what_the_client_downloaded_resolves_offline(
    make_zoo: Callable[..., Zoo], commits: list[str], api: HfApi, asked: Callable[[], list[str]]
) -> None:
    zoo = make_zoo(offline=True)
    api.snapshot_download(MODEL, cache_dir=zoo.cache_dir)
    asked()
    assert zoo.resolve(MODEL).commit == commits[1]
    assert zoo.fetch(MODEL)
    assert asked() == []


def test_a_name_that_was_never_asked_for_is_not_cached(
    zoo: Zoo, make_zoo: Callable[..., Zoo], commits: list[str]
) -> None:
    zoo.fetch(MODEL)
    with pytest.raises(NotCached, match=r"cosemzoo fetch lab/run_1@v1"):
        make_zoo(offline=True).resolve(f"{MODEL}@v1")


def test_a_warm_main_costs_one_request(
    zoo: Zoo, make_zoo: Callable[..., Zoo], commits: list[str], asked: Callable[[], list[str]]
) -> None:
    zoo.fetch(MODEL)
    asked()
    make_zoo().fetch(MODEL)
    assert asked() == [f"HEAD /{MODEL}/resolve/main/criteria.json"]


def test_a_warm_commit_costs_no_request(
    zoo: Zoo, make_zoo: Callable[..., Zoo], commits: list[str], asked: Callable[[], list[str]]
) -> None:
    zoo.fetch(f"{MODEL}@{commits[0]}")
    asked()
    make_zoo().fetch(f"{MODEL}@{commits[0]}")
    assert asked() == []
