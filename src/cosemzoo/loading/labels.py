"""Which row of the checkpoint's head each row of the model's head takes: channels, matched by meaning."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from attrs import frozen

from cosemzoo.errors import InvalidHead, did_you_mean
from cosemzoo.loading.suggestions import why_kept
from cosemzoo.loading.vocabularies import Dialects
from cosemzoo.manifest import Channel

ChannelLike: TypeAlias = "str | tuple[str, str] | Channel"
#: The kind of a channel of which only the label is known: it is any kind.
UNKNOWN_KIND: Final = "unknown kind"
#: What a caller may give as `new_head`: the channels of the model's head in the order of its rows, or a
#: mapping of these to the checkpoint's channels (None: keep the model's own values), or None: unknown.
NewHead: TypeAlias = "Iterable[ChannelLike] | Mapping[ChannelLike, ChannelLike | None] | None"
# Labels are names.
_NAMES: Final = Dialects()


@frozen
class WantedChannel:
    """One row of the model's head, as the caller describes it.

    Attributes
    ----------
    label : str
    kind : str or None
        None where the caller named a label only.
    source : WantedChannel or None
        The channel of the checkpoint it shall take, where the caller said which.
    said_by : {"", "new_head", "label_map"}
        Where the caller said which; without a `source`, that it shall take none.
    """

    label: str
    kind: str | None = None
    source: "WantedChannel | None" = None
    said_by: Literal["", "new_head", "label_map"] = ""

    @property
    def explicit(self) -> bool:
        """Whether the caller said which channel it shall take."""
        return bool(self.said_by)

    def __str__(self) -> str:
        """Give the label, and the kind where it is known."""
        return self.label if self.kind is None else f"{self.label} ({self.kind})"


@frozen
class Match:
    """Where one row takes its values from.

    Attributes
    ----------
    wanted : WantedChannel
    source : int or None
        Index among the channels offered; None keeps the model's own values.
    reason : str
        Why there is none.
    """

    wanted: WantedChannel
    source: int | None
    reason: str = ""


def parse_new_head(new_head: Any) -> tuple[WantedChannel, ...] | None:
    """Read what a caller gave as `new_head`.

    Parameters
    ----------
    new_head : NewHead
        Lists, tuples, arrays, series and mappings of labels or (label, kind) pairs.

    Raises
    ------
    InvalidHead
        With every problem: a bare text, a set (it has no order), members that are neither a label nor a
        pair.
    """
    if new_head is None:
        return None
    if isinstance(new_head, (str, bytes)):
        raise InvalidHead(
            [f"new_head is the text {new_head!r}; give a list of labels, such as [{new_head!r}]"]
        )
    if isinstance(new_head, (set, frozenset)):
        raise InvalidHead(
            ["new_head is a set, which has no order; give a list: one label per row of the head"]
        )
    if not isinstance(new_head, Iterable):
        raise InvalidHead([f"new_head is a {type(new_head).__name__}, not a list of labels"])
    problems: list[str] = []
    wanted: list[WantedChannel] = []
    pairs = (
        new_head.items()
        if isinstance(new_head, Mapping)
        else ((member, None) for member in _members(new_head))
    )
    for row, (new, old) in enumerate(pairs):
        try:
            label, kind = read_channel(new)
            source = WantedChannel(*read_channel(old)) if old is not None else None
        except ValueError as error:
            problems.append(f"row {row} of new_head {error}")
        else:
            said_by: Literal["", "new_head"] = "new_head" if isinstance(new_head, Mapping) else ""
            wanted.append(WantedChannel(label, kind, source, said_by))
    if problems:
        raise InvalidHead(problems)
    return tuple(wanted)


def read_channel(value: Any) -> tuple[str, str | None]:
    """Give the label of a channel, and its kind where that is said.

    Raises
    ------
    ValueError
        If it is neither a label nor a pair; the message goes on from what it is called.
    """
    if isinstance(value, Channel):
        return value.label, value.kind
    is_label = isinstance(value, str)
    is_pair = isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == 2
    parts = [value] if is_label else list(value) if is_pair else []
    if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise ValueError(f"is {value!r}, neither a label nor a (label, kind) pair")
    # An enumeration's member is a text too, whose `str` is another.
    label, *kind = (str.__str__(part) for part in parts)
    return label, kind[0] if is_pair else None


def match_channels(
    wanted: Sequence[WantedChannel], offered: Sequence[Channel], dialects: Dialects = _NAMES
) -> tuple[Match, ...]:
    """Find, for each row of the model's head, the channel of the checkpoint with the same meaning.

    What the caller said goes first. Then, where both vocabularies know the labels, channels go by class; else
    by name.

    Parameters
    ----------
    wanted : sequence of WantedChannel
        The model's rows.
    offered : sequence of Channel
        The checkpoint's channels.
    dialects : Dialects
        What the labels of both are; by default, they are names.

    Raises
    ------
    InvalidHead
        With every problem: a channel that is wanted twice, a label that several channels have, two rows
        that mean the same channel, an explicit source that the checkpoint does not have.
    """
    problems = _repetitions(wanted)
    matches: list[Match] = []
    taken: dict[int, WantedChannel] = {}
    for channel in wanted:
        if channel.explicit and channel.source is None:
            matches.append(Match(channel, None, f"{channel.said_by} says to keep it"))
            continue
        meant, spoken = (channel.source, _NAMES) if channel.source else (channel, dialects)
        found = [i for i in _of_label(meant.label, offered, spoken) if _is_kind(meant.kind, offered[i])]
        if len(found) > 1:
            kinds = ", ".join(f"({offered[i].label!r}, {offered[i].kind!r})" for i in found)
            problems.append(f"{meant} is ambiguous; the checkpoint has {kinds}: say which")
        elif not found and channel.explicit:
            problems.append(f"{channel} shall take {meant}, but {_why_missing(meant, offered)}")
        elif not found:
            matches.append(Match(channel, None, _why_kept(channel, wanted, offered, dialects)))
        elif not channel.explicit and found[0] in taken and str(taken[found[0]]) != str(channel):
            problems.append(f"{taken[found[0]]} and {channel} both mean the checkpoint's {offered[found[0]]}")
        else:
            if not channel.explicit:
                taken[found[0]] = channel
            matches.append(Match(channel, found[0]))
    if problems:
        raise InvalidHead(problems)
    return tuple(matches)


def _members(new_head: Iterable[Any]) -> Iterable[Any]:
    # An array or a series gives its members as Python values; a 0-d array, a text.
    tolist = getattr(new_head, "tolist", None)
    members = tolist() if callable(tolist) else new_head
    if not isinstance(members, Iterable) or isinstance(members, str):
        raise InvalidHead([f"new_head is the single value {members!r}; give a list of labels"])
    return members


def _of_label(label: str, offered: Sequence[Channel], dialects: Dialects) -> list[int]:
    """Find the channels of the same class; where none is known to be, those of the same name."""
    same = [dialects.same_class(label, channel.label) for channel in offered]
    by_name = [i for i, known in enumerate(same) if known is None and offered[i].label == label]
    of_class = [i for i, known in enumerate(same) if known]
    return [i for i in of_class if offered[i].label == label] or of_class or by_name


def _is_kind(kind: str | None, offered: Channel) -> bool:
    return kind in (None, offered.kind) or offered.kind == UNKNOWN_KIND


def _repetitions(wanted: Sequence[WantedChannel]) -> list[str]:
    rows: dict[str, list[str]] = {}
    for row, channel in enumerate(wanted):
        rows.setdefault(str(channel), []).append(str(row))
    return [
        f"{channel} is given for rows {' and '.join(at)}: tell them apart with (label, kind)"
        for channel, at in rows.items()
        if len(at) > 1
    ]


def _why_missing(wanted: WantedChannel, offered: Sequence[Channel]) -> str:
    """Say why the checkpoint does not have what was asked for by its own name."""
    known = _what_it_has(wanted.label, offered, _NAMES)
    labels = list(dict.fromkeys(channel.label for channel in offered))
    return known or f"the checkpoint has no {wanted.label}.{did_you_mean(wanted.label, labels)}"


def _why_kept(
    channel: WantedChannel, wanted: Sequence[WantedChannel], offered: Sequence[Channel], dialects: Dialects
) -> str:
    kinds: dict[str, list[str]] = {}
    for one in offered:
        if _is_kind(channel.kind, one):
            kinds.setdefault(one.label, []).append(one.kind)
    others = {one.label for one in wanted} - {channel.label}
    return _what_it_has(channel.label, offered, dialects) or why_kept(
        channel.label, channel.kind, kinds, dialects, others
    )


def _what_it_has(label: str, offered: Sequence[Channel], dialects: Dialects) -> str:
    """Say that it names no channels, or which kinds it has of a label; empty where it has none."""
    if not offered:
        return "the checkpoint does not name its channels"
    found = [offered[i] for i in _of_label(label, offered, dialects)]
    if not found:
        return ""
    return f"the checkpoint has {found[0].label} as {', '.join(channel.kind for channel in found)} only"
