"""What a fine-tuned run records of its base."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import InvalidLineage, PartialLoad
from cosemzoo.loading.labels import UNKNOWN_KIND
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Channel, HeadTensor, InheritedChannel, Lineage, Manifest, read_manifest
from cosemzoo.models import load_into
from cosemzoo.publishing import publish
from cosemzoo.publishing.lineage import name_of, read_lineage
from cosemzoo.reference import parse_reference
from cosemzoo.zoo import Checkpoint, Zoo

Write = Callable[..., Path]
RUN = (Channel("er", "distance"), Channel("ld", "distance"), Channel("mito", "distance"))


class Net(nn.Module):
    def __init__(self, rows: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.conv = nn.Conv1d(2, 4, 3, bias=False)
        self.prediction_head = nn.Linear(4, rows)


def load(model: nn.Module, base: Checkpoint, zoo: Zoo, **options: Any) -> LoadReport:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialLoad)
        return load_into(model, base, zoo=zoo, **options)


@pytest.fixture
def offline() -> Zoo:
    return Zoo(offline=True)


@pytest.fixture
def base(write_checkpoint: Write, offline: Zoo) -> Checkpoint:
    """Have a base in a folder: ecs, mito, er."""
    return offline.resolve(write_checkpoint())


@pytest.fixture
def report(base: Checkpoint, offline: Zoo) -> LoadReport:
    """Have the report of a load into er, ld, mito."""
    return load(Net(), base, offline, new_head=["er", "ld", "mito"])


@pytest.fixture
def save(report: LoadReport, tmp_path: Path) -> Callable[..., Path]:
    """Save the report with changes to its members, or to those of a channel by its number."""

    def save(changes: dict[str, Any] | None = None, **rows: dict[str, Any]) -> Path:
        document = report.to_dict() | (changes or {})
        for row, members in rows.items():
            document["channels"][int(row[1:])] |= members
        path = tmp_path / "report.json"
        path.write_text(json.dumps(document))
        return path

    return save


def problems(
    report: Path | LoadReport, base: Checkpoint, channels: tuple[Channel, ...] = RUN
) -> dict[str, str]:
    with pytest.raises(InvalidLineage) as caught:
        read_lineage(report, base, channels)
    return dict(caught.value.problems)


def sources(lineage: Lineage) -> list[str | None]:
    assert lineage.channels is not None
    return [channel.source for channel in lineage.channels]


def test_a_published_base_is_recorded_by_repository_and_commit(zoo: Zoo, write_checkpoint: Write) -> None:
    published = publish(write_checkpoint(), "setup04", zoo=zoo, aliases=["best"])
    base = zoo.resolve("setup04@best")
    lineage = read_lineage(load(Net(), base, zoo, new_head=["er", "ld", "mito"]), base, RUN)
    assert lineage == Lineage(
        base_repository="cosemzoo/setup04",
        base_commit=published.commit,
        base_reference="setup04@1820500",
        channels=(
            InheritedChannel("er", "distance", "er", "distance"),
            InheritedChannel("ld", "distance"),
            InheritedChannel("mito", "distance", "mito", "distance"),
        ),
    )
    by_commit = zoo.resolve(f"setup04@{published.commit}")
    assert read_lineage(None, by_commit, RUN) == Lineage(
        base_repository="cosemzoo/setup04", base_commit=published.commit, base_reference="setup04@1820500"
    )


def test_a_base_in_a_folder_is_recorded_by_content_without_its_path(
    base: Checkpoint, report: LoadReport, tmp_path: Path
) -> None:
    lineage = read_lineage(report, base, RUN)
    assert (lineage.base_repository, lineage.base_commit) == (None, None)
    assert lineage.base_content_hash == base.content_hash
    assert lineage.base_reference == "setup04@1820500"
    assert str(tmp_path) not in repr(lineage)


def test_a_report_is_the_same_in_a_file_and_in_memory(
    base: Checkpoint, report: LoadReport, tmp_path: Path
) -> None:
    path = tmp_path / "report.json"
    path.write_text(report.to_json(), encoding="utf-8")
    assert read_lineage(path, base, RUN) == read_lineage(report, base, RUN)


def test_what_is_recorded_is_a_valid_part_of_a_manifest(base: Checkpoint, report: LoadReport) -> None:
    manifest = Manifest(run="run_1", channels=RUN, head=(), lineage=read_lineage(report, base, RUN))
    assert read_manifest(manifest.to_json().encode(), "config.json") == manifest


def test_rows_that_were_assumed_have_the_labels_of_the_run(base: Checkpoint, offline: Zoo) -> None:
    lineage = read_lineage(load(Net(), base, offline), base, RUN)
    assert lineage.channels == (
        InheritedChannel("er", "distance", "ecs", "distance"),
        InheritedChannel("ld", "distance", "mito", "distance"),
        InheritedChannel("mito", "distance", "er", "distance"),
    )


def test_rows_of_a_base_that_names_none_are_recorded_by_position(
    write_checkpoint: Write, offline: Zoo
) -> None:
    base = offline.resolve(write_checkpoint(manifest=False))
    report = load(Net(), base, offline, head="prediction_head")
    assert sources(read_lineage(report, base, RUN)) == ["row 0", "row 1", "row 2"]


def test_a_kind_that_the_load_did_not_know_is_not_recorded(
    save: Callable[..., Path], base: Checkpoint
) -> None:
    unknown = {"kind": UNKNOWN_KIND, "source_kind": UNKNOWN_KIND}
    lineage = read_lineage(save(r0=unknown, r2=unknown), base, RUN)
    assert sources(lineage) == ["er", None, "mito"]
    assert lineage.channels is not None
    assert [channel.kind for channel in lineage.channels] == ["distance"] * 3


def test_a_load_that_knew_no_head_says_nothing_of_channels(write_checkpoint: Write, offline: Zoo) -> None:
    base = offline.resolve(write_checkpoint(manifest=False))
    assert read_lineage(load(Net(), base, offline), base, RUN).channels is None


def test_a_head_that_was_kept_is_new(base: Checkpoint, offline: Zoo) -> None:
    report = load(Net(2), base, offline)
    assert sources(read_lineage(report, base, RUN[:2])) == [None, None]


def test_the_channels_of_several_heads_follow_each_other_or_are_listed_once(
    tmp_path: Path, offline: Zoo
) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(2, 4)
            self.main = nn.Linear(4, 2)
            self.side = nn.Linear(4, 2)

    write_safetensors(tmp_path / "model.safetensors", dict(Two().state_dict()))
    heads = [HeadTensor(f"{name}.weight") for name in ("main", "side")]
    channels = (Channel("er", "distance"), Channel("mito", "distance"))
    manifest = Manifest(run="r", channels=channels, head=tuple(heads))
    (tmp_path / "config.json").write_text(manifest.to_json())
    base = offline.resolve(tmp_path)
    shared = load(Two(), base, offline, new_head=["mito", "ld"])
    assert len(shared.channels) == 4
    assert sources(read_lineage(shared, base, (channels[1], RUN[1]))) == ["mito (distance)", None]
    apart = load(Two(), base, offline, new_head=["mito", "ld", "nuc", "er"])
    run = tuple(Channel(label, "distance") for label in ("mito", "ld", "nuc", "er"))
    assert sources(read_lineage(apart, base, run)) == ["mito (distance)", None, None, "er (distance)"]
    both = {"$.channels": "says other sources for main and side, which share the run's channels"}
    unlabelled = apart.to_dict()
    for row in unlabelled["channels"]:
        row |= {"label": None, "kind": None}
    path = tmp_path / "report.json"
    path.write_text(json.dumps(unlabelled))
    assert problems(path, base, run[:2]) == both


def test_a_load_from_another_checkpoint_is_refused(
    report: LoadReport, write_checkpoint: Write, offline: Zoo
) -> None:
    other = offline.resolve(write_checkpoint(seed=1))
    found = problems(report, other)
    assert list(found) == ["$.commit"]
    assert str(report.commit) in found["$.commit"]
    assert other.identity in found["$.commit"]


def test_the_commit_of_a_base_that_has_moved_since_is_said(zoo: Zoo, write_checkpoint: Write) -> None:
    publish(write_checkpoint(iteration=1), "setup04", zoo=zoo, aliases=["best"])
    before = zoo.resolve("setup04@best")
    report = load(Net(), before, zoo, new_head=["er", "ld", "mito"])
    later = write_checkpoint(iteration=2)
    publish(later, "setup04", zoo=zoo, aliases=["best"], move_aliases=True)
    said = problems(report, zoo.resolve("setup04@best"))["$.commit"]
    assert said.endswith(f"give --base cosemzoo/setup04@{before.commit}")
    moved = zoo.resolve(said.rpartition(" ")[2])
    assert read_lineage(report, moved, RUN).base_commit == before.commit


def test_a_report_without_a_commit_is_refused(save: Callable[..., Path], base: Checkpoint) -> None:
    assert problems(save({"commit": None}), base)["$.commit"].startswith("is not recorded")


def test_a_load_of_nothing_is_refused(save: Callable[..., Path], base: Checkpoint) -> None:
    assert problems(save({"bytes": 0}), base) == {"$.bytes": "is 0: nothing was loaded"}


def test_channels_that_are_not_the_runs_are_refused(report: LoadReport, base: Checkpoint) -> None:
    run = (Channel("er", "one-hot"), Channel("ld", "distance"), Channel("nuc", "distance"))
    assert problems(report, base, run) == {
        "$.channels[0]": "is er (distance), but that channel of the run is er (one-hot)",
        "$.channels[2]": "is mito (distance), but that channel of the run is nuc (distance)",
    }


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_head_of_another_size_is_refused(report: LoadReport, base: Checkpoint, count: int) -> None:
    found = problems(report, base, (*RUN, Channel("nuc", "distance"))[:count])
    assert found == {"$.channels": f"has 3 rows (prediction_head 3), but the run has {count} channels"}


def test_a_source_that_the_base_does_not_have_is_refused(save: Callable[..., Path], base: Checkpoint) -> None:
    found = problems(save(r0={"source_row": 7}, r2={"source_label": "nuc"}), base)
    assert found == {
        "$.channels[0]": "comes from row 7, er (distance), but the base has no such row there",
        "$.channels[2]": "comes from row 1, nuc (distance), but the base has mito (distance) there",
    }


def test_rows_out_of_order_are_refused(
    save: Callable[..., Path], report: LoadReport, base: Checkpoint
) -> None:
    rows = report.to_dict()["channels"]
    path = save({"channels": [rows[0], rows[2], rows[1]]})
    found = problems(path, base, (RUN[0], RUN[2], RUN[1]))
    assert found == {
        "$.channels[1].row": "is row 2 of prediction_head where row 1 is expected",
        "$.channels[2].row": "is row 1 of prediction_head where row 2 is expected",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"source_row": None}, "is loaded from no row, er (distance)"),
        ({"source_label": None}, "is loaded from row 2, no label (distance)"),
        ({"source_row": None, "source_label": None, "source_kind": None}, "is loaded from no row, no label"),
    ],
)
def test_a_source_is_a_row_and_a_label_where_the_base_has_labels(
    save: Callable[..., Path], base: Checkpoint, changes: dict[str, Any], said: str
) -> None:
    found = problems(save(r0=changes), base)
    assert list(found) == ["$.channels[0]"]
    assert found["$.channels[0]"].startswith(said)


@pytest.mark.parametrize("changes", [{"source_row": 0}, {"source_label": "ecs"}, {"source_kind": "distance"}])
def test_a_row_that_was_kept_has_no_source(
    save: Callable[..., Path], base: Checkpoint, changes: dict[str, Any]
) -> None:
    found = problems(save(r1=changes), base)
    assert found["$.channels[1]"].startswith("is kept, and yet says that it comes from ")


def test_every_problem_is_in_one_error(save: Callable[..., Path], base: Checkpoint) -> None:
    path = save({"commit": "x", "bytes": 0, "outcome": "failed"}, r0={"label": "nuc"})
    assert list(problems(path, base)) == ["$.commit", "$.outcome", "$.bytes", "$.channels[0]"]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"reference": 4}, "$.reference"),
        ({"commit": 4}, "$.commit"),
        ({"outcome": None}, "$.outcome"),
        ({"channels": {}}, "$.channels"),
        ({"channels": ["mito"]}, "$.channels[0]"),
        ({"channels": [{"row": 0, "status": "loaded"}]}, "$.channels[0].head"),
        ({"channels": [{"head": "h", "row": "0", "status": "loaded"}]}, "$.channels[0].row"),
        ({"bytes": True}, "$.bytes"),
    ],
)
def test_what_is_no_report_is_refused_at_its_path(
    save: Callable[..., Path], base: Checkpoint, changes: dict[str, Any], path: str
) -> None:
    assert list(problems(save(changes), base)) == [path]


def test_a_report_that_is_not_there_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    assert problems(tmp_path / "nowhere.json", base) == {"$": "cannot be read (No such file or directory)"}


@given(
    st.binary(max_size=50)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_text_crashes_the_reader(text: bytes) -> None:
    base = Checkpoint(
        reference=parse_reference("lab/run@1"),
        repository="lab/run",
        commit="a" * 40,
        criterion="1",
        manifest=None,
        weights=WeightsTable({}, {}, ()),
        files=(),
    )

    class Text(type(Path())):  # type: ignore[misc]
        def read_bytes(self) -> bytes:
            return text

    with pytest.raises(InvalidLineage):
        read_lineage(Text("report.json"), base, RUN)


@pytest.mark.parametrize(
    ("asked", "repository", "expected"),
    [
        ("setup04", "cosemzoo/setup04", "setup04@1000"),
        ("run_1@best", "my-lab/run_1", "my-lab/run_1@1000"),
        ("other/setup04", "other/setup04", "other/setup04@1000"),
        ("local:run_1@best", None, "local:run_1@1000"),
    ],
)
def test_a_name_is_the_run_and_the_criterion_itself(
    asked: str, repository: str | None, expected: str
) -> None:
    checkpoint = Checkpoint(
        reference=parse_reference(asked),
        repository=repository,
        content_hash="a" * 64,
        criterion="1000",
        manifest=None,
        weights=WeightsTable({}, {}, ()),
        files=(),
    )
    assert name_of(checkpoint) == expected
    assert parse_reference(expected)


def test_a_folder_without_a_manifest_goes_by_its_own_name(write_checkpoint: Write, offline: Zoo) -> None:
    folder = write_checkpoint(manifest=False)
    assert name_of(offline.resolve(folder)) == folder.name
