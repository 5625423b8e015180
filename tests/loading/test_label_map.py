import enum
from typing import Any

import numpy as np
import pytest

from cosemzoo.errors import InvalidHead
from cosemzoo.loading.label_map import map_labels
from cosemzoo.loading.labels import match_channels, parse_new_head
from cosemzoo.manifest import Channel

OFFERED = (
    Channel("mito", "one-hot"),
    Channel("er", "one-hot"),
    Channel("mito", "distance"),
    Channel("er", "distance"),
    Channel("nuc", "distance"),
)


class Label(str, enum.Enum):  # noqa: UP042 - not a StrEnum: its `str` is not its value
    NEW = "new"
    NUC = "nuc"


def sources(new_head: Any, label_map: Any) -> list[int | None]:
    wanted, problems = map_labels(parse_new_head(new_head), label_map)
    assert problems == []
    return [match.source for match in match_channels(wanted or (), OFFERED)]


def problems(new_head: Any, label_map: Any) -> list[str]:
    return map_labels(parse_new_head(new_head), label_map)[1]


@pytest.mark.parametrize(
    "label_map",
    [
        {"new": "nuc"},
        {"new": ("nuc", "distance")},
        {"new": ["nuc", "distance"]},
        {"new": Channel("nuc", "distance")},
        {np.str_("new"): np.str_("nuc")},
        {Label.NEW: Label.NUC},
    ],
    ids=str,
)
def test_a_row_takes_the_channel_that_it_is_given(label_map: Any) -> None:
    assert sources(["new", ("er", "distance")], label_map) == [4, 3]


def test_what_the_map_says_goes_before_the_same_name() -> None:
    assert sources([("er", "distance")], {"er": "nuc"}) == [4]


def test_a_label_alone_is_all_rows_of_the_label_each_with_its_kind() -> None:
    new_head = [("new", "one-hot"), ("new", "distance")]
    assert sources(new_head, {"new": "er"}) == [1, 3]
    assert sources(new_head, {"new": "er", ("new", "distance"): ("mito", "distance")}) == [1, 2]


def test_a_pair_is_one_row_alone() -> None:
    new_head = [("er", "one-hot"), ("er", "distance")]
    assert sources(new_head, {("er", "distance"): "nuc"}) == [1, 4]
    assert sources(new_head, {("er", "distance"): ("mito", "one-hot")}) == [1, 0]


def test_none_keeps_the_models_own_row_and_says_who_said_so() -> None:
    wanted, _ = map_labels(parse_new_head(["nuc"]), {"nuc": None})
    (match,) = match_channels(wanted or (), OFFERED)
    assert (match.source, match.reason) == (None, "label_map says to keep it")


def test_a_row_may_take_what_another_has_by_its_name() -> None:
    assert sources(["nuc", "new"], {"new": "nuc"}) == [4, 4]


@pytest.mark.parametrize("nothing", [None, {}], ids=str)
def test_a_map_of_nothing_says_nothing(nothing: Any) -> None:
    assert map_labels(None, nothing) == (None, [])
    assert sources(["nuc"], nothing) == [4]


def test_a_map_without_new_head_asks_for_it() -> None:
    (problem,) = problems(None, {"new": "nuc"})
    assert "give new_head=[…] as well, one label for each row of the model's head" in problem


def test_a_row_that_there_is_not_is_named_with_the_nearest_that_there_is() -> None:
    said = "label_map names ne, which new_head does not have. Did you mean 'new'?"
    assert problems(["new"], {"ne": "nuc"}) == [said]
    assert problems([("new", "one-hot")], {("new", "distance"): "nuc"}) == [
        "label_map names new (distance), which new_head does not have. Did you mean 'new'?"
    ]


@pytest.mark.parametrize(
    ("label_map", "said"),
    [
        ("new", "label_map is 'new', not a mapping of the model's labels to the checkpoint's"),
        (["new", "nuc"], "label_map is ['new', 'nuc'], not a mapping"),
        ({7: "nuc"}, "a key of label_map is 7, neither a label nor a (label, kind) pair"),
        ({" ": "nuc"}, "a key of label_map is ' ', neither"),
        ({"new": 7}, "label_map['new'] is 7, neither a label nor a (label, kind) pair"),
        ({"new": {"nuc"}}, "label_map['new'] is {'nuc'}, neither"),
    ],
    ids=repr,
)
def test_what_is_no_map_of_labels_is_refused(label_map: Any, said: str) -> None:
    (problem,) = problems(["new"], label_map)
    assert said in problem
    (without_rows, *_) = problems(None, label_map)
    assert without_rows == problem


def test_two_words_for_one_row_are_refused() -> None:
    (problem,) = problems({"new": "nuc", "er": None}, {"new": "mito", "er": None})
    assert problem == "new is given two sources: new_head says nuc, label_map mito"
    (problem,) = problems({"new": None}, {"new": "mito"})
    assert problem == "new is given two sources: new_head says to keep it, label_map mito"


def test_a_mapping_and_a_map_that_say_the_same_agree() -> None:
    assert sources({"new": "nuc", "er": None}, {"new": "nuc", "er": None}) == [4, None]


def test_a_channel_that_the_checkpoint_lacks_is_refused_with_the_kinds_it_has() -> None:
    wanted, _ = map_labels(parse_new_head([("new", "one-hot"), "x"]), {"new": "nuc", "x": "nucc"})
    with pytest.raises(InvalidHead) as caught:
        match_channels(wanted or (), OFFERED)
    assert caught.value.problems == (
        "new (one-hot) shall take nuc (one-hot), but the checkpoint has nuc as distance only",
        "x shall take nucc, but the checkpoint has no nucc. Did you mean 'nuc'?",
    )


def test_every_problem_is_said() -> None:
    said = problems({"new": "nuc"}, {7: "x", "new": 7, "ne": "nuc", "other": None})
    assert len(said) == 4
