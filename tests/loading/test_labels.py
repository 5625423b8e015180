import enum
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from cosemzoo.errors import InvalidHead
from cosemzoo.loading.labels import match_channels, parse_new_head
from cosemzoo.manifest import Channel

OFFERED = (Channel("mito", "distance"), Channel("er", "distance"), Channel("mito", "one-hot"))


class Label(str, enum.Enum):  # noqa: UP042 - not a StrEnum: its `str` is not its value
    MITO = "mito"
    ER = "er"


class Series:
    """As much of a pandas series as is asked for: iterating over it is not how its members are had."""

    def __init__(self, *members: str) -> None:
        self._members = members

    def tolist(self) -> list[str]:
        return list(self._members)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self._members)))


def parsed(new_head: Any) -> list[tuple[str, str | None]]:
    return [(one.label, one.kind) for one in parse_new_head(new_head) or ()]


def sources(new_head: Any) -> list[int | None]:
    return [match.source for match in match_channels(parse_new_head(new_head) or (), OFFERED)]


def problems(new_head: Any) -> str:
    with pytest.raises(InvalidHead) as caught:
        match_channels(parse_new_head(new_head) or (), OFFERED)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    "new_head",
    [
        ["mito", "er"],
        ("mito", "er"),
        np.array(["mito", "er"]),
        np.array(["mito", "er"], dtype=object),
        [np.str_("mito"), np.str_("er")],
        Series("mito", "er"),
        (label for label in ("mito", "er")),
        iter(["mito", "er"]),
        {"mito": 1, "er": 2}.keys(),
        [Label.MITO, Label.ER],
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_ordered_collection_of_labels_is_a_new_head(new_head: Any) -> None:
    result = parsed(new_head)
    assert result == [("mito", None), ("er", None)]
    assert {type(label) for label, _ in result} == {str}


@pytest.mark.parametrize(
    "new_head",
    [
        [("mito", "distance"), ("er", "distance")],
        [["mito", "distance"], ["er", "distance"]],
        np.array([["mito", "distance"], ["er", "distance"]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pairs_say_label_and_kind(new_head: Any) -> None:
    assert parsed(new_head) == [("mito", "distance"), ("er", "distance")]


def test_no_new_head_is_not_an_empty_one() -> None:
    assert parse_new_head(None) is None
    assert parse_new_head([]) == ()


@pytest.mark.parametrize(
    ("new_head", "said"),
    [
        ("mito", "new_head is the text 'mito'; give a list of labels, such as ['mito']"),
        (b"mito", "new_head is the text b'mito'"),
        ({"mito"}, "a set, which has no order"),
        (frozenset({"mito"}), "a set, which has no order"),
        (7, "new_head is a int, not a list of labels"),
        (np.array("mito"), "the single value 'mito'"),
        (np.array(7), "the single value 7"),
        ([1, 2], "row 0 of new_head is 1"),
        (range(2), "row 1 of new_head is 1"),
        (np.array([b"mito"]), "row 0 of new_head is b'mito'"),
        (["mito", None], "row 1 of new_head is None"),
        (["mito", float("nan")], "row 1 of new_head is nan"),
        (["mito", " "], "row 1 of new_head is ' '"),
        ([("mito", "")], "row 0 of new_head is ('mito', '')"),
        ([["mito"]], "row 0 of new_head is ['mito']"),
        ([("mito", "distance", "extra")], "row 0 of new_head is ('mito', 'distance', 'extra')"),
        ([[["mito", "er"], "distance"]], "neither a label nor a (label, kind) pair"),
        ({"mito": 3}, "row 0 of new_head is 3"),
        ({"mito": {"er"}}, "row 0 of new_head is {'er'}"),
        ({7: "mito"}, "row 0 of new_head is 7"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_labels_is_refused(new_head: Any, said: str) -> None:
    assert said in problems(new_head)


def test_every_bad_member_is_named() -> None:
    with pytest.raises(InvalidHead) as caught:
        parse_new_head([1, "mito", None])
    assert len(caught.value.problems) == 2


def test_rows_take_the_channel_of_the_same_meaning() -> None:
    assert sources([("mito", "one-hot"), "er", ("mito", "distance")]) == [2, 1, 0]


def test_a_label_that_several_channels_have_is_ambiguous() -> None:
    said = "mito is ambiguous; the checkpoint has ('mito', 'distance'), ('mito', 'one-hot'): say which"
    assert said in problems(["mito", "er"])


def test_a_channel_that_the_checkpoint_lacks_is_kept_with_the_nearest_one_named() -> None:
    (match,) = match_channels(parse_new_head(["err"]) or (), OFFERED)
    assert match.source is None
    assert match.reason == "the checkpoint has no err. Did you mean 'er'?"


def test_a_kind_that_the_checkpoint_lacks_is_kept_with_the_kinds_it_has() -> None:
    (match,) = match_channels(parse_new_head([("mito", "boundary")]) or (), OFFERED)
    assert match.source is None
    assert match.reason == "the checkpoint has mito as distance, one-hot only"


@pytest.mark.parametrize("new_head", [["er", "er"], [("er", "x"), ("er", "x")]], ids=str)
def test_a_channel_wanted_twice_is_refused(new_head: Any) -> None:
    assert "is given for rows 0 and 1: tell them apart with (label, kind)" in problems(new_head)


def test_two_spellings_of_one_channel_are_refused() -> None:
    assert "er and er (distance) both mean the checkpoint's er (distance)" in problems(
        ["er", ("er", "distance")]
    )


def test_a_mapping_says_which_channel_each_row_takes() -> None:
    mapping = {"new": "er", ("mine", "x"): ("mito", "one-hot"), "er": None}
    assert sources(mapping) == [1, 2, None]


def test_a_mapping_may_give_one_channel_to_several_rows() -> None:
    assert sources({"a": "er", "b": "er"}) == [1, 1]


def test_a_mapping_to_a_channel_that_is_not_there_is_refused() -> None:
    assert "new shall take nuc, but the checkpoint has no nuc" in problems({"new": "nuc"})


def test_all_problems_are_raised_together() -> None:
    said = problems(["er", "er", "mito"])
    assert "er is given for rows 0 and 1" in said
    assert "mito is ambiguous" in said


def test_the_channels_of_a_manifest_can_be_wanted() -> None:
    wanted = parse_new_head([Channel("mito", "distance"), "er"])
    assert wanted is not None
    assert [(one.label, one.kind) for one in wanted] == [("mito", "distance"), ("er", None)]


def test_a_label_that_differs_in_capitals_is_suggested() -> None:
    wanted = parse_new_head(["Mito"])
    assert wanted is not None
    (match,) = match_channels(wanted, [Channel("mito", "distance")])
    assert match.source is None
    assert "Did you mean 'mito'?" in match.reason
