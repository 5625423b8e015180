import enum
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cosemzoo.errors import InvalidHead
from cosemzoo.loading.label_map import map_labels
from cosemzoo.loading.labels import UNKNOWN_KIND, Match, WantedChannel, match_channels, parse_new_head
from cosemzoo.loading.vocabularies import Dialects, vocabularies
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


# --- vocabularies ------------------------------------------------------------------------------------------

SETUP28 = (Channel("er", "distance"), Channel("er_mem", "distance"))


def by_class(
    new_head: Any, offered: Sequence[Channel], model: str | None, checkpoint: str | None = "cosem"
) -> list[int | None]:
    dialects = Dialects.of(model, checkpoint)
    return [match.source for match in match_channels(parse_new_head(new_head) or (), offered, dialects)]


def test_er_mem_of_the_challenge_does_not_meet_that_of_cosem_and_er_mem_all_does() -> None:
    assert by_class(["er_mem", "er_mem_all"], SETUP28, "cellmap-challenge") == [None, 1]
    challenge = [Channel("er_mem", "distance"), Channel("er_mem_all", "distance")]
    assert by_class(["er_mem"], challenge, "cosem", "cellmap-challenge") == [1]


@pytest.mark.parametrize(
    ("vocabulary", "new_head"),
    [
        ("cnnectome", ["er_membrane", "er"]),
        ("openorganelle", ["er-mem", "er"]),
        ("cosem", ["er_mem", "er"]),
        (None, ["er_mem", "er"]),
    ],
)
def test_rows_meet_their_class_in_every_vocabulary(vocabulary: str | None, new_head: list[str]) -> None:
    assert by_class(new_head, SETUP28, vocabulary) == [1, 0]


def test_without_a_vocabulary_the_same_name_always_matches() -> None:
    assert by_class(["er_mem"], SETUP28, None, "cellmap-challenge") == [1]
    assert by_class(["er_mem"], SETUP28, "cellmap-challenge", None) == [1]
    assert by_class(["er_mem"], SETUP28, "cellmap-challenge", "of a later release") == [1]


def test_labels_that_a_vocabulary_does_not_know_go_by_name() -> None:
    offered = [Channel("mine", "distance"), Channel("ves_mem", "distance")]
    assert by_class(["ves_mem", "mine"], offered, "cellmap-challenge") == [1, 0]


def test_two_spellings_of_one_class_are_refused() -> None:
    with pytest.raises(InvalidHead, match=r"vesicle and vs both mean the checkpoint's ves \(distance\)"):
        by_class(["vesicle", "vs"], [Channel("ves", "distance")], "openorganelle")


def test_rows_that_meet_their_class_keep_their_kind() -> None:
    offered = [Channel(label, kind) for kind in ("one-hot", "distance") for label in ("mito", "pm")]
    new_head = [(label, kind) for kind in ("one-hot", "distance") for label in ("plasma_membrane", "mito")]
    assert by_class(new_head, offered, "cnnectome") == [1, 0, 3, 2]
    assert by_class([("plasma_membrane", "affinity")], offered, "cnnectome") == [None]
    with pytest.raises(InvalidHead, match="plasma_membrane is ambiguous"):
        by_class(["plasma_membrane"], offered, "cnnectome")


def test_what_the_caller_says_goes_before_class_and_name() -> None:
    assert by_class({"er_mem": "er_mem"}, SETUP28, "cellmap-challenge") == [1]
    wanted, _ = map_labels(parse_new_head(["er_mem", "er_mem_all"]), {"er_mem": "er_mem", "er_mem_all": "er"})
    matches = match_channels(wanted or (), SETUP28, Dialects.of("cellmap-challenge", "cosem"))
    assert [match.source for match in matches] == [1, 0]


LABELS = st.sampled_from(
    sorted({"x", "y", *(label for one in vocabularies().values() for label in one.identities)})
)
KINDS = st.sampled_from(["distance", "one-hot"])
NAMES = st.none() | st.sampled_from(sorted(vocabularies()))
ROWS = st.lists(st.tuples(LABELS, st.none() | KINDS), max_size=6).map(
    lambda rows: tuple(WantedChannel(label, kind) for label, kind in rows)
)
CHANNELS = st.lists(
    st.builds(Channel, LABELS, KINDS | st.just(UNKNOWN_KIND)),
    max_size=6,
    unique_by=lambda channel: (channel.label, channel.kind),
)
DIALECTS = st.builds(Dialects.of, NAMES, NAMES)


def attempt(rows: Sequence[WantedChannel], offered: Sequence[Channel], dialects: Dialects) -> Sequence[Match]:
    try:
        return match_channels(rows, offered, dialects)
    except InvalidHead:
        return ()


@given(ROWS, CHANNELS, DIALECTS, st.randoms())
def test_the_order_of_the_checkpoints_channels_changes_nothing(
    rows: tuple[WantedChannel, ...], offered: list[Channel], dialects: Dialects, random: Random
) -> None:
    shuffled = random.sample(offered, len(offered))
    before, after = attempt(rows, offered, dialects), attempt(rows, shuffled, dialects)
    assert before == attempt(rows, offered, dialects)
    taken = [None if match.source is None else offered[match.source] for match in before]
    assert taken == [None if match.source is None else shuffled[match.source] for match in after]


@given(ROWS, CHANNELS, DIALECTS)
def test_no_two_rows_take_one_channel_unless_they_are_told_to(
    rows: tuple[WantedChannel, ...], offered: list[Channel], dialects: Dialects
) -> None:
    sources = [m.source for m in attempt(rows, offered, dialects) if m.source is not None]
    assert len(sources) == len(set(sources))


@given(ROWS, CHANNELS, DIALECTS)
def test_a_row_takes_its_class_or_its_name_and_its_kind(
    rows: tuple[WantedChannel, ...], offered: list[Channel], dialects: Dialects
) -> None:
    matches = attempt(rows, offered, dialects)
    assume(matches)
    for match in matches:
        if match.source is None:
            assert match.reason
            continue
        row, channel = match.wanted, offered[match.source]
        same_class = dialects.same_class(row.label, channel.label)
        assert row.label == channel.label if same_class is None else same_class
        assert row.kind is None or channel.kind in {row.kind, UNKNOWN_KIND}
