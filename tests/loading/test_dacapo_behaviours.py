"""What DaCapo's own loading does with the same networks, and what happens here instead.

Each test is named for what was measured on DaCapo 0.3.5 and its main of 2025-09.
"""

import json
import math
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cosemzoo.checkpoints.writer import write_safetensors
from cosemzoo.errors import (
    AliasConflict,
    CoverageTooLow,
    InvalidHead,
    MetaTensorsLeft,
    PartialLoad,
    StrictLoadFailed,
    WeightsNotFound,
)
from cosemzoo.loading.pairing import TargetTensor
from cosemzoo.loading.planner import make_plan
from cosemzoo.manifest import Channel, HeadTensor, Manifest
from cosemzoo.starts import CosemStart, CosemStartConfig, FolderStore

StateOf = Callable[[nn.Module], Any]

LABELS = ("ecs", "mito", "er")


def body() -> nn.Sequential:
    return nn.Sequential(nn.Conv3d(1, 4, 1), nn.ReLU(), nn.Conv3d(4, 4, 1))


class Network(nn.Module):
    """A small network, its modules named as one of the code bases names them."""

    chain: Any
    prediction_head: Any

    def __init__(self, scheme: str, rows: int = 3, channels: int = 4) -> None:
        super().__init__()
        backbone, head = body(), nn.Conv3d(channels, rows, 1)
        if scheme == "dacapo 0.3":
            self.architecture = nn.Module()
            self.architecture.unet = backbone
            self.prediction_head = head
            self.chain = nn.Sequential(self.architecture, head)
        elif scheme == "dacapo main":
            self.prediction_head = head
            self.chain = nn.Sequential(backbone, head)
        else:
            self.add_module("backbone" if scheme == "cellmap-models" else "unet", backbone)
            self.prediction_head = head

    @property
    def backbone_values(self) -> list[Any]:
        """The backbone's values, whatever its names are."""
        head = {id(parameter) for parameter in self.prediction_head.parameters()}
        return [parameter.tolist() for parameter in self.parameters() if id(parameter) not in head]


SCHEMES = ("cellmap-models", "cellmap-models before 2024-03", "dacapo 0.3", "dacapo main")


class Run:
    """A run in a folder store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(
        self,
        state: Mapping[str, torch.Tensor],
        channels: tuple[str, ...] | tuple[tuple[str, str], ...] = LABELS,
        *,
        describe: bool = True,
    ) -> CosemStart:
        folder = self.folder / "setup04" / "1820500"
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", state)
        if describe:
            manifest = Manifest(
                run="setup04",
                channels=tuple(Channel(*((c, "distance") if isinstance(c, str) else c)) for c in channels),
                head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
            )
            (folder / "config.json").write_text(manifest.to_json(), encoding="utf-8")
        return CosemStart(CosemStartConfig("setup04", "1820500"), store=FolderStore(self.folder))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs")


@pytest.fixture
def partly() -> Iterator[None]:
    """Let loads be partial, which is a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PartialLoad)
        yield


def test_initialize_weights_returns_the_same_model_filled_in_place(run: Run) -> None:
    source, model = Network("dacapo 0.3"), Network("dacapo 0.3")
    weight = model.prediction_head.weight
    start = run.publish(source.state_dict())
    assert start.initialize_weights(model, new_head=LABELS) is model
    assert model.prediction_head.weight is weight
    assert torch.equal(weight, source.prediction_head.weight)
    assert start.report is not None
    assert start.report.outcome == "strict"


@pytest.mark.parametrize(("stored", "built"), [*permutations(SCHEMES, 2)])
def test_a_checkpoint_with_the_names_of_another_code_base_loads_whole_and_not_its_head_only(
    stored: str, built: str, run: Run
) -> None:
    source, model = Network(stored), Network(built)
    start = run.publish(source.state_dict())
    start.initialize_weights(model, new_head=LABELS, strict="require")
    assert model.backbone_values == source.backbone_values
    assert torch.equal(model.prediction_head.weight, source.prediction_head.weight)


def test_with_no_new_head_rows_of_unknown_labels_are_said_to_be_assumed(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    start = run.publish(Network("dacapo main").state_dict())
    start.initialize_weights(Network("dacapo main"), None)
    assert start.report is not None
    assert [(row.status, row.label, row.source_label) for row in start.report.channels] == [
        ("assumed", None, label) for label in LABELS
    ]
    assert "3 head rows copied by position" in caplog.text


def test_with_a_new_head_in_another_order_rows_go_to_their_labels(run: Run, partly: None) -> None:
    source, model = Network("dacapo 0.3"), Network("dacapo 0.3")
    run.publish(source.state_dict()).initialize_weights(model, new_head=["er", "ecs", "mito"])
    assert torch.equal(model.prediction_head.weight, source.prediction_head.weight[[2, 0, 1]])
    assert torch.equal(model.prediction_head.bias, source.prediction_head.bias[[2, 0, 1]])


def test_with_heads_given_a_load_can_be_strict(run: Run) -> None:
    start = run.publish(Network("dacapo 0.3").state_dict())
    start.initialize_weights(Network("dacapo 0.3"), new_head=LABELS, strict="require")
    assert start.report is not None
    assert start.report.outcome == "strict"


@pytest.mark.parametrize("missing", ["prediction_head.bias", "chain.1.weight", "chain.1.bias"])
def test_a_checkpoint_without_all_four_head_names_loads(missing: str, run: Run, partly: None) -> None:
    source, model = Network("dacapo 0.3"), Network("dacapo 0.3")
    state = {name: value.clone() for name, value in source.state_dict().items() if name != missing}
    folder = run.folder / "setup04" / "1820500"
    start = run.publish(state, describe=False)
    head = tuple(HeadTensor(f"prediction_head.{leaf}") for leaf in ("weight", "bias"))
    manifest = Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in LABELS),
        head=tuple(tensor for tensor in head if tensor.name in state),
    )
    (folder / "config.json").write_text(manifest.to_json(), encoding="utf-8")
    start.initialize_weights(model, new_head=["er", "ecs", "mito"])
    assert torch.equal(model.prediction_head.weight, source.prediction_head.weight[[2, 0, 1]])
    assert torch.equal(model.prediction_head.bias, source.prediction_head.bias[[2, 0, 1]])


def test_one_start_fills_one_model_after_another(run: Run) -> None:
    source = Network("dacapo 0.3")
    start = run.publish(source.state_dict())
    for _ in range(2):
        model = start.initialize_weights(Network("dacapo 0.3"), new_head=LABELS)
        assert torch.equal(model.prediction_head.weight, source.prediction_head.weight)
        assert model.backbone_values == source.backbone_values


def test_a_backbone_mismatch_with_heads_given_is_reported_and_the_head_is_filled(run: Run) -> None:
    source, model = Network("dacapo 0.3"), Network("dacapo 0.3")
    model.chain[0].unet[0] = nn.Conv3d(1, 4, (1, 1, 3))
    start = run.publish(source.state_dict())
    with pytest.warns(PartialLoad, match="1 mismatched"):
        start.initialize_weights(model, new_head=LABELS)
    assert start.report is not None
    (row,) = start.report.mismatched
    assert (row.source_shape, row.shape) == ((4, 1, 1, 1, 1), (4, 1, 1, 1, 3))
    assert (start.report.coverage.tensors, start.report.coverage.all_tensors) == (3, 4)
    assert torch.equal(model.prediction_head.weight, source.prediction_head.weight)


def test_a_backbone_mismatch_leaves_the_model_untouched_where_a_strict_load_is_required(
    run: Run, state_of: StateOf
) -> None:
    model = Network("dacapo 0.3")
    model.chain[0].unet[0] = nn.Conv3d(2, 4, 1)
    start = run.publish(Network("dacapo 0.3").state_dict())
    before = state_of(model)
    with pytest.raises(StrictLoadFailed, match=r"shape \[4, 1, 1, 1, 1\] in the checkpoint"):
        start.initialize_weights(model, new_head=LABELS, strict="require")
    assert state_of(model) == before


def test_when_every_name_is_different_the_load_is_refused(run: Run, state_of: StateOf) -> None:
    model = nn.Sequential(OrderedDict((f"layer_{name}", layer) for name, layer in body().named_children()))
    start = run.publish(Network("dacapo 0.3").state_dict())
    before = state_of(model)
    with pytest.raises(CoverageTooLow, match="has nothing in common with the model"):
        start.initialize_weights(model)
    assert state_of(model) == before
    assert start.report is None


def test_when_no_label_overlaps_every_row_is_kept_and_that_is_a_warning(run: Run) -> None:
    source, model = Network("dacapo 0.3"), Network("dacapo 0.3")
    own = model.prediction_head.weight.clone()
    start = run.publish(source.state_dict())
    with pytest.warns(PartialLoad, match="0 of 3 head rows"):
        start.initialize_weights(model, new_head=["nuc", "ld", "mt"])
    assert torch.equal(model.prediction_head.weight, own)
    assert model.backbone_values == source.backbone_values
    assert start.report is not None
    assert start.report.channels[0].reason == "the checkpoint has no nuc."
    assert start.report.unused_channels == ("ecs (distance)", "mito (distance)", "er (distance)")


@pytest.mark.parametrize(
    ("new_head", "said"),
    [
        (["mito", "mito", "er"], "mito is given for rows 0 and 1"),
        (["ecs", "mito", "er", "nuc"], "new_head has 4 channels, the model has 3 rows"),
        (["ecs", "mito"], "new_head has 2 channels, the model has 3 rows"),
        ("ecs", "new_head is the text 'ecs'"),
    ],
    ids=["repeated labels", "longer than the head", "shorter than the head", "a bare string"],
)
def test_a_new_head_that_does_not_fit_is_refused_before_anything_is_touched(
    new_head: Any, said: str, *, run: Run, state_of: StateOf
) -> None:
    model, start = Network("dacapo 0.3"), run.publish(Network("dacapo 0.3").state_dict())
    before = state_of(model)
    with pytest.raises(InvalidHead, match=said):
        start.initialize_weights(model, new_head=new_head)
    assert state_of(model) == before


def test_numpy_arrays_of_labels_work(run: Run, partly: None) -> None:
    source, model = Network("dacapo 0.3"), Network("dacapo 0.3")
    run.publish(source.state_dict()).initialize_weights(model, new_head=np.array(["er", "mito", "ecs"]))
    assert torch.equal(model.prediction_head.weight, source.prediction_head.weight.flip(0))


def test_an_old_head_with_one_input_channel_is_not_broadcast(run: Run, partly: None) -> None:
    source, model = Network("dacapo 0.3", channels=1), Network("dacapo 0.3")
    own = model.prediction_head.weight.clone()
    start = run.publish(source.state_dict())
    start.initialize_weights(model, new_head=LABELS)
    assert torch.equal(model.prediction_head.weight, own)
    assert start.report is not None
    assert {row.reason for row in start.report.channels} == {
        "shape [3, 1, 1, 1, 1] in the checkpoint, [3, 4, 1, 1, 1] in the model"
    }


def test_both_blocks_of_a_hot_distance_head_are_matched(run: Run, partly: None) -> None:
    def channels(*labels: str) -> tuple[tuple[str, str], ...]:
        return tuple((label, kind) for kind, label in product(("one-hot", "distance"), labels))

    source, model = Network("dacapo 0.3", rows=6), Network("dacapo 0.3", rows=4)
    start = run.publish(source.state_dict(), channels(*LABELS))
    assert start.channels == list(LABELS)
    start.initialize_weights(model, new_head=channels("er", "ecs"))
    assert torch.equal(model.prediction_head.weight, source.prediction_head.weight[[2, 0, 5, 3]])
    with pytest.raises(InvalidHead, match="new_head has 2 channels, the model has 4 rows"):
        start.initialize_weights(model, new_head=["er", "ecs"])


def test_affinities_have_more_rows_than_labels_and_each_is_named(run: Run, partly: None) -> None:
    axes = [("mito", f"affinity {axis}") for axis in "zyx"]
    source, model = Network("dacapo 0.3"), Network("dacapo 0.3", rows=2)
    start = run.publish(source.state_dict(), tuple(axes))
    assert start.channels == ["mito"]
    start.initialize_weights(model, new_head=[("mito", "affinity x"), ("mito", "affinity z")])
    assert torch.equal(model.prediction_head.weight, source.prediction_head.weight[[2, 0]])
    with pytest.raises(InvalidHead, match=r"mito is ambiguous; .*'affinity z'\), \('mito', 'affinity y'\)"):
        start.initialize_weights(Network("dacapo 0.3", rows=2), new_head=["mito", "er"])


@pytest.mark.parametrize("built", SCHEMES)
@pytest.mark.parametrize("name", ["chain.1.weight", "chain.0.unet.0.bias"])
def test_aliased_names_that_disagree_in_the_file_are_refused(
    name: str, built: str, run: Run, state_of: StateOf
) -> None:
    state = {name: value.clone() for name, value in Network("dacapo 0.3").state_dict().items()}
    state[name].view(-1)[0] += 1
    model, start = Network(built), run.publish(state)
    before = state_of(model)
    with pytest.raises(AliasConflict) as caught:
        start.initialize_weights(model, new_head=LABELS)
    ((one, other, where),) = caught.value.conflicts
    assert name in {one, other}
    assert where.startswith("at [0")
    assert state_of(model) == before


@pytest.mark.parametrize("built", SCHEMES)
def test_a_model_on_meta_is_given_memory(built: str, run: Run) -> None:
    source = Network("dacapo 0.3")
    with torch.device("meta"):
        model = Network(built)
    run.publish(source.state_dict()).initialize_weights(model, new_head=LABELS)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert model.backbone_values == source.backbone_values
    if "dacapo" in built:
        assert model.chain[1].weight is model.prediction_head.weight


def test_a_model_on_meta_that_cannot_be_filled_is_refused(run: Run) -> None:
    with torch.device("meta"):
        model = Network("dacapo main")
        model.register_buffer("grid", torch.zeros(3), persistent=False)
    with pytest.raises(MetaTensorsLeft, match="grid: on meta"):
        run.publish(Network("dacapo main").state_dict()).initialize_weights(model, new_head=LABELS)


class Trap:
    """What a pickle runs when it is opened."""

    opened = False

    def __reduce__(self) -> Any:
        return setattr, (Trap, "opened", True)


def test_pickled_weights_are_never_opened(run: Run) -> None:
    folder = run.folder / "setup04" / "1820500"
    folder.mkdir(parents=True)
    for name in ("model.pt", "model.safetensors.pt", "1820500"):
        (folder / name).write_bytes(pickle.dumps({"model": Trap()}))
    start = CosemStart("setup04@1820500", store=FolderStore(run.folder))
    with pytest.raises(WeightsNotFound, match=r"Pickled weights .* are not read"):
        start.check()
    assert Trap.opened is False


def test_a_best_criterion_is_found_where_it_is_stored(run: Run) -> None:
    run.publish(Network("dacapo 0.3").state_dict())
    (run.folder / "setup04" / "best").symlink_to("1820500")
    start = CosemStart("setup04", store=FolderStore(run.folder))
    start.check()
    assert start.checkpoint.criterion == "1820500"


def test_other_files_beside_the_iterations_do_no_harm(run: Run) -> None:
    start = run.publish(Network("dacapo 0.3").state_dict())
    (run.folder / "setup04" / "notes (old).txt").write_text("not an iteration")
    (run.folder / "setup04" / ".snapshot").mkdir()
    start.check()


# --- the networks in their real size, without their memory ------------------------------------------------


DATA = json.loads(
    (Path(__file__).parent.parent / "data" / "setup04_tensors.json").read_text(encoding="utf-8")
)


def real_targets(layout: str) -> list[TargetTensor]:
    return [
        TargetTensor(one["names"][0], tuple(one["names"][1:]), tuple(one["shape"]), "F32")
        for one in DATA["layouts"][layout]
    ]


@pytest.mark.parametrize("collapsed", [True, False], ids=["collapsed", "duplicated"])
@pytest.mark.parametrize("built", SCHEMES)
@pytest.mark.parametrize("stored", SCHEMES)
def test_setup04_of_every_code_base_loads_whole_into_that_of_every_other(
    stored: str, built: str, *, collapsed: bool, table: Callable[..., Any]
) -> None:
    tensors = DATA["layouts"][stored]
    if collapsed:
        aliases = {alias: one["names"][0] for one in tensors for alias in one["names"][1:]}
        weights = table({one["names"][0]: one["shape"] for one in tensors}, aliases)
    else:
        weights = table({name: one["shape"] for one in tensors for name in one["names"]})
    manifest = Manifest(
        run="setup04",
        channels=tuple(Channel(label, "distance") for label in DATA["labels"]),
        head=(HeadTensor("prediction_head.weight"), HeadTensor("prediction_head.bias")),
    )
    plan = make_plan(real_targets(built), weights, manifest, new_head=DATA["labels"], strict="require")
    plan.check()
    assert (plan.model_coverage.tensors, plan.model_coverage.all_tensors) == (42, 42)
    assert plan.model_coverage.parameters == 234_967_826
    assert (plan.coverage.tensors, plan.coverage.all_tensors) == (40, 40)
    wanted = ["mito", "er", "nuc", "ld"]
    head = {"prediction_head.weight": (4, 72, 1, 1, 1), "prediction_head.bias": (4,)}
    targets = [
        TargetTensor(
            one.name, one.aliases, next((head[n] for n in one.names if n in head), one.shape), one.dtype
        )
        for one in real_targets(built)
    ]
    remapped = make_plan(targets, weights, manifest, new_head=wanted)
    remapped.check()
    assert [row.source_row for row in remapped.channels] == [2, 8, 11, None]
    assert remapped.coverage.tensors == 40


def test_the_stored_names_are_those_of_the_real_networks() -> None:
    names = {layout: sum(len(one["names"]) for one in tensors) for layout, tensors in DATA["layouts"].items()}
    assert names == {
        "cellmap-models": 42,
        "cellmap-models before 2024-03": 42,
        "dacapo 0.3": 84,
        "dacapo main": 44,
    }
    for tensors in DATA["layouts"].values():
        assert sum(math.prod(one["shape"]) for one in tensors) == 234_967_826
