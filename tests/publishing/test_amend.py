"""What was published is described otherwise, named otherwise, or withdrawn."""

import datetime
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import GitRefs, HfApi

from cosemzoo.errors import (
    AliasTaken,
    AlreadyPublished,
    CriterionNotFound,
    DescriptionDiffers,
    IntegrityError,
    InvalidReference,
    PublicationFailed,
    PublicationRefused,
    RunNotFound,
    YankedCheckpoint,
)
from cosemzoo.localhub import LocalHub
from cosemzoo.manifest import Index
from cosemzoo.publishing import publish, run_repository
from cosemzoo.publishing.withdraw import restore, yank
from cosemzoo.zoo import Zoo

Write = Callable[..., Path]
RUN = "lab/run_1"
ONE, TWO = f"{RUN}@1", f"{RUN}@2"
WEIGHTS = {"model.safetensors", "config.json"}


def index_of(zoo: Zoo) -> Index:
    index = zoo.criteria(RUN)
    assert index is not None
    return index


def commit_of(zoo: Zoo, reference: str) -> str:
    return str(zoo.resolve(reference).commit)


def describe_otherwise(folder: Path, label: str = "mitochondrion") -> Path:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"mito"', f'"{label}"'))
    return folder


def files_of_main(api: HfApi) -> set[str]:
    return set(api.list_repo_files(RUN))


@pytest.fixture
def two(zoo: Zoo, write_checkpoint: Write) -> tuple[Path, Path]:
    """Have two iterations of a run on the Hub, the first of them the best; give their folders."""
    first, second = (write_checkpoint(run="run_1", seed=number, iteration=number) for number in (1, 2))
    publish(first, ONE, zoo=zoo, aliases=["best"])
    publish(second, TWO, zoo=zoo)
    return first, second


# --- names -------------------------------------------------------------------------------------------------


def test_without_aliases_no_name_is_given(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    publish(write_checkpoint(run="run_1", iteration=1), RUN, zoo=zoo)
    assert index_of(zoo).aliases == {}
    assert files_of_main(api) == {".gitattributes", "criteria.json"}


def test_a_name_that_means_another_checkpoint_is_not_moved_unasked(
    zoo: Zoo, api: HfApi, two: tuple[Path, Path]
) -> None:
    before, commit = api.model_info(RUN).sha, commit_of(zoo, ONE)
    with pytest.raises(AliasTaken, match=rf"'best' means 1 now \(commit {commit}\).*--move-alias") as caught:
        publish(two[1], TWO, zoo=zoo, aliases=["best"])
    assert caught.value.taken == {"best": ("1", commit)}
    assert api.model_info(RUN).sha == before


def test_a_name_that_is_moved_is_said_from_where_to_where(zoo: Zoo, two: tuple[Path, Path]) -> None:
    commit = commit_of(zoo, ONE)
    done = publish(two[1], TWO, zoo=zoo, aliases=["best"], move_aliases=True)
    assert done.changes == (f"moved best from 1 (commit {commit}) to 2",)
    assert commit_of(zoo, RUN) == done.commit


def test_moving_the_best_uploads_nothing(hub: LocalHub, zoo: Zoo, api: HfApi, two: tuple[Path, Path]) -> None:
    hub.reset_counts()
    publish(two[1], TWO, zoo=zoo, aliases=["best"], move_aliases=True)
    assert not [request for request in hub.requests if "lfs" in request.path and request.method != "GET"]
    path = api.hf_hub_download(RUN, "model.safetensors")
    assert Path(path).read_bytes() == (two[1] / "model.safetensors").read_bytes()


def test_a_name_given_twice_is_given_once(zoo: Zoo, write_checkpoint: Write) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    done = publish(folder, RUN, zoo=zoo, aliases=["final", "final"])
    assert [change for change in done.changes if "final" in change] == ["named it final"]


# --- rehearsals --------------------------------------------------------------------------------------------


def test_a_rehearsal_says_what_would_be_done_and_does_none_of_it(
    zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    told = publish(folder, RUN, zoo=zoo, aliases=["best"], rehearse=True)
    assert (told.rehearsed, told.release) == (True, None)
    assert told.changes == (
        "make the repository lab/run_1",
        "commit model.safetensors, config.json, tagged 1",
        "entered 1 into criteria.json",
        "named it best",
    )
    assert not api.repo_exists(RUN)


def test_a_rehearsal_of_what_is_there_says_nothing_to_do(zoo: Zoo, two: tuple[Path, Path]) -> None:
    told = publish(two[0], ONE, zoo=zoo, aliases=["best"], rehearse=True)
    assert (told.changes, told.commit) == ((), commit_of(zoo, ONE))


def test_a_rehearsal_refuses_what_publishing_refuses(zoo: Zoo, write_checkpoint: Write, two: object) -> None:
    with pytest.raises(AlreadyPublished):
        publish(write_checkpoint(run="run_1", seed=9, iteration=1), ONE, zoo=zoo, rehearse=True)
    with pytest.raises(AliasTaken):
        publish(write_checkpoint(run="run_1", iteration=3), RUN, zoo=zoo, aliases=["best"], rehearse=True)


# --- amendments --------------------------------------------------------------------------------------------


def test_an_amendment_is_a_commit_of_its_own_with_the_same_weights(
    zoo: Zoo, api: HfApi, two: tuple[Path, Path]
) -> None:
    for folder, reference in zip(two, (ONE, TWO), strict=True):
        before = index_of(zoo).criteria[reference[-1]]
        done = publish(describe_otherwise(folder), reference, zoo=zoo, amend=True)
        after = index_of(zoo).criteria[reference[-1]]
        assert after == done.release
        assert (after.weights, after.date) == (before.weights, before.date)
        assert (after.labels, after.superseded) == (("ecs", "mitochondrion", "er"), (before.commit,))
        checkpoint = zoo.resolve(reference)
        assert checkpoint.commit == after.commit != before.commit
        assert checkpoint.manifest is not None
        assert checkpoint.manifest.labels == after.labels
        assert (
            zoo.fetch(checkpoint)["model.safetensors"].read_bytes()
            == (folder / "model.safetensors").read_bytes()
        )
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(RUN).tags}
        assert (tags[reference[-1]], tags[f"{reference[-1]}=v2"]) == (before.commit, after.commit)


def test_an_amended_best_is_amended_on_main(zoo: Zoo, api: HfApi, two: tuple[Path, Path]) -> None:
    publish(describe_otherwise(two[0]), ONE, zoo=zoo, amend=True)
    path = api.hf_hub_download(RUN, "config.json")
    assert '"mitochondrion"' in Path(path).read_text()


def test_the_commit_before_an_amendment_still_resolves(zoo: Zoo, two: tuple[Path, Path]) -> None:
    before = commit_of(zoo, ONE)
    publish(describe_otherwise(two[0]), ONE, zoo=zoo, amend=True)
    checkpoint = zoo.resolve(f"{RUN}@{before}")
    assert (checkpoint.commit, checkpoint.criterion) == (before, "1")
    yank(ONE, "wrong", zoo=zoo)
    with pytest.warns(YankedCheckpoint):
        zoo.resolve(f"{RUN}@{before}")


def test_amendments_can_be_amended_and_repeated(zoo: Zoo, two: tuple[Path, Path]) -> None:
    first = publish(describe_otherwise(two[0]), ONE, zoo=zoo, amend=True)
    assert publish(two[0], ONE, zoo=zoo, amend=True).changes == ()
    config = two[0] / "config.json"
    config.write_text(config.read_text().replace("mitochondrion", "mitos"))
    second = publish(two[0], ONE, zoo=zoo, amend=True)
    assert second.release is not None
    assert second.release.superseded[1:] == (first.commit,)


def test_an_amendment_never_changes_weights(zoo: Zoo, write_checkpoint: Write, two: object) -> None:
    with pytest.raises(AlreadyPublished):
        publish(write_checkpoint(run="run_1", seed=9, iteration=1), ONE, zoo=zoo, amend=True)


def test_an_interrupted_amendment_is_completed(hub: LocalHub, zoo: Zoo, two: tuple[Path, Path]) -> None:
    before = commit_of(zoo, ONE)
    describe_otherwise(two[0])
    hub.fail_next(status=500, match=f"POST /api/models/{RUN}/commit/main")
    with pytest.raises(PublicationFailed):
        publish(two[0], ONE, zoo=zoo, amend=True)
    assert commit_of(zoo, ONE) == before
    done = publish(two[0], ONE, zoo=zoo, amend=True)
    assert done.release is not None
    assert (commit_of(zoo, ONE), done.release.superseded) == (done.commit, (before,))
    assert not [change for change in done.changes if "tagged" in change]


# --- withdrawals -------------------------------------------------------------------------------------------


def test_a_withdrawn_checkpoint_resolves_by_iteration_with_the_reason(
    zoo: Zoo, two: tuple[Path, Path]
) -> None:
    done = yank(ONE, "trained on  wrong\nlabels", zoo=zoo)
    assert (done.release.state, done.aliases, done.changed) == ("yanked", ("best",), True)
    with pytest.warns(YankedCheckpoint, match="trained on wrong labels"):
        assert zoo.resolve(ONE).criterion == "1"
    with pytest.raises(CriterionNotFound, match=r"withdrawn: trained on wrong labels"):
        zoo.resolve(RUN)


def test_main_does_not_hold_a_best_that_was_withdrawn(zoo: Zoo, api: HfApi, two: tuple[Path, Path]) -> None:
    yank(TWO, "wrong", zoo=zoo)
    assert files_of_main(api) >= WEIGHTS
    yank(ONE, "wrong", zoo=zoo)
    assert files_of_main(api).isdisjoint(WEIGHTS)


def test_a_withdrawal_can_be_taken_back(zoo: Zoo, api: HfApi, two: tuple[Path, Path]) -> None:
    before = index_of(zoo)
    yank(ONE, "wrong", zoo=zoo)
    assert restore(ONE, zoo=zoo).changed
    assert index_of(zoo) == before
    assert files_of_main(api) >= WEIGHTS
    assert zoo.resolve(RUN).criterion == "1"


def test_withdrawing_again_changes_nothing(zoo: Zoo, api: HfApi, two: object) -> None:
    yank(ONE, "wrong", zoo=zoo)
    before = api.model_info(RUN).sha
    assert not yank(ONE, "wrong", zoo=zoo).changed
    assert not restore(TWO, zoo=zoo).changed
    assert api.model_info(RUN).sha == before


def test_no_name_is_given_to_a_withdrawn_checkpoint(zoo: Zoo, two: tuple[Path, Path]) -> None:
    yank(TWO, "wrong", zoo=zoo)
    with pytest.raises(PublicationRefused, match=r"was withdrawn \(wrong\).*--undo"):
        publish(two[1], TWO, zoo=zoo, aliases=["best"], move_aliases=True)
    assert publish(two[1], TWO, zoo=zoo).changes == ()
    assert index_of(zoo).criteria["2"].state == "yanked"


def test_an_amendment_does_not_take_a_withdrawal_back(zoo: Zoo, two: tuple[Path, Path]) -> None:
    yank(ONE, "wrong", zoo=zoo)
    publish(describe_otherwise(two[0]), ONE, zoo=zoo, amend=True)
    release = index_of(zoo).criteria["1"]
    assert (release.state, release.reason, len(release.superseded)) == ("yanked", "wrong", 1)


@pytest.mark.parametrize(
    ("reference", "reason", "error", "said"),
    [
        (f"{RUN}@best", "wrong", PublicationRefused, f"means 1 now.*{ONE}"),
        (ONE, "  ", PublicationRefused, "--reason"),
        (RUN, "wrong", InvalidReference, "which iteration"),
        ("local:run_1@1", "wrong", InvalidReference, "Hub"),
        (f"{RUN}@3", "wrong", CriterionNotFound, "there are: 1, 2"),
        ("lab/other@1", "wrong", RunNotFound, "other"),
    ],
)
def test_what_cannot_be_withdrawn_is_refused(
    *, zoo: Zoo, two: object, reference: str, reason: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        yank(reference, reason, zoo=zoo)


# --- what went wrong on the way ----------------------------------------------------------------------------


def test_what_the_hub_gives_back_damaged_is_not_entered(
    hub: LocalHub, zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1, padding=200_000)
    for _ in range(3):  # the header, the weights, and the weights once more
        hub.corrupt_next("/model.safetensors", at_byte=150_000)
    with pytest.raises(IntegrityError):
        publish(folder, RUN, zoo=zoo)
    refs = api.list_repo_refs(RUN)
    assert ([ref.name for ref in refs.branches], refs.tags) == (["main"], [])
    assert zoo.criteria(RUN) is None
    publish(folder, RUN, zoo=zoo)
    assert zoo.resolve(ONE).criterion == "1"


def test_a_branch_that_was_left_is_removed_by_the_next(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    publish(folder, RUN, zoo=zoo)
    for branch in ("publish-1-0123abcd", "publish-1-draft", "publish-2-0123abcd", "publish-1"):
        api.create_branch(RUN, branch=branch)
    publish(write_checkpoint(run="run_1", iteration=3), RUN, zoo=zoo)
    left = {ref.name for ref in api.list_repo_refs(RUN).branches}
    # Of 2, which has no tag, somebody may be publishing at this moment.
    assert left == {"main", "publish-1-draft", "publish-2-0123abcd", "publish-1"}


def test_a_branch_without_a_tag_is_removed_after_a_day(
    zoo: Zoo, api: HfApi, write_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    publish(folder, RUN, zoo=zoo)
    api.create_branch(RUN, branch="publish-2-0123abcd")
    monkeypatch.setattr(run_repository, "_ABANDONED", datetime.timedelta(days=-1))
    publish(folder, RUN, zoo=zoo)
    assert [ref.name for ref in api.list_repo_refs(RUN).branches] == ["main"]


def test_a_branch_that_its_publisher_deletes_meanwhile_is_left_to_it(
    zoo: Zoo, api: HfApi, write_checkpoint: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    publish(folder, RUN, zoo=zoo)
    api.create_branch(RUN, branch="publish-2-0123abcd")
    own = HfApi.list_repo_refs
    listed: list[str] = []

    def list_and_delete(self: HfApi, name: str) -> GitRefs:
        refs = own(self, name)
        if not listed:
            api.delete_branch(RUN, branch="publish-2-0123abcd")
        listed.extend(ref.name for ref in refs.branches)
        return refs

    monkeypatch.setattr(HfApi, "list_repo_refs", list_and_delete)
    publish(folder, RUN, zoo=zoo)
    assert "publish-2-0123abcd" in listed


def test_a_hub_that_cannot_be_tidied_up_has_the_publication_all_the_same(
    hub: LocalHub, zoo: Zoo, api: HfApi, write_checkpoint: Write
) -> None:
    hub.fail_next(status=503, match=f"DELETE /api/models/{RUN}/branch", times=9)
    publish(write_checkpoint(run="run_1", iteration=1), RUN, zoo=zoo)
    assert zoo.resolve(ONE).criterion == "1"


def test_a_tag_that_somebody_deleted_is_made_again(zoo: Zoo, api: HfApi, two: tuple[Path, Path]) -> None:
    commit = commit_of(zoo, ONE)
    publish(describe_otherwise(two[0]), ONE, zoo=zoo, amend=True)
    api.delete_tag(RUN, tag="1")
    done = publish(two[0], ONE, zoo=zoo, amend=True)
    assert done.changes == (f"tagged {commit} 1 again",)
    assert {ref.name: ref.target_commit for ref in api.list_repo_refs(RUN).tags}["1"] == commit


def test_an_interrupted_publication_is_completed_with_another_description_where_it_is_amended(
    hub: LocalHub, zoo: Zoo, write_checkpoint: Write
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    hub.fail_next(status=500, match=f"POST /api/models/{RUN}/commit/main")
    with pytest.raises(PublicationFailed):
        publish(folder, RUN, zoo=zoo)
    describe_otherwise(folder)
    for rehearse in (True, False):
        with pytest.raises(DescriptionDiffers):
            publish(folder, RUN, zoo=zoo, rehearse=rehearse)
    publish(folder, RUN, zoo=zoo, amend=True)
    release = index_of(zoo).criteria["1"]
    assert (release.labels, len(release.superseded)) == (("ecs", "mitochondrion", "er"), 1)
    assert zoo.resolve(ONE).commit == release.commit


def test_an_ordinary_model_is_not_taken_over(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    api.create_repo(RUN)
    api.upload_file(path_or_fileobj=io.BytesIO(b"weights"), path_in_repo="model.safetensors", repo_id=RUN)
    with pytest.raises(PublicationRefused, match="not published with cosemzoo"):
        publish(write_checkpoint(run="run_1", iteration=1), RUN, zoo=zoo)


def test_a_repository_that_is_public_is_not_taken_for_private(
    zoo: Zoo, two: tuple[Path, Path], write_checkpoint: Write
) -> None:
    with pytest.raises(PublicationRefused, match="is public"):
        publish(write_checkpoint(run="run_1", iteration=3), RUN, zoo=zoo, private=True)


def test_a_tag_of_that_name_without_weights_is_said(zoo: Zoo, api: HfApi, write_checkpoint: Write) -> None:
    api.create_repo("lab/other")
    api.create_tag("lab/other", tag="3")
    with pytest.raises(PublicationRefused, match="without weights"):
        publish(write_checkpoint(run="other", iteration=3), "lab/other@3", zoo=zoo)


def test_the_card_on_main_is_that_of_the_best(
    zoo: Zoo, api: HfApi, two: tuple[Path, Path], write_checkpoint: Write
) -> None:
    cards = [f"---\nlicense: mit\n---\n# {number}\n" for number in (1, 2)]
    for folder, card, reference in zip(two, cards, (ONE, TWO), strict=True):
        (folder / "README.md").write_text(card)
        publish(folder, reference, zoo=zoo)
        assert Path(api.hf_hub_download(RUN, "README.md")).read_text() == cards[0]
    publish(two[1], TWO, zoo=zoo, aliases=["best"], move_aliases=True)
    assert Path(api.hf_hub_download(RUN, "README.md")).read_text() == cards[1]


def test_where_xet_is_offered_the_weights_go_by_xet(hub: LocalHub, zoo: Zoo, write_checkpoint: Write) -> None:
    publish(write_checkpoint(run="run_1", iteration=1), RUN, zoo=zoo)
    hub.fail_next(status=200, match="xet-write-token")
    with pytest.raises(PublicationFailed):
        publish(write_checkpoint(run="run_1", iteration=2), RUN, zoo=zoo)
    asked = [request.path for request in hub.requests if "xet-write-token" in request.path]
    assert len(asked) > 2
