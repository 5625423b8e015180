import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from torch import nn

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import (
    CriterionNotFound,
    InputDiffers,
    IntegrityError,
    InvalidHead,
    InvalidReference,
    PartialLoad,
    RunNotFound,
    StrictLoadFailed,
)
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.reference import Reference
from cosemzoo.starts import CosemStart, CosemStartConfig, FolderStore, Start, StartConfig
from cosemzoo.zoo import Checkpoint, Zoo

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
def store(tmp_path: Path, write_folder: WriteCheckpoint) -> FolderStore:
    root = tmp_path / "runs"
    write_folder(root / "setup04" / "1820500")
    write_folder(root / "plain" / "best", manifest=False)
    return FolderStore(root)


@pytest.mark.parametrize(
    "config",
    [
        "setup04@1820500",
        CosemStartConfig("setup04", "1820500"),
        StartConfig(run="setup04", criterion="1820500"),
        {"run": "setup04", "criterion": "1820500"},
        {"run": "setup04", "criterion": 1820500},
        {"run": "setup04@1820500"},
        SimpleNamespace(run="setup04", criterion="1820500", other=3),
        Reference("hub", "setup04", None, "1820500"),
    ],
    ids=lambda config: type(config).__name__,
)
@pytest.mark.parametrize("kind", [Start, CosemStart])
def test_a_start_is_made_from_a_text_a_config_a_dict_or_an_object(kind: type[Start], config: Any) -> None:
    start = kind(config)
    assert (start.run, start.criterion, start.name) == ("setup04", "1820500", "setup04/1820500")
    assert start.report is None
    assert str(start.reference) == "setup04@1820500"


def test_without_a_criterion_the_best_is_meant() -> None:
    for config in ("setup04", {"run": "setup04"}, CosemStartConfig("setup04")):
        assert CosemStart(config).name == "setup04/best"


def test_a_criterion_may_have_parts() -> None:
    start = CosemStart({"run": "my-lab/run_1", "criterion": "jrc_hela-2/f1_score"})
    assert (start.run, start.criterion) == ("my-lab/run_1", "jrc_hela-2/f1_score")
    assert start.name == "my-lab/run_1/jrc_hela-2/f1_score"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("setup04/1820500", "did you mean setup04@1820500?"),
        ({}, "a start is a reference, or a config with a run and a criterion"),
        ({"run": None}, "a start is a reference"),
        (None, "a start is a reference"),
        (7, "a start is a reference"),
        ({"run": "setup04@best", "criterion": "1820500"}, "run names a criterion already"),
        ({"run": "setup04", "criterion": ""}, "the criterion after '@' is empty"),
        ({"run": "setup 04"}, "setup 04"),
    ],
    ids=str,
)
def test_what_names_no_checkpoint_is_refused(config: Any, said: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        CosemStart(config)
    assert said in str(caught.value)


def test_constructors_touch_neither_the_network_nor_the_disk() -> None:
    script = """
import sys
from pathlib import Path
import cosemzoo
from cosemzoo.errors import WeightsNotFound
from cosemzoo.reference import known_runs
from cosemzoo.starts import CosemStart, CosemStartConfig, FolderStore, Start, StartConfig
from cosemzoo.zoo import Zoo

# The list of known runs is part of the package.
known_runs()
seen = []


def watch(event, arguments):
    touches = event.partition(".")[0] in {"open", "os", "socket", "subprocess", "glob", "shutil", "pathlib"}
    if touches:
        seen.append((event, arguments))


sys.addaudithook(watch)
for kind in (Start, CosemStart):
    kind("setup04@1820500")
    kind({"run": "nobody/nothing", "criterion": "best"})
    kind(CosemStartConfig("setup04", "best"), store=FolderStore("/nowhere"))
    kind("/nowhere/at/all")
StartConfig("setup04")
Zoo(endpoint="http://127.0.0.1:9", cache_dir="/nowhere")
assert not seen, seen
try:
    CosemStart(Path(cosemzoo.__file__).parent).check()
except WeightsNotFound:
    assert seen
else:
    sys.exit("the package is no checkpoint")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_channels_are_the_labels_of_the_checkpoint(store: FolderStore) -> None:
    assert CosemStart("setup04@1820500", store=store).channels == LABELS


def test_channels_of_a_checkpoint_without_a_manifest_are_unknown(store: FolderStore) -> None:
    assert CosemStart("plain", store=store).channels is None


@pytest.mark.parametrize("given", [LABELS, tuple(LABELS), np.array(LABELS)], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("wrap", [dict, SimpleNamespace], ids=["dict", "object"])
def test_channels_are_taken_from_the_task_config_where_it_has_them(
    wrap: Callable[..., Any], given: Any, store: FolderStore
) -> None:
    config = wrap(run="plain", criterion="best", task_config=wrap(channels=given))
    start = Start(config, store=store)
    assert start.channels == LABELS
    model = Net()
    with pytest.warns(PartialLoad):
        start.initialize_weights(model, new_head=["er", "mito", "ecs"])
    stored = Start("plain", store=store).initialize_weights(Net())
    assert torch.equal(model.prediction_head.weight, stored.prediction_head.weight.flip(0))


def test_a_task_config_without_channels_is_none(store: FolderStore) -> None:
    config = SimpleNamespace(run="plain", criterion="best", task_config=SimpleNamespace())
    assert Start(config, store=store).channels is None


def test_task_channels_that_do_not_fit_the_tensors_are_said_and_not_used(
    store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    start = Start({"run": "plain", "task_config": {"channels": ["ecs", "mito"]}}, store=store)
    assert start.checkpoint.manifest is None
    assert "does not fit the channels" in caplog.text


def test_task_channels_that_the_manifest_contradicts_are_refused(store: FolderStore) -> None:
    given = {"run": "setup04", "criterion": 1820500, "task_config": {"channels": [*reversed(LABELS)]}}
    with pytest.raises(InvalidHead, match="manifest says"):
        Start(given, store=store).check()


def test_task_channels_without_a_kind_fit_any_kind(store: FolderStore) -> None:
    start = Start({"run": "plain", "task_config": {"channels": list(LABELS)}}, store=store)
    plan = start.plan(Net(), [(label, "distance") for label in reversed(LABELS)])
    assert [row.source_row for row in plan.channels] == [2, 1, 0]


def test_a_resolved_checkpoint_is_a_start(store: FolderStore) -> None:
    checkpoint = store.resolve("setup04@1820500")
    assert CosemStart(checkpoint, store=store).checkpoint is checkpoint


def test_a_folder_has_no_other_criterion(tmp_path: Path) -> None:
    assert Start({"run": str(tmp_path), "criterion": "best"}).reference.run == str(tmp_path)
    with pytest.raises(InvalidReference, match="has no criteria"):
        Start({"run": str(tmp_path), "criterion": "1820500"})


def test_a_folder_store_stays_in_its_folder(store: FolderStore, tmp_path: Path) -> None:
    for outside in (tmp_path, "./run", "/run"):
        with pytest.raises(InvalidReference, match="not for a folder"):
            store.resolve(outside)


def test_task_channels_that_are_no_list_are_refused() -> None:
    with pytest.raises(InvalidHead):
        Start({"run": "plain", "task_config": {"channels": "ecs"}})


def test_the_model_is_filled_in_place_and_given_back(store: FolderStore) -> None:
    start, model = CosemStart("setup04@1820500", store=store), Net()
    weight = model.prediction_head.weight
    assert start.initialize_weights(model, new_head=LABELS) is model
    assert model.prediction_head.weight is weight
    report = start.report
    assert report is not None
    assert (report.outcome, report.reference) == ("strict", "local:setup04@1820500")
    assert report.commit == start.checkpoint.content_hash


def test_the_report_is_that_of_the_last_load(store: FolderStore) -> None:
    start = CosemStart("setup04@1820500", store=store)
    start.initialize_weights(Net(), new_head=LABELS)
    first = start.report
    with pytest.warns(PartialLoad):
        start.initialize_weights(Net(4), new_head=[*LABELS, "new"])
    assert start.report is not first
    assert start.report is not None
    assert len(start.report.channels) == 4
    with pytest.raises(StrictLoadFailed):
        start.initialize_weights(Net(4), strict="require")
    assert start.report is None


def test_options_reach_the_load(store: FolderStore) -> None:
    start, model = CosemStart("setup04@1820500", store=store), nn.Module()
    model.out = nn.Linear(4, 3)
    with pytest.warns(PartialLoad):
        start.initialize_weights(model, new_head=LABELS, head="out", min_coverage=0.0, strict="never")
    assert start.report is not None
    assert {row.status for row in start.report.channels} == {"loaded"}


class Described(nn.Module):
    """A model for a checkpoint that says what goes in."""

    def __init__(self, inputs: int = 2, body: str = "backbone") -> None:
        super().__init__()
        self.add_module(body, nn.Sequential(nn.Conv1d(inputs, 4, 3)))
        self.prediction_head = nn.Conv1d(4, 3, 1)


@pytest.fixture
def described(tmp_path: Path) -> tuple[FolderStore, Mapping[str, torch.Tensor]]:
    folder = tmp_path / "described" / "setup04" / "1"
    folder.mkdir(parents=True)
    state = Described().state_dict()
    write_safetensors(folder / "model.safetensors", state)
    manifest = Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in ("ecs", "pm", "er")),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
        vocabulary="cosem",
        input_voxel_size=(8.0, 8.0, 8.0),
        input_range=(-1.0, 1.0),
        input_channels=("raw", "dose"),
    )
    (folder / "config.json").write_text(manifest.to_json(), encoding="utf-8")
    return FolderStore(tmp_path / "described"), state


@pytest.mark.parametrize(
    ("options", "warning", "column", "factor"),
    [
        ({"label_map": {"ld": "pm"}, "new_head": ["ecs", "ld", "er"]}, None, [0, 1], 1),
        ({"vocabulary": "cnnectome", "new_head": ["ecs", "plasma_membrane", "er"]}, None, [0, 1], 1),
        ({"rename": {"backbone.": "encoder."}}, None, [0, 1], 1),
        ({"in_channels": "first"}, PartialLoad, [0, 1, None], 1),
        ({"input_channels": ["dose", "raw"]}, PartialLoad, [1, 0], 1),
        ({"input_range": (0, 1)}, InputDiffers, [0, 1], 2),
        ({"voxel_size": 4}, InputDiffers, [0, 1], 1),
        ({"read": "sequential"}, None, [0, 1], 1),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_the_caller_says_reaches_the_load(
    options: dict[str, Any],
    warning: type[Warning] | None,
    column: list[int | None],
    factor: float,
    described: tuple[FolderStore, Mapping[str, torch.Tensor]],
) -> None:
    store, state = described
    body = "encoder" if "rename" in options else "backbone"
    model, start = Described(len(column), body), CosemStart("setup04@1", store=store)
    with pytest.warns(warning) if warning else nullcontext():
        start.initialize_weights(model, **{"new_head": ["ecs", "pm", "er"], **options})
    first = model.get_parameter(f"{body}.0.weight")
    for i, source in enumerate(column):
        expected = 0 * first[:, i] if source is None else factor * state["backbone.0.weight"][:, source]
        assert torch.allclose(first[:, i], expected)
    assert torch.equal(model.prediction_head.weight, state["prediction_head.weight"])


def test_a_plan_changes_nothing(store: FolderStore) -> None:
    start, model = CosemStart("setup04@1820500", store=store), Net(4)
    before = copy.deepcopy(model.state_dict())
    plan = start.plan(model, new_head=["er", "new", "ecs", "mito"])
    assert [row.source_row for row in plan.channels] == [2, None, 0, 1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert start.report is None


def test_check_makes_the_checkpoint_present_or_raises(store: FolderStore, tmp_path: Path) -> None:
    CosemStart("setup04@1820500", store=store).check()
    with pytest.raises(CriterionNotFound, match="no criterion 'best'; there are: 1820500"):
        CosemStart("setup04", store=store).check()
    with pytest.raises(RunNotFound, match="It holds: plain, setup04"):
        CosemStart("setup05@1", store=store).check()
    start = CosemStart("setup04@1820500", store=store)
    assert start.channels == LABELS
    (tmp_path / "runs" / "setup04" / "1820500" / "model.safetensors").write_bytes(b"gone bad")
    with pytest.raises(IntegrityError):
        start.check()


def test_a_start_keeps_the_checkpoint_that_it_found_first(store: FolderStore, tmp_path: Path) -> None:
    start = CosemStart("setup04@1820500", store=store)
    first = start.checkpoint
    write_safetensors(tmp_path / "runs" / "setup04" / "1820500" / "model.safetensors", Net().state_dict())
    assert start.checkpoint is first
    model = Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(IntegrityError):
        start.initialize_weights(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_any_object_that_resolves_and_fetches_is_a_store(store: FolderStore) -> None:
    class Counting:
        """A store that is empty as a collection, and is a store all the same."""

        def __init__(self) -> None:
            self.calls: list[str] = []

        def __len__(self) -> int:
            return 0

        def resolve(self, reference: Any) -> Checkpoint:
            self.calls.append("resolve")
            return store.resolve(reference)

        def fetch(self, checkpoint: Checkpoint) -> Mapping[str, Path]:
            self.calls.append("fetch")
            return store.fetch(checkpoint)

    counting = Counting()
    start = CosemStart("setup04@1820500", store=counting)
    start.plan(Net())
    start.initialize_weights(Net(), new_head=LABELS)
    assert counting.calls == ["resolve", "fetch"]


def test_a_folder_store_does_not_look_at_namespaces(store: FolderStore) -> None:
    assert CosemStart("my-lab/setup04@1820500", store=store).checkpoint.criterion == "1820500"


def test_a_start_without_a_store_is_one_of_the_zoo() -> None:
    assert isinstance(CosemStart("setup04")._store, Zoo)


def test_a_start_says_how_it_is_made() -> None:
    assert repr(CosemStart("setup04@1820500")) == "CosemStart('setup04@1820500')"
    assert repr(Start({"run": "my-lab/run_1"})) == "Start('my-lab/run_1')"


@pytest.mark.parametrize(("config", "start"), [(StartConfig, Start), (CosemStartConfig, CosemStart)])
def test_a_config_makes_its_own_kind_of_start(config: type[StartConfig], start: type[Start]) -> None:
    made = config("setup04", "1820500")
    assert made.start_type is start
    assert type(made.start_type(made)) is start
    assert made.start_type(made).name == "setup04/1820500"


@pytest.mark.parametrize("config", [StartConfig, CosemStartConfig])
def test_a_config_is_an_attrs_record(config: type[StartConfig]) -> None:
    made = config(run="setup04", criterion="best")
    assert made == config("setup04")
    assert made != config("setup04", "1820500")
    assert attrs.evolve(made, criterion="1820500") == config("setup04", "1820500")
    assert attrs.asdict(made) == {"run": "setup04", "criterion": "best"}
    assert [field.name for field in attrs.fields(config)] == ["run", "criterion"]
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.deepcopy(made) == made
    assert repr(made) == f"{config.__name__}(run='setup04', criterion='best')"


def test_an_iteration_may_be_a_number() -> None:
    config = CosemStartConfig("setup04", 1820500)
    assert config.criterion == "1820500"
    assert CosemStart(config).name == "setup04/1820500"


def test_a_config_of_the_zoo_is_a_config() -> None:
    assert issubclass(CosemStartConfig, StartConfig)
    assert CosemStartConfig("setup04") != StartConfig("setup04")
