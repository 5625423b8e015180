"""Heads whose labels are said in other words than the checkpoint's: what lands where, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cosemzoo.errors import InvalidHead, InvalidOption, PartialLoad
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Channel, HeadTensor
from cosemzoo.models import load_into, plan_load
from cosemzoo.starts import Start
from cosemzoo.zoo import Zoo

Save = Callable[..., Path]
Load = Callable[..., LoadReport]
StateOf = Callable[[nn.Module], Any]

HEAD = ("head.weight", "head.bias")
OFFSETS = ("0 0 1", "0 1 0", "1 0 0")


class Net(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.body = nn.Linear(2, 4)
        self.head = nn.Linear(4, rows)


def spoken(folder: Path, vocabulary: str | None) -> Path:
    """Say in a checkpoint's manifest whose labels it has."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocabulary": vocabulary}))
    return folder


@pytest.fixture
def setup28(save: Save) -> tuple[Net, Path]:
    source = Net(2)
    return source, spoken(save(source.state_dict(), ["er", "er_mem"], HEAD), "cosem")


def rows(report: LoadReport) -> list[tuple[str | None, str | None]]:
    return [(row.label, row.source_label) for row in report.channels]


def test_unrelated_labels_of_equal_number_are_never_copied_by_position(save: Save, load: Load) -> None:
    source, model = Net(3), Net(3)
    own = model.head.weight.clone(), model.head.bias.clone()
    report = load(model, save(source.state_dict(), ["a", "b", "c"], HEAD), new_head=["x", "y", "z"])
    assert torch.equal(model.head.weight, own[0])
    assert torch.equal(model.head.bias, own[1])
    assert [row.status for row in report.channels] == ["kept"] * 3
    assert torch.equal(model.body.weight, source.body.weight)


def test_rows_go_by_class_where_both_vocabularies_are_named(setup28: tuple[Net, Path], load: Load) -> None:
    (source, folder), model = setup28, Net(3)
    own = model.head.weight.clone()
    new_head = ["er_mem", "er_mem_all", "er"]
    report = load(model, folder, new_head=new_head, vocabulary="cellmap-challenge")
    assert torch.equal(model.head.weight[1:], source.head.weight[[1, 0]])
    assert torch.equal(model.head.weight[0], own[0])
    assert rows(report) == [("er_mem", None), ("er_mem_all", "er_mem"), ("er", "er")]
    assert "label_map={'er_mem': 'er_mem'}" in report.channels[0].reason


def test_a_head_in_other_words_but_the_same_order_is_strict(setup28: tuple[Net, Path], load: Load) -> None:
    (source, folder), model = setup28, Net(2)
    new_head = ["er", "er_membrane"]
    report = load(model, folder, new_head=new_head, vocabulary="cnnectome", strict="require")
    assert report.outcome == "strict"
    assert torch.equal(model.head.weight, source.head.weight)


def test_a_label_map_fills_rows_from_channels_of_other_names(setup28: tuple[Net, Path], load: Load) -> None:
    (source, folder), model = setup28, Net(3)
    own = model.head.weight.clone()
    label_map = {"er_lum": "er", "er": None}
    report = load(model, folder, new_head=["er_lum", "er", "er_mem"], label_map=label_map)
    assert torch.equal(model.head.weight[[0, 2]], source.head.weight)
    assert torch.equal(model.head.weight[1], own[1])
    assert rows(report) == [("er_lum", "er"), ("er", None), ("er_mem", "er_mem")]
    assert report.channels[1].reason == "label_map says to keep it"


def test_one_hot_and_distance_rows_of_a_label_each_take_their_own(save: Save, load: Load) -> None:
    channels = [(label, kind) for kind in ("one-hot", "distance") for label in ("mito", "pm", "er")]
    new_head = [(label, kind) for kind in ("one-hot", "distance") for label in ("plasma_membrane", "mine")]
    source, model = Net(6), Net(4)
    folder = spoken(save(source.state_dict(), channels, HEAD), "cosem")
    load(model, folder, new_head=new_head, vocabulary="cnnectome", label_map={"mine": "er"})
    assert torch.equal(model.head.weight, source.head.weight[[1, 2, 4, 5]])
    assert torch.equal(model.head.bias, source.head.bias[[1, 2, 4, 5]])


def test_affinities_go_by_label_and_offset(save: Save, load: Load) -> None:
    channels = [(label, offset) for label in ("mito", "ves") for offset in OFFSETS]
    new_head = [(label, offset) for offset in reversed(OFFSETS) for label in ("vesicle", "mito")]
    source, model = Net(6), Net(6)
    folder = spoken(save(source.state_dict(), channels, HEAD), "cosem")
    load(model, folder, new_head=new_head, vocabulary="openorganelle")
    assert torch.equal(model.head.weight, source.head.weight[[5, 2, 4, 1, 3, 0]])
    with pytest.raises(InvalidHead, match="vesicle is ambiguous"):
        load(model, folder, new_head=["vesicle", *"abcde"], vocabulary="openorganelle")


def test_every_problem_of_a_label_map_is_said_before_anything_is_touched(
    setup28: tuple[Net, Path], load: Load, state_of: StateOf
) -> None:
    (_, folder), model = setup28, Net(3)
    before = state_of(model)
    label_map = {"new": "er", "a": "nuc", "b": 7}
    with pytest.raises(InvalidHead) as caught:
        load(model, folder, new_head=["a", "b", "er", "er"], label_map=label_map)
    said = "\n".join(caught.value.problems)
    assert "label_map names new, which new_head does not have" in said
    assert "a shall take nuc, but the checkpoint has no nuc" in said
    assert "label_map['b'] is 7, neither a label nor a (label, kind) pair" in said
    assert "er is given for rows 2 and 3" in said
    assert "new_head has 4 channels, the model has 3 rows" in said
    assert len(caught.value.problems) == 5
    assert state_of(model) == before


def test_a_label_map_without_new_head_asks_for_it(setup28: tuple[Net, Path], load: Load) -> None:
    _, folder = setup28
    with pytest.raises(InvalidHead, match=r"give new_head=\[…\] as well"):
        load(Net(2), folder, label_map={"er": "er_mem"})


def test_a_label_map_and_heads_without_rows_are_both_said(save: Save, load: Load) -> None:
    source = Net(2)
    source.head = nn.ConvTranspose3d(12, 2, 1)  # type: ignore[assignment]
    model = Net(2)
    model.head = nn.Conv3d(12, 2, 1)  # type: ignore[assignment]
    folder = save(source.state_dict(), ["a", "b"], [HeadTensor("head.weight", 1), "head.bias"])
    with pytest.raises(InvalidHead) as caught:
        load(model, folder, new_head=["a", "b"], label_map={"x": "a"})
    assert len(caught.value.problems) == 2


def test_a_vocabulary_that_there_is_not_is_refused(setup28: tuple[Net, Path], load: Load) -> None:
    _, folder = setup28
    with pytest.raises(InvalidOption, match="vocabulary is 'cellmap'; it is one of 'cosem', 'cellmap-cha"):
        load(Net(2), folder, new_head=["er", "er_mem"], vocabulary="cellmap")


@pytest.mark.filterwarnings("ignore::cosemzoo.errors.PartialLoad")
def test_every_face_takes_both(setup28: tuple[Net, Path]) -> None:
    (source, folder), zoo = setup28, Zoo(offline=True)
    options: dict[str, Any] = {"vocabulary": "cnnectome", "label_map": {"mine": "er"}}
    new_head = ["er_membrane", "mine"]
    expected = [("er_membrane", "er_mem"), ("mine", "er")]
    plan = plan_load(Net(2), folder, new_head=new_head, zoo=zoo, **options)
    assert [(row.label, row.source_label) for row in plan.channels] == expected
    assert rows(load_into(Net(2), folder, new_head=new_head, zoo=zoo, **options)) == expected
    start = Start(folder, zoo)
    assert start.plan(Net(2), new_head, **options).channels == plan.channels
    model = start.initialize_weights(Net(2), new_head, **options)
    assert torch.equal(model.head.weight, source.head.weight[[1, 0]])


def test_the_warning_of_a_partial_load_has_the_suggestion(setup28: tuple[Net, Path]) -> None:
    _, folder = setup28
    with pytest.warns(PartialLoad, match=r"er_lum \(.*label_map=\{'er_lum': 'er'\} would start it from"):
        load_into(Net(2), folder, new_head=["er", "er_lum"], zoo=Zoo(offline=True))


def test_channels_are_what_a_manifest_says(setup28: tuple[Net, Path]) -> None:
    _, folder = setup28
    manifest = Zoo(offline=True).resolve(folder).manifest
    assert manifest is not None
    assert (manifest.vocabulary, manifest.channels[1]) == ("cosem", Channel("er_mem", "distance"))
