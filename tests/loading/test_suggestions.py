"""Rows that are kept: what the report suggests, and that it works when it is typed."""

import ast
import re
from typing import Any

import pytest

from cosemzoo.loading.label_map import map_labels
from cosemzoo.loading.labels import Match, match_channels, parse_new_head
from cosemzoo.loading.vocabularies import Dialects
from cosemzoo.manifest import Channel

SETUP04 = [
    *("ecs", "pm", "mito", "mito_mem", "ves", "ves_mem", "endo", "endo_mem"),
    *("er", "er_mem", "eres", "nuc", "mt", "mt_out"),
]


def match(
    new: Any, labels: list[str], model: str | None, checkpoint: str | None, label_map: Any = None
) -> Match:
    wanted, problems = map_labels(parse_new_head([new]), label_map)
    assert problems == []
    offered = [Channel(label, "distance") for label in labels]
    (found,) = match_channels(wanted or (), offered, Dialects.of(model, checkpoint))
    return found


def reason(new: Any, labels: list[str], model: str | None = None, checkpoint: str | None = "cosem") -> str:
    found = match(new, labels, model, checkpoint)
    assert found.source is None
    return found.reason


def test_a_misspelt_label_has_the_nearest_one_named() -> None:
    assert reason("vess", SETUP04) == "the checkpoint has no vess. Did you mean 'ves'?"
    assert reason("Mito", SETUP04) == "the checkpoint has no Mito. Did you mean 'mito'?"


def test_another_vocabularys_name_is_recognised() -> None:
    assert reason("plasma_membrane", SETUP04) == (
        "the checkpoint has no plasma_membrane. It is CNNectome's name of pm: vocabulary='cnnectome' or "
        "label_map={'plasma_membrane': 'pm'} would start it from that"
    )
    assert "It is the CellMap challenge's name of er_mem:" in reason("er_mem_all", SETUP04)


def test_a_vocabulary_that_would_be_another_than_the_one_named_is_not_suggested() -> None:
    said = reason("plasma_membrane", SETUP04, model="cosem")
    assert "It is CNNectome's name of pm: label_map={'plasma_membrane': 'pm'} would" in said
    assert "vocabulary=" not in said


def test_where_the_checkpoints_labels_are_names_the_guess_says_whose_it_takes_them_for() -> None:
    said = reason("plasma_membrane", SETUP04, checkpoint=None)
    assert "It is CNNectome's name of COSEM's pm: label_map={'plasma_membrane': 'pm'} would" in said
    assert "vocabulary=" not in said


def test_a_parent_is_suggested_by_its_name_in_the_checkpoint() -> None:
    assert reason("er_lum", SETUP04) == (
        "the checkpoint has no er_lum. label_map={'er_lum': 'er'} would start it from its parent"
    )
    assert "label_map={'ne_mem': 'er_mem'}" in reason("ne_mem", SETUP04)
    assert "label_map={'ne_mem': 'er_mem_all'}" in reason(
        "ne_mem", ["er_mem", "er_mem_all"], checkpoint="cellmap-challenge"
    )
    assert reason("er_lum", ["pm"]) == "the checkpoint has no er_lum."


def test_the_same_name_of_another_class_is_said_to_be_one() -> None:
    assert reason("er_mem", SETUP04, model="cellmap-challenge") == (
        "er_mem of the CellMap challenge is another class than the checkpoint's er_mem (the CellMap "
        "challenge: er_mem_all): label_map={'er_mem': 'er_mem'} would start it from that"
    )


def test_a_label_of_the_vocabulary_that_was_named_is_not_taken_for_anothers() -> None:
    said = reason("er_mem", ["er_membrane"], model="cellmap-challenge", checkpoint="cnnectome")
    assert said == "the checkpoint has no er_mem."


def test_of_several_rows_of_a_label_one_alone_is_suggested_for() -> None:
    assert "label_map={('er_lum', 'distance'): 'er'}" in reason(("er_lum", "distance"), SETUP04)


def test_two_labels_that_are_both_known_are_not_taken_for_a_slip() -> None:
    assert reason("mito_lum", ["mito_mem"]) == "the checkpoint has no mito_lum."
    assert reason("mito_mem", ["mito_memb"]) == "the checkpoint has no mito_mem. Did you mean 'mito_memb'?"


def test_a_label_of_another_kind_is_not_suggested() -> None:
    assert reason(("er_lum", "one-hot"), ["er"]) == "the checkpoint has no er_lum."
    assert reason(("pm", "one-hot"), SETUP04) == "the checkpoint has pm as distance only"
    assert reason(("plasma_membrane", "one-hot"), SETUP04, model="cnnectome") == (
        "the checkpoint has pm as distance only"
    )


@pytest.mark.parametrize("new", ["er_lum", ("er_lum", "distance"), "plasma_membrane", "vs", "er_mem", "er's"])
@pytest.mark.parametrize("model", [None, "cosem", "cellmap-challenge"])
@pytest.mark.parametrize("checkpoint", [None, "cosem"])
def test_what_is_suggested_works_when_it_is_typed(
    new: Any, model: str | None, checkpoint: str | None
) -> None:
    said = match(new, SETUP04, model, checkpoint).reason
    for typed in re.findall(r"label_map=(\{.*?\})", said):
        label_map = ast.literal_eval(typed)
        found = match(new, SETUP04, model, checkpoint, label_map)
        assert found.source == SETUP04.index(*label_map.values())
    for vocabulary in re.findall(r"vocabulary='([\w-]+)'", said):
        assert match(new, SETUP04, vocabulary, checkpoint).source is not None
    if new not in ("er_mem", "er's"):
        assert "label_map=" in said
