"""Publishers that are killed, or publish at once: readers see the old state or the new, never between."""

import json
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from cosemzoo.errors import RunNotFound
from cosemzoo.manifest import Index
from cosemzoo.zoo import Zoo

RUN = "lab/run_1"

PublishApart = Callable[..., Any]
Write = Callable[..., Path]

#: How often; the larger number in `make test-full`.
few_or_many = pytest.mark.parametrize(
    "times", [pytest.param(5, id="few"), pytest.param(50, id="many", marks=pytest.mark.full)]
)


def index_of(zoo: Zoo) -> Index:
    try:
        index = zoo.criteria(RUN)
    except RunNotFound:
        # Killed before it made the repository.
        index = None
    return index or Index(run="run_1", criteria={})


def check_everything(zoo: Zoo, api: HfApi, folders: dict[str, Path]) -> set[str]:
    """Check that every criterion and name that the run has gives its own bytes, and give the criteria.

    A request of a publisher that was killed can still take effect meanwhile, so that each answer is compared
    with what itself says it is.
    """
    for criterion in [*index_of(zoo).criteria, *index_of(zoo).aliases]:
        checkpoint = zoo.resolve(f"{RUN}@{criterion}")
        found = zoo.fetch(checkpoint)["model.safetensors"]
        assert found.read_bytes() == (folders[checkpoint.criterion] / "model.safetensors").read_bytes()
    if api.repo_exists(RUN):
        check_main(api, folders)
    return set(index_of(zoo).criteria)


def check_main(api: HfApi, folders: dict[str, Path]) -> None:
    """Check that a commit of main has the files of what its own index calls the best."""
    commit = api.model_info(RUN).sha
    names = {"criteria.json", "model.safetensors", "config.json"} & set(
        api.list_repo_files(RUN, revision=commit)
    )
    texts = {name: Path(api.hf_hub_download(RUN, name, revision=commit)).read_bytes() for name in names}
    best = json.loads(texts.pop("criteria.json", b"{}")).get("aliases", {}).get("best")
    assert texts == ({name: (folders[best] / name).read_bytes() for name in texts} if best else {})
    assert best is None or len(texts) == 2


@few_or_many
def test_killed_at_any_point_readers_see_a_whole_zoo_and_the_next_publication_completes_it(
    *, zoo: Zoo, api: HfApi, write_checkpoint: Write, publish_apart: PublishApart, times: int
) -> None:
    at_random = random.Random(4)
    folders: dict[str, Path] = {}
    longest = 1.0
    killed = 0
    for number in range(times):
        criterion = str(number)
        folders[criterion] = write_checkpoint(run="run_1", seed=number, iteration=number, padding=1_000_000)
        options = {"aliases": ["best"], "move_aliases": True}
        one = publish_apart(folders[criterion], f"{RUN}@{criterion}", **options)
        alarm = threading.Timer(at_random.uniform(0, longest), one.kill)
        alarm.start()
        status = one.wait()
        alarm.cancel()
        killed += status != 0
        assert check_everything(zoo, api, folders) >= set(folders) - {criterion}
        assert publish_apart(folders[criterion], f"{RUN}@{criterion}", **options).wait() == 0
        assert check_everything(zoo, api, folders) == set(folders)
        assert index_of(zoo).aliases == {"best": criterion}
        assert [ref.name for ref in api.list_repo_refs(RUN).branches] == ["main"]
    assert killed > times / 4


def test_eight_publishers_at_once_all_publish(
    zoo: Zoo, api: HfApi, write_checkpoint: Write, publish_apart: PublishApart
) -> None:
    folders = {
        str(number): write_checkpoint(run="run_1", seed=number, iteration=number) for number in range(8)
    }
    # Each lane has imported everything before any of them starts.
    for lane in range(8):
        assert publish_apart(folders["0"], f"{RUN}@0", lane=lane).wait() == 0
    running = [
        publish_apart(folder, f"{RUN}@{criterion}", lane=lane, aliases=[f"name-{lane}"])
        for lane, (criterion, folder) in enumerate(folders.items())
    ]
    assert [one.wait() for one in running] == [0] * 8
    assert check_everything(zoo, api, folders) == set(folders)
    assert index_of(zoo).aliases == {f"name-{number}": str(number) for number in range(8)}
    assert [ref.name for ref in api.list_repo_refs(RUN).branches] == ["main"]


def test_publishers_of_the_same_at_once_publish_it_once(
    zoo: Zoo, api: HfApi, write_checkpoint: Write, publish_apart: PublishApart
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    for lane in range(4):
        assert publish_apart(write_checkpoint(run="run_1", iteration=0), f"{RUN}@0", lane=lane).wait() == 0
    running = [publish_apart(folder, f"{RUN}@1", lane=lane, aliases=["best"]) for lane in range(4)]
    assert [one.wait() for one in running] == [0] * 4
    refs = api.list_repo_refs(RUN)
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    assert tags["1"] == index_of(zoo).criteria["1"].commit == zoo.resolve(RUN).commit
    assert (set(tags), [ref.name for ref in refs.branches]) == ({"0", "1"}, ["main"])


@few_or_many
def test_readers_of_a_name_that_moves_never_fail_and_never_get_a_mixture(
    *,
    zoo: Zoo,
    api: HfApi,
    make_zoo: Callable[..., Zoo],
    write_checkpoint: Write,
    publish_apart: PublishApart,
    tmp_path: Path,
    times: int,
) -> None:
    folders = [write_checkpoint(run="run_1", seed=number, iteration=number) for number in (1, 2)]
    whole = {
        ((folder / "model.safetensors").read_bytes(), (folder / "config.json").read_text())
        for folder in folders
    }
    assert publish_apart(folders[0], f"{RUN}@1", aliases=["best"]).wait() == 0
    done = threading.Event()

    def read(number: int) -> set[str]:
        reader, seen = make_zoo(cache_dir=tmp_path / f"reader-{number}"), set()
        while not done.is_set():
            checkpoint = reader.resolve(RUN)
            weights = reader.fetch(checkpoint)["model.safetensors"].read_bytes()
            assert checkpoint.manifest is not None
            assert (weights, checkpoint.manifest.to_json()) in whole
            seen.add(checkpoint.criterion)
        return seen

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read, number) for number in range(4)]
        try:
            for move in range(times):
                number = 2 - move % 2
                one = publish_apart(
                    folders[number - 1], f"{RUN}@{number}", aliases=["best"], move_aliases=True
                )
                assert one.wait() == 0
        finally:
            done.set()
    assert set.union(*(reader.result() for reader in readers)) == {"1", "2"}
