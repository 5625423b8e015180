"""Publishing a checkpoint, and publishing it again."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from huggingface_hub import HfApi

from cosemzoo.errors import (
    AccessDenied,
    AlreadyPublished,
    DescriptionDiffers,
    InvalidIndex,
    InvalidManifest,
    InvalidReference,
    PublicationFailed,
    PublicationRefused,
    RunNotFound,
    WriteDenied,
)
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import Index
from cosemzoo.publishing import Published
from cosemzoo.publishing import publish as publish_as_asked
from cosemzoo.zoo import Zoo

Write = Callable[..., Path]
RUN = "lab/run_1"
COMMIT_TO_MAIN = f"POST /api/models/{RUN}/commit/main"


@pytest.fixture
def on_main(api: HfApi, tmp_path: Path) -> Callable[[str], bytes]:
    """Read a file of main."""

    def read(name: str) -> bytes:
        return Path(api.hf_hub_download(RUN, name, cache_dir=tmp_path / "reader")).read_bytes()

    return read


def publish(folder: Path | str, reference: str, **options: Any) -> Published:
    """Publish as what is the best from now on."""
    return publish_as_asked(folder, reference, **{"aliases": ["best"], "move_aliases": True, **options})


def index_of(zoo: Zoo) -> Index:
    index = zoo.criteria(RUN)
    assert index is not None
    return index


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_a_checkpoint_becomes_a_tagged_commit_of_the_index(
    zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    release = publish(
        write_checkpoint(run="run_1", iteration=1000),
        f"{RUN}@1000",
        zoo=zoo,
        date="2025-01-02T03:04:05+00:00",
    ).release
    assert release is not None
    assert {ref.name: ref.target_commit for ref in api.list_repo_refs(RUN).tags} == {"1000": release.commit}
    index = index_of(zoo)
    assert index.criteria == {"1000": release}
    assert (index.run, index.aliases) == ("run_1", {"best": "1000"})
    assert (release.date, release.labels) == ("2025-01-02T03:04:05+00:00", ("ecs", "mito", "er"))


def test_what_was_published_is_what_is_fetched(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint()
    publish(folder, RUN, zoo=zoo)
    assert zoo.fetch(RUN)["model.safetensors"].read_bytes() == weights(folder)


def test_without_a_criterion_the_manifest_gives_the_iteration(zoo: Zoo, write_checkpoint: Write) -> None:
    publish(write_checkpoint(iteration=7), RUN, zoo=zoo)
    assert list(index_of(zoo).criteria) == ["7"]


def test_main_holds_the_files_of_the_best(
    zoo: Zoo, write_checkpoint: Write, on_main: Callable[[str], bytes]
) -> None:
    first, better, other = (write_checkpoint(seed=number, iteration=number) for number in (1, 2, 3))
    publish(first, f"{RUN}@1", zoo=zoo)
    publish(better, f"{RUN}@2", zoo=zoo)
    publish(other, f"{RUN}@3", zoo=zoo, aliases=["jrc_hela-2/f1_score"])
    assert on_main("model.safetensors") == weights(better)
    assert index_of(zoo).aliases == {"best": "2", "jrc_hela-2/f1_score": "3"}
    for criterion, folder in {"1": first, "2": better, "3": other, "jrc_hela-2/f1_score": other}.items():
        assert zoo.fetch(f"{RUN}@{criterion}")["model.safetensors"].read_bytes() == weights(folder)


def test_an_iteration_beside_the_best_leaves_no_branch(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    publish(write_checkpoint(iteration=1), RUN, zoo=zoo, aliases=[])
    assert [ref.name for ref in api.list_repo_refs(RUN).branches] == ["main"]


def test_best_can_move_back_to_an_iteration_that_is_there(
    zoo: Zoo, write_checkpoint: Write, on_main: Callable[[str], bytes]
) -> None:
    first, second = (write_checkpoint(seed=number, iteration=number) for number in (1, 2))
    before = publish(first, f"{RUN}@1", zoo=zoo)
    publish(second, f"{RUN}@2", zoo=zoo)
    assert publish(first, f"{RUN}@1", zoo=zoo).release == before.release
    assert on_main("model.safetensors") == weights(first)
    assert index_of(zoo).aliases == {"best": "1"}


def test_main_holds_no_shards_of_an_earlier_best(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    publish(write_checkpoint(files=2, iteration=1), f"{RUN}@1", zoo=zoo)
    publish(write_checkpoint(iteration=2), f"{RUN}@2", zoo=zoo)
    names = {name for name in api.list_repo_files(RUN) if name.startswith("model")}
    assert names == {"model.safetensors"}
    assert len(zoo.fetch(f"{RUN}@1")) == 2


def test_the_card_of_the_folder_is_published(
    zoo: Zoo, write_checkpoint: Write, on_main: Callable[[str], bytes]
) -> None:
    folder = write_checkpoint()
    publish(folder, RUN, zoo=zoo)
    card = b"---\nlicense: cc-by-4.0\n---\nA network.\n"
    (folder / "README.md").write_bytes(card)
    publish(folder, RUN, zoo=zoo)
    assert on_main("README.md") == card


def test_the_same_again_changes_nothing(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    folder = write_checkpoint()
    published = publish(folder, RUN, zoo=zoo)
    before = api.list_repo_refs(RUN)
    again = publish(folder, RUN, zoo=zoo)
    assert (again.release, again.changes) == (published.release, ())
    assert api.list_repo_refs(RUN) == before


def test_other_weights_under_the_same_criterion_are_refused(
    zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    release = publish(write_checkpoint(seed=1, iteration=1), f"{RUN}@1", zoo=zoo).release
    assert release is not None
    before = api.model_info(RUN).sha
    with pytest.raises(AlreadyPublished, match=release.weights["model.safetensors"]):
        publish(write_checkpoint(seed=2, iteration=1), f"{RUN}@1", zoo=zoo)
    assert api.model_info(RUN).sha == before


def test_what_was_interrupted_after_the_tag_is_completed(
    hub: LocalHub, zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    folder = write_checkpoint(seed=1, iteration=1)
    hub.fail_next(status=500, match=COMMIT_TO_MAIN)
    with pytest.raises(PublicationFailed):
        publish(folder, f"{RUN}@1", zoo=zoo, aliases=[])
    (tag,) = api.list_repo_refs(RUN).tags
    with pytest.raises(AlreadyPublished):
        publish(write_checkpoint(seed=2, iteration=1), f"{RUN}@1", zoo=zoo, aliases=[])
    assert publish(folder, f"{RUN}@1", zoo=zoo, aliases=[]).commit == tag.target_commit
    assert list(index_of(zoo).criteria) == ["1"]


def test_what_was_interrupted_before_the_tag_is_completed(
    hub: LocalHub, zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    folder = write_checkpoint(iteration=1)
    for aliases in (["best"], []):
        hub.fail_next(status=500, match=f"POST /api/models/{RUN}/tag/")
        with pytest.raises(PublicationFailed):
            publish(folder, f"{RUN}@1", zoo=zoo, aliases=aliases)
    release = publish(folder, f"{RUN}@1", zoo=zoo, aliases=[])
    assert zoo.resolve(f"{RUN}@1").commit == release.commit
    assert [ref.name for ref in api.list_repo_refs(RUN).branches] == ["main"]


def test_a_main_that_moved_meanwhile_is_read_again(hub: LocalHub, zoo: Zoo, write_checkpoint: Write) -> None:
    publish(write_checkpoint(seed=1, iteration=1), f"{RUN}@1", zoo=zoo)
    hub.fail_next(status=412, match=COMMIT_TO_MAIN, times=2)
    publish(write_checkpoint(seed=2, iteration=2), f"{RUN}@2", zoo=zoo)
    assert set(index_of(zoo).criteria) == {"1", "2"}


def test_a_main_that_never_rests_is_given_up(hub: LocalHub, zoo: Zoo, write_checkpoint: Write) -> None:
    hub.fail_next(status=412, match=COMMIT_TO_MAIN, times=100)
    with pytest.raises(PublicationFailed) as caught:
        publish(write_checkpoint(), RUN, zoo=zoo)
    assert caught.value.status == 412


def test_publishers_at_the_same_time_do_not_undo_each_other(
    zoo: Zoo,
    make_zoo: Callable[..., Zoo],
    write_checkpoint: Write,
    on_main: Callable[[str], bytes],
    tmp_path: Path,
) -> None:
    folders = {str(number): write_checkpoint(seed=number, iteration=number) for number in (1, 2, 3)}
    publish(write_checkpoint(iteration=0), f"{RUN}@0", zoo=zoo)
    start = Barrier(len(folders))

    def publish_one(criterion: str) -> None:
        start.wait()
        publish(folders[criterion], f"{RUN}@{criterion}", zoo=make_zoo(cache_dir=tmp_path / criterion))

    with ThreadPoolExecutor() as pool:
        list(pool.map(publish_one, folders))
    index = index_of(zoo)
    assert set(index.criteria) == {"0", *folders}
    assert on_main("model.safetensors") == weights(folders[index.aliases["best"]])


@pytest.mark.parametrize("reference", ["local:run_1@1", "./folder", f"{RUN}@{'0' * 40}"])
def test_only_a_run_on_the_hub_can_be_published_to(zoo: Zoo, write_checkpoint: Write, reference: str) -> None:
    with pytest.raises(InvalidReference):
        publish(write_checkpoint(), reference, zoo=zoo)


def test_an_iteration_is_needed(zoo: Zoo, write_checkpoint: Write) -> None:
    with pytest.raises(InvalidReference, match="iteration"):
        publish(write_checkpoint(iteration=None), RUN, zoo=zoo)


def test_a_manifest_is_needed(zoo: Zoo, write_checkpoint: Write) -> None:
    with pytest.raises(InvalidManifest, match="is missing"):
        publish(write_checkpoint(manifest=False), f"{RUN}@1", zoo=zoo)


def test_a_folder_is_needed(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(RunNotFound):
        publish(tmp_path / "nowhere", f"{RUN}@1", zoo=zoo)


def test_an_alias_that_cannot_be_is_refused_before_anything_is_uploaded(
    zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    publish(write_checkpoint(seed=1, iteration=1), f"{RUN}@1", zoo=zoo)
    before = api.model_info(RUN).sha
    with pytest.raises(InvalidReference):
        publish(write_checkpoint(seed=2, iteration=2), f"{RUN}@2", zoo=zoo, aliases=["with a space"])
    for number in ("1", "3", "0" * 40):
        with pytest.raises(PublicationRefused, match="means an iteration or a commit"):
            publish(write_checkpoint(seed=2, iteration=2), f"{RUN}@2", zoo=zoo, aliases=[number])
    assert api.model_info(RUN).sha == before
    assert [ref.name for ref in api.list_repo_refs(RUN).tags] == ["1"]


def test_a_card_that_cannot_be_read_is_refused_before_anything_is_there(
    zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    folder = write_checkpoint()
    (folder / "README.md").write_bytes(b"---\nlicense: [\n---\n")
    with pytest.raises(PublicationRefused, match=r"README\.md"):
        publish(folder, RUN, zoo=zoo)
    assert not api.repo_exists(RUN)


def test_a_private_run_is_made_private(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    publish(write_checkpoint(), RUN, zoo=zoo, private=True)
    assert api.model_info(RUN).private


def test_without_a_token_the_hub_refuses(tmp_path: Path, write_checkpoint: Write) -> None:
    with LocalHub(tmp_path / "guarded", tokens={"owner-token": "lab"}) as hub:
        zoo = Zoo(endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=False)
        with pytest.raises(AccessDenied):
            publish(write_checkpoint(), RUN, zoo=zoo)


def test_only_the_checkpoint_of_the_folder_is_published(
    zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    folder = write_checkpoint()
    (folder / "optimizer.pt").write_bytes(b"")
    publish(folder, RUN, zoo=zoo)
    assert set(api.list_repo_files(RUN)) == {
        ".gitattributes",
        "config.json",
        "criteria.json",
        "model.safetensors",
    }


# --- what contradicts itself, or what is there -------------------------------------------------------------


def test_aliases_in_one_text_are_refused(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    with pytest.raises(PublicationRefused, match=r"aliases=\['best'\]"):
        publish(write_checkpoint(), RUN, zoo=zoo, aliases="best")
    assert not api.repo_exists(RUN)


def describe_otherwise(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"mito"', '"mitochondrion"'))


def test_another_manifest_of_the_same_weights_is_refused(
    zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    folder = write_checkpoint()
    release = publish(folder, RUN, zoo=zoo)
    before = api.model_info(RUN).sha
    describe_otherwise(folder)
    with pytest.raises(DescriptionDiffers, match=r"(?s)with these weights.*config\.json") as caught:
        publish(folder, RUN, zoo=zoo)
    assert (caught.value.commit, caught.value.files) == (release.commit, ("config.json",))
    assert api.model_info(RUN).sha == before


def test_another_index_of_the_same_shards_is_refused(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint(files=2)
    publish(folder, RUN, zoo=zoo)
    index = folder / "model.safetensors.index.json"
    index.write_bytes(index.read_bytes() + b"\n")
    with pytest.raises(DescriptionDiffers) as caught:
        publish(folder, RUN, zoo=zoo)
    assert caught.value.files == ("model.safetensors.index.json",)


def test_an_interrupted_publication_is_not_completed_with_another_manifest(
    hub: LocalHub, zoo: Zoo, write_checkpoint: Write
) -> None:
    folder = write_checkpoint()
    described = (folder / "config.json").read_bytes()
    hub.fail_next(status=500, match=COMMIT_TO_MAIN)
    with pytest.raises(PublicationFailed):
        publish(folder, RUN, zoo=zoo, aliases=[])
    describe_otherwise(folder)
    with pytest.raises(DescriptionDiffers, match=r"config\.json"):
        publish(folder, RUN, zoo=zoo, aliases=[])
    assert zoo.criteria(RUN) is None
    (folder / "config.json").write_bytes(described)
    publish(folder, RUN, zoo=zoo, aliases=[])
    assert index_of(zoo).criteria["1820500"].labels == ("ecs", "mito", "er")


def test_main_has_the_manifest_of_the_best_even_where_the_weights_are_the_same(
    zoo: Zoo, write_checkpoint: Write, on_main: Callable[[str], bytes]
) -> None:
    first, second = (write_checkpoint(iteration=number) for number in (1, 2))
    for folder in (first, second, first):
        publish(folder, RUN, zoo=zoo)
        assert on_main("config.json") == (folder / "config.json").read_bytes()


@pytest.mark.parametrize(
    ("iteration", "criterion", "said"),
    [
        (1000, "2000", rf"says iteration 1000, not 2000.*Publish it as {RUN}@1000"),
        (1000, "best", rf"says iteration 1000, not best.*Publish it as {RUN}@1000, with aliases=\['best'\]"),
        (1000, "jrc_hela-2/f1_score", r"with aliases=\['jrc_hela-2/f1_score'\]"),
        (None, "2000", "gives no iteration"),
        (None, "best", "gives no iteration"),
    ],
)
def test_a_criterion_that_the_folder_does_not_say_is_refused(
    *, zoo: Zoo, api: HfApi, write_checkpoint: Write, iteration: int | None, criterion: str, said: str
) -> None:
    with pytest.raises(PublicationRefused, match=said):
        publish(write_checkpoint(iteration=iteration), f"{RUN}@{criterion}", zoo=zoo)
    assert not api.repo_exists(RUN)


def test_a_checkpoint_without_an_iteration_is_published_under_a_name(
    zoo: Zoo, write_checkpoint: Write
) -> None:
    publish(write_checkpoint(iteration=None), f"{RUN}@final", zoo=zoo)
    assert index_of(zoo).aliases == {"best": "final"}


def test_another_run_than_the_repository_s_is_refused(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    publish(write_checkpoint(run="run_1", iteration=1), RUN, zoo=zoo)
    before = api.model_info(RUN).sha
    with pytest.raises(PublicationRefused, match=r"says run 'run_2'.*lab/run_1 holds the run 'run_1'"):
        publish(write_checkpoint(run="run_2", iteration=2), RUN, zoo=zoo)
    assert api.model_info(RUN).sha == before
    assert [ref.name for ref in api.list_repo_refs(RUN).tags] == ["1"]


# --- no traces ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("date", ["yesterday", ""])
def test_a_date_that_is_none_is_refused_before_anything_is_there(
    zoo: Zoo, api: HfApi, write_checkpoint: Write, date: str
) -> None:
    with pytest.raises(PublicationRefused, match="ISO 8601"):
        publish(write_checkpoint(), RUN, zoo=zoo, date=date)
    assert not api.repo_exists(RUN)


def test_an_alias_that_cannot_be_makes_no_repository(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    with pytest.raises(InvalidReference):
        publish(write_checkpoint(), RUN, zoo=zoo, aliases=["with a space"])
    with pytest.raises(InvalidIndex, match="is also a criterion"):
        publish(write_checkpoint(iteration=None), f"{RUN}@final", zoo=zoo, aliases=["final"])
    assert not api.repo_exists(RUN)


@pytest.mark.parametrize("step", ["commit/publish-1", "tag/"])
def test_a_failure_beside_main_leaves_no_branch(
    hub: LocalHub, zoo: Zoo, api: HfApi, write_checkpoint: Write, step: str
) -> None:
    hub.fail_next(status=500, match=f"POST /api/models/{RUN}/{step}")
    with pytest.raises(PublicationFailed, match="500"):
        publish(write_checkpoint(iteration=1), RUN, zoo=zoo, aliases=[])
    assert [ref.name for ref in api.list_repo_refs(RUN).branches] == ["main"]


def test_why_it_failed_is_said_where_the_branch_cannot_be_deleted_either(
    hub: LocalHub, zoo: Zoo, write_checkpoint: Write
) -> None:
    hub.fail_next(status=500, match=f"POST /api/models/{RUN}/commit/publish-1")
    hub.fail_next(status=503, match=f"DELETE /api/models/{RUN}/branch", times=100)
    with pytest.raises(PublicationFailed) as caught:
        publish(write_checkpoint(iteration=1), RUN, zoo=zoo, aliases=[])
    assert caught.value.status == 500


def test_an_offline_zoo_publishes_nothing(
    hub: LocalHub, make_zoo: Callable[..., Zoo], write_checkpoint: Write
) -> None:
    with pytest.raises(PublicationRefused, match="offline"):
        publish(write_checkpoint(), RUN, zoo=make_zoo(offline=True))
    assert hub.requests == []


def test_a_folder_can_be_named_by_a_text(zoo: Zoo, write_checkpoint: Write) -> None:
    publish(str(write_checkpoint()), RUN, zoo=zoo)
    with pytest.raises(InvalidManifest, match="is missing"):
        publish(str(write_checkpoint(manifest=False)), RUN, zoo=zoo)


# --- who may write -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aliases", [[], ["best"]])
def test_who_may_not_write_is_told_so(tmp_path: Path, write_checkpoint: Write, aliases: list[str]) -> None:
    with LocalHub(tmp_path / "guarded", tokens={"owner-token": "lab", "other-token": "other"}) as hub:
        owner, other = (
            Zoo(endpoint=hub.endpoint, cache_dir=tmp_path / "cache", token=token)
            for token in ("owner-token", "other-token")
        )
        folder = write_checkpoint(iteration=2)
        with pytest.raises(WriteDenied, match=rf"{RUN} may not be written.*the right to write"):
            publish(folder, RUN, zoo=other, aliases=aliases)
        publish(write_checkpoint(iteration=1), RUN, zoo=owner)
        with pytest.raises(WriteDenied, match=rf"{RUN} may not be written.*the right to write"):
            publish(folder, RUN, zoo=other, aliases=aliases)


def test_a_repository_that_is_there_needs_no_right_to_create(
    hub: LocalHub, zoo: Zoo, write_checkpoint: Write
) -> None:
    publish(write_checkpoint(iteration=1), RUN, zoo=zoo)
    hub.reset_counts()
    publish(write_checkpoint(iteration=2), RUN, zoo=zoo)
    assert "/api/repos/create" not in [request.path for request in hub.requests]


def test_a_repository_that_another_made_meanwhile_is_taken(
    hub: LocalHub, zoo: Zoo, write_checkpoint: Write
) -> None:
    publish(write_checkpoint(iteration=1), RUN, zoo=zoo)
    hub.fail_next(status=404, match=f"HEAD /{RUN}/resolve/main/")
    publish(write_checkpoint(iteration=2), RUN, zoo=zoo)
    assert set(index_of(zoo).criteria) == {"1", "2"}
    assert "POST /api/repos/create" in [f"{request.method} {request.path}" for request in hub.requests]
