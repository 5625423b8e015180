"""From a training checkpoint to a run on the Hub, in one call."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file

from cosemzoo import load_into
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import (
    AliasTaken,
    AlreadyPublished,
    CosemZooWarning,
    CriterionNotFound,
    InvalidCard,
    InvalidLineage,
    InvalidSetting,
    NonFiniteValues,
    PartialLoad,
    PublicationRefused,
    UnsafePickle,
)
from cosemzoo.manifest import Channel, Manifest
from cosemzoo.nets import CosemUNet
from cosemzoo.publishing.importing import import_checkpoint
from cosemzoo.publishing.push import Pushed, PushOptions, push
from cosemzoo.starts import CosemStart
from cosemzoo.zoo import Zoo

Training = Callable[..., Path]
RUN = "cosemzoo/setup04"
TRAINED = "setup04@1820500"
MINE = "lab/run_1"
LABELS = [Channel("mito", "distance"), Channel("er", "distance")]
CARD = """---
license: bsd-3-clause
library_name: cosemzoo
cosemzoo:
  run: run_1
  kind: distance
  channels: [{labels}]
  input_voxel_size: [8, 8, 8]
  output_voxel_size: [4, 4, 4]
---
# A run
"""


def small(channels: int) -> CosemUNet:
    return CosemUNet(channels, widths_down=(1, 2, 3, 4), widths_up=(2, 2, 3))


def model_of(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return state


def manifest_of(zoo: Zoo, reference: str) -> Manifest:
    manifest = zoo.resolve(reference).manifest
    assert manifest is not None
    return manifest


def published(zoo: Zoo, weights: Path, reference: str = f"{MINE}@1", **options: Any) -> Pushed:
    given = {"channels": LABELS, "golden": False, **options}
    return push(reference, weights, zoo=zoo, options=PushOptions(**given))


def write_card(folder: Path, labels: str = "mito, er") -> Path:
    path = folder / "run_1.md"
    path.write_text(CARD.format(labels=labels))
    return path


@pytest.fixture
def trained(write_training: Training) -> Path:
    """Have a file of the COSEM bucket, its numbers made up."""
    return write_training()


@pytest.fixture
def mine(write_training: Training) -> Path:
    """Have a training of two channels."""
    return write_training("mine", channels=2)


# --- round trips -------------------------------------------------------------------------------------------


def test_what_was_trained_is_what_a_start_loads(zoo: Zoo, trained: Path) -> None:
    push(TRAINED, trained, zoo=zoo, options=PushOptions(generated=True, aliases=["best"], golden=False))
    start = CosemStart("setup04", store=zoo)
    model = start.initialize_weights(small(14), new_head=start.channels)
    assert start.report is not None
    assert start.report.outcome == "strict"
    state, loaded = model_of(trained), model.state_dict()
    assert len(loaded) == 42
    for name, values in loaded.items():
        source = name.replace("backbone.", "architecture.unet.")
        assert torch.equal(values, state[source])


def test_a_run_of_the_bucket_is_described_by_the_card_that_comes_with_the_package(
    zoo: Zoo, api: HfApi, trained: Path
) -> None:
    pushed = push(
        TRAINED, trained, zoo=zoo, options=PushOptions(generated=True, aliases=["best"], golden=False)
    )
    manifest = manifest_of(zoo, TRAINED)
    assert manifest == pushed.manifest
    assert len(manifest.channels) == 14
    assert (manifest.iteration, manifest.input_voxel_size, manifest.generated) == (1820500, (8, 8, 8), True)
    assert manifest.architecture is not None
    assert manifest.architecture.arguments["widths_down"] == [1, 2, 3, 4]
    assert manifest.architecture.arguments["final_upsample"] == 2
    card = ModelCard.load(api.hf_hub_download(RUN, "README.md"))
    assert card.data.license == "bsd-3-clause"
    assert "made-up" in card.text


def test_what_was_pushed_can_be_had_by_the_stock_client(zoo: Zoo, api: HfApi, mine: Path) -> None:
    pushed = published(zoo, mine, aliases=["best"])
    assert pushed.published.release is not None
    for revision in (None, "1"):
        path = api.hf_hub_download(MINE, "model.safetensors", revision=revision)
        digest = pushed.published.release.weights["model.safetensors"]
        assert os.path.basename(os.path.realpath(path)) == digest


def test_the_same_again_changes_nothing(zoo: Zoo, api: HfApi, mine: Path) -> None:
    first = published(zoo, mine, aliases=["best"])
    before = api.list_repo_refs(MINE)
    again = published(zoo, mine, aliases=["best"])
    assert (again.published.changes, again.published.release) == ((), first.published.release)
    assert api.list_repo_refs(MINE) == before


def test_a_card_of_one_s_own_describes_the_run(zoo: Zoo, api: HfApi, mine: Path, tmp_path: Path) -> None:
    published(zoo, mine, channels=(), card=write_card(tmp_path), aliases=["best"])
    assert manifest_of(zoo, MINE).labels == ("mito", "er")
    card = ModelCard.load(api.hf_hub_download(MINE, "README.md"))
    assert (card.data.library_name, "cosemzoo" in card.data.to_dict()) == ("cosemzoo", False)


def test_without_a_card_a_new_run_gets_a_plain_one_and_an_old_one_keeps_its_own(
    zoo: Zoo, api: HfApi, write_training: Training, tmp_path: Path
) -> None:
    published(zoo, write_training("one", channels=2), f"{MINE}@1")
    plain = ModelCard.load(api.hf_hub_download(MINE, "README.md"))
    assert plain.data.library_name == "cosemzoo"
    card = write_card(tmp_path)
    published(zoo, write_training("two", channels=2, seed=2), f"{MINE}@2", channels=(), card=card)
    own = api.hf_hub_download(MINE, "README.md")
    published(zoo, write_training("three", channels=2, seed=3), f"{MINE}@3")
    assert Path(api.hf_hub_download(MINE, "README.md")).read_bytes() == Path(own).read_bytes()


def test_a_folder_with_a_manifest_is_published_as_it_is(
    zoo: Zoo, write_checkpoint: Callable[..., Path]
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    pushed = push(f"{MINE}@1", folder, zoo=zoo)
    assert pushed.conversion is None
    assert (
        zoo.fetch(f"{MINE}@1")["model.safetensors"].read_bytes()
        == (folder / "model.safetensors").read_bytes()
    )


# --- what is there is named or described otherwise ---------------------------------------------------------


def test_what_is_there_is_named_without_its_weights(zoo: Zoo, mine: Path) -> None:
    published(zoo, mine)
    push(f"{MINE}@1", zoo=zoo, options=PushOptions(aliases=["best"]))
    assert zoo.resolve(MINE).criterion == "1"


def test_a_description_is_amended_without_the_weights(zoo: Zoo, mine: Path, tmp_path: Path) -> None:
    first = published(zoo, mine, generated=True)
    card = write_card(tmp_path, labels="mito_mem, er")
    with pytest.raises(AlreadyPublished, match="--amend"):
        push(f"{MINE}@1", zoo=zoo, options=PushOptions(card=card))
    push(f"{MINE}@1", zoo=zoo, options=PushOptions(card=card, amend=True))
    manifest = manifest_of(zoo, f"{MINE}@1")
    assert (manifest.labels, manifest.iteration, manifest.generated) == (("mito_mem", "er"), 1, True)
    assert zoo.resolve(f"{MINE}@1").commit != first.published.commit


def test_amending_with_the_same_card_changes_nothing(zoo: Zoo, mine: Path, tmp_path: Path) -> None:
    card = write_card(tmp_path)
    published(zoo, mine, channels=(), card=card, aliases=["best"])
    before = manifest_of(zoo, MINE)
    again = push(f"{MINE}@1", zoo=zoo, options=PushOptions(card=card, amend=True))
    assert (again.published.changes, manifest_of(zoo, MINE)) == ((), before)
    assert before.architecture is not None
    assert before.architecture.arguments["widths_up"] == [2, 2, 3]


def test_amending_with_the_weights_keeps_what_was_said_of_them(
    zoo: Zoo, trained: Path, mine: Path, tmp_path: Path
) -> None:
    report, _ = fine_tuned(zoo, trained, mine, tmp_path)
    channels = [Channel("mito", "distance"), Channel("ld", "distance")]
    published(zoo, mine, channels=channels, base="setup04@best", report=report, generated=True)
    before = manifest_of(zoo, f"{MINE}@1")
    card = write_card(tmp_path, labels="mito, ld")
    published(zoo, mine, channels=(), card=card, amend=True)
    after = manifest_of(zoo, f"{MINE}@1")
    assert after != before
    assert (after.lineage, after.generated) == (before.lineage, True)


def test_a_base_is_added_to_the_card_that_is_there(
    zoo: Zoo, api: HfApi, trained: Path, mine: Path, tmp_path: Path
) -> None:
    fine_tuned(zoo, trained, mine, tmp_path)
    published(zoo, mine, channels=(), card=write_card(tmp_path), aliases=["best"])
    push(f"{MINE}@1", zoo=zoo, options=PushOptions(base="setup04@best", amend=True))
    card = ModelCard.load(api.hf_hub_download(MINE, "README.md"))
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["license"]) == (
        RUN,
        "finetune",
        "bsd-3-clause",
    )
    assert card.text.strip() == "# A run"


def test_a_card_that_nobody_wrote_follows_the_best(zoo: Zoo, api: HfApi, write_training: Training) -> None:
    published(zoo, write_training("one", channels=2), f"{MINE}@1", aliases=["best"])
    other = [Channel("nuc", "distance"), Channel("pm", "distance")]
    two = write_training("two", channels=2, seed=2)
    published(zoo, two, f"{MINE}@2", channels=other, aliases=["best"], move_aliases=True)
    assert "| 0 | `nuc` |" in Path(api.hf_hub_download(MINE, "README.md")).read_text()


@pytest.mark.parametrize(
    ("reference", "options", "error", "said"),
    [
        (f"{MINE}@1", PushOptions(), PublicationRefused, "--weights"),
        (f"{MINE}@1", PushOptions(amend=True), PublicationRefused, "--card"),
        (f"{MINE}@2", PushOptions(aliases=["best"]), CriterionNotFound, "there are: 1"),
    ],
)
def test_nothing_comes_of_nothing(
    *, zoo: Zoo, mine: Path, reference: str, options: PushOptions, error: type[Exception], said: str
) -> None:
    published(zoo, mine)
    with pytest.raises(error, match=said):
        push(reference, zoo=zoo, options=options)


# --- lineage -----------------------------------------------------------------------------------------------


def fine_tuned(zoo: Zoo, trained: Path, mine: Path, tmp_path: Path) -> tuple[Path, str]:
    """Publish a base, load it into two channels, and give the report and the base's commit."""
    done = push(
        TRAINED, trained, zoo=zoo, options=PushOptions(generated=True, aliases=["best"], golden=False)
    )
    with pytest.warns(PartialLoad):
        report = load_into(small(2), "setup04@best", new_head=["mito", "ld"], zoo=zoo)
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    assert done.published.commit is not None
    return path, done.published.commit


def test_a_fine_tuned_run_says_what_it_came_from(
    zoo: Zoo, api: HfApi, trained: Path, mine: Path, tmp_path: Path
) -> None:
    report, commit = fine_tuned(zoo, trained, mine, tmp_path)
    channels = [Channel("mito", "distance"), Channel("ld", "distance")]
    published(zoo, mine, channels=channels, base="setup04@best", report=report, aliases=["best"])
    lineage = manifest_of(zoo, MINE).lineage
    assert lineage is not None
    assert (lineage.base_repository, lineage.base_commit) == (RUN, commit)
    assert lineage.channels is not None
    assert [(row.label, row.source_label) for row in lineage.channels] == [("mito", "mito"), ("ld", None)]
    data = ModelCard.load(api.hf_hub_download(MINE, "README.md")).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == (RUN, "finetune")


def test_a_report_of_other_channels_or_of_no_base_is_refused(
    zoo: Zoo, api: HfApi, trained: Path, mine: Path, tmp_path: Path
) -> None:
    report, _ = fine_tuned(zoo, trained, mine, tmp_path)
    with pytest.raises(InvalidLineage):
        published(zoo, mine, base="setup04@best", report=report)
    with pytest.raises(PublicationRefused, match="--base"):
        published(zoo, mine, report=report)
    assert not api.repo_exists(MINE)


# --- weights stores ----------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, write_training: Training) -> Path:
    """Have a DaCapo weights store with two iterations of run_1, of which a validation found one best."""
    checkpoints = tmp_path / "runs" / "run_1" / "checkpoints"
    for iteration in (1000, 2000):
        path = checkpoints / "iterations" / str(iteration)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_training(channels=2, seed=iteration).rename(path)
    (checkpoints / "jrc_hela-2").mkdir()
    (checkpoints / "jrc_hela-2" / "f1_score").symlink_to("../iterations/1000")
    (checkpoints / "jrc_hela-2" / "f1_score.json").write_text(json.dumps({"iteration": 1000}))
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("criterion", "name"),
    [
        ("best", "best"),
        ("jrc_hela-2/f1_score", "jrc_hela-2/f1_score"),
        ("f1_score/jrc_hela-2", "jrc_hela-2/f1_score"),
    ],
)
def test_a_name_of_a_store_is_published_as_its_iteration(
    zoo: Zoo, store: Path, criterion: str, name: str
) -> None:
    push(f"{MINE}@{criterion}", zoo=zoo, store=store, options=PushOptions(channels=LABELS, golden=False))
    checkpoint = zoo.resolve(f"{MINE}@{name}")
    assert checkpoint.criterion == "1000"
    assert checkpoint.manifest is not None
    assert checkpoint.manifest.iteration == 1000


def test_without_a_card_the_channels_are_those_that_the_store_recorded(
    zoo: Zoo, store: Path, tmp_path: Path
) -> None:
    config = store / "configs" / "runs" / "run_1.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("task_config: {__type__: DistanceTaskConfig, channels: [nuc, pm]}\n")
    push(f"{MINE}@1000", zoo=zoo, store=store)
    assert manifest_of(zoo, f"{MINE}@1000").labels == ("nuc", "pm")
    push(f"{MINE}@2000", zoo=zoo, store=store, options=PushOptions(card=write_card(tmp_path)))
    assert manifest_of(zoo, f"{MINE}@2000").labels == ("mito", "er")


def test_an_iteration_of_a_store_gets_no_other_name(zoo: Zoo, store: Path) -> None:
    push(f"{MINE}@2000", zoo=zoo, store=store, options=PushOptions(channels=LABELS, golden=False))
    index = zoo.criteria(MINE)
    assert index is not None
    assert (list(index.criteria), index.aliases) == (["2000"], {})


# --- refusals: nothing is on the Hub afterwards ------------------------------------------------------------


class Trap:
    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self._trace}",))


def test_a_pickle_that_would_run_code_runs_none_and_is_not_published(
    zoo: Zoo, api: HfApi, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    torch.save({"model": {"a": torch.zeros(1)}, "optimizer": Trap(trace)}, tmp_path / "trap")
    with pytest.raises(UnsafePickle) as caught:
        published(zoo, tmp_path / "trap")
    assert caught.value.wanted == ("posix.system",)
    assert not trace.exists()
    assert not api.repo_exists(MINE)


def spoil(path: Path) -> Path:
    saved = torch.load(path, weights_only=True)
    next(iter(saved["model"].values())).view(-1)[0] = torch.nan
    torch.save(saved, path)
    return path


def test_weights_that_are_not_finite_are_published_only_on_request(zoo: Zoo, api: HfApi, mine: Path) -> None:
    spoil(mine)
    with pytest.raises(NonFiniteValues):
        published(zoo, mine)
    assert not api.repo_exists(MINE)
    published(zoo, mine, allow_nonfinite=True)


def test_another_number_of_rows_than_the_card_has_is_refused(zoo: Zoo, api: HfApi, mine: Path) -> None:
    with pytest.raises(InvalidCard):
        push(TRAINED, mine, zoo=zoo)
    assert not api.repo_exists(RUN)


def test_the_card_of_another_run_is_refused(zoo: Zoo, api: HfApi, mine: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidCard, match=r"run_1.*run_2"):
        published(zoo, mine, "lab/run_2@1", channels=(), card=write_card(tmp_path))
    assert not api.repo_exists("lab/run_2")


def test_a_folder_with_a_manifest_takes_what_it_can_and_refuses_the_rest(
    zoo: Zoo, api: HfApi, write_checkpoint: Callable[..., Path]
) -> None:
    folder = write_checkpoint(run="run_1", iteration=1)
    for options in (PushOptions(dtype="bfloat16"), PushOptions(channels=LABELS)):
        with pytest.raises(PublicationRefused, match="cannot be used"):
            push(f"{MINE}@1", folder, zoo=zoo, options=options)
    with pytest.raises(PublicationRefused, match=r"says run 'run_1'"):
        push("lab/run_2@1", folder, zoo=zoo)
    state = load_file(folder / "model.safetensors")
    state["backbone.conv.weight"][0] = torch.nan
    write_safetensors(folder / "model.safetensors", state)
    with pytest.raises(NonFiniteValues):
        push(f"{MINE}@1", folder, zoo=zoo)
    assert not api.repo_exists(MINE)
    push(f"{MINE}@1", folder, zoo=zoo, options=PushOptions(allow_nonfinite=True, generated=True))
    assert manifest_of(zoo, f"{MINE}@1").generated


def test_the_card_of_an_imported_folder_loads_it_from_where_it_was_pushed_to(
    zoo: Zoo, api: HfApi, trained: Path, tmp_path: Path
) -> None:
    local = Zoo(local_dir=tmp_path / "runs")
    folder = import_checkpoint(TRAINED, zoo=local, source=trained, generated=True).checkpoint.folder
    assert folder is not None
    push("lab/setup04@1820500", folder, zoo=zoo, options=PushOptions(aliases=["best"]))
    text = Path(api.hf_hub_download("lab/setup04", "README.md")).read_text()
    assert 'CosemStart("lab/setup04@1820500")' in text
    assert manifest_of(zoo, "lab/setup04").generated


def test_a_run_that_has_only_the_name_of_a_cosem_run_does_not_get_its_card(
    zoo: Zoo, api: HfApi, trained: Path
) -> None:
    with pytest.raises(PublicationRefused, match="--card"):
        push("lab/setup04@1", trained, zoo=zoo)


def test_another_count_of_steps_in_the_checkpoint_is_said(zoo: Zoo, tmp_path: Path) -> None:
    network = small(2)
    torch.save({"state_dict": network.state_dict(), "global_step": 7}, tmp_path / "last.ckpt")
    with pytest.warns(CosemZooWarning, match="counts 7 steps"):
        published(zoo, tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("labels", "said"), [(["mito", ""], "empty"), (["mito", "mito"], r"more than one mito")]
)
def test_labels_are_checked_before_anything_is_converted(
    *, zoo: Zoo, mine: Path, labels: list[str], said: str
) -> None:
    with pytest.raises(PublicationRefused, match=said):
        published(zoo, mine, channels=[Channel(label, "distance") for label in labels])


def test_labels_that_do_not_fit_the_head_are_said_to(zoo: Zoo, mine: Path) -> None:
    with pytest.raises(PublicationRefused, match=r"do not fit the weights \(.*nuc.*--labels"):
        published(zoo, mine, channels=[*LABELS, Channel("nuc", "distance")])


@pytest.mark.parametrize("address", ["HTTP://example.org/x", "s3://bucket/x", "ftp://me:secret@host/x"])
def test_an_address_that_is_not_https_is_refused(zoo: Zoo, address: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        push(f"{MINE}@1", address, zoo=zoo, options=PushOptions(channels=LABELS, golden=False))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "options", "said"),
    [
        (MINE, {}, "which iteration"),
        (f"{MINE}@best", {}, "--alias best"),
        (f"{MINE}@1", {"channels": ()}, r"--card.*--labels"),
        (f"{MINE}@1", {"card": Path("card.md")}, "drop --labels"),
    ],
)
def test_what_is_missing_or_too_much_is_said(
    *, zoo: Zoo, api: HfApi, mine: Path, reference: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(PublicationRefused, match=said):
        published(zoo, mine, reference, **options)
    assert not api.repo_exists(MINE)


def test_weights_and_a_store_are_too_much(zoo: Zoo, mine: Path, store: Path) -> None:
    with pytest.raises(PublicationRefused, match="one of them"):
        push(f"{MINE}@1", mine, zoo=zoo, store=store)


def test_a_name_that_is_taken_is_refused_and_a_rehearsal_says_so_too(
    zoo: Zoo, write_training: Training
) -> None:
    published(zoo, write_training("one", channels=2), f"{MINE}@1", aliases=["best"])
    other = write_training("two", channels=2, seed=2)
    for rehearse in (True, False):
        with pytest.raises(AliasTaken):
            published(zoo, other, f"{MINE}@2", aliases=["best"], rehearse=rehearse)
    told = published(zoo, other, f"{MINE}@2", aliases=["best"], move_aliases=True, rehearse=True)
    assert any(change.startswith("moved best from 1") for change in told.published.changes)
    assert zoo.resolve(MINE).criterion == "1"


def test_half_the_precision_is_published_on_request(zoo: Zoo, mine: Path) -> None:
    published(zoo, mine, dtype="bfloat16")
    table = zoo.resolve(f"{MINE}@1").weights
    assert {tensor.entry.dtype for tensor in table.tensors.values()} == {"BF16"}


def test_nothing_is_left_on_this_machine(zoo: Zoo, mine: Path) -> None:
    published(zoo, mine)
    folder = Path(os.environ["HF_HOME"]) / "assets" / "cosemzoo"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
