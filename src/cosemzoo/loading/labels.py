"""Which row of the checkpoint's head each row of the model's head takes: channels, matched by meaning."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import frozen

from cosemzoo.errors import InvalidHead, did_you_mean
from cosemzoo.manifest import Channel

ChannelLike: TypeAlias = "str | tuple[str, str] | Channel"
#: The kind of a channel of which only the label is known: it is any kind.
UNKNOWN_KIND: Final = "unknown kind"
#: What a caller may give as `new_head`: the channels of the model's head in the order of its rows, or a
#: mapping of these to the checkpoint's channels (None: keep the model's own values), or None: unknown.
NewHead: TypeAlias = "Iterable[ChannelLike] | Mapping[ChannelLike, ChannelLike | None] | None"


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
    explicit : bool
        Whether the caller said which; without a `source`, that it shall take none.
    """

    label: str
    kind: str | None = None
    source: "WantedChannel | None" = None
    explicit: bool = False

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
            label, kind = _channel(new)
            source = WantedChannel(*_channel(old)) if old is not None else None
        except ValueError as error:
            problems.append(f"row {row} of new_head {error}")
        else:
            wanted.append(WantedChannel(label, kind, source, isinstance(new_head, Mapping)))
    if problems:
        raise InvalidHead(problems)
    return tuple(wanted)


def match_channels(wanted: Sequence[WantedChannel], offered: Sequence[Channel]) -> tuple[Match, ...]:
    """Find, for each row of the model's head, the channel of the checkpoint with the same meaning.

    Parameters
    ----------
    wanted : sequence of WantedChannel
        The model's rows.
    offered : sequence of Channel
        The checkpoint's channels.

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
            matches.append(Match(channel, None, "new_head says to keep it"))
            continue
        meant = channel.source or channel
        found = [i for i, offer in enumerate(offered) if _same(meant, offer)]
        if len(found) > 1:
            kinds = ", ".join(f"({offered[i].label!r}, {offered[i].kind!r})" for i in found)
            problems.append(f"{meant} is ambiguous; the checkpoint has {kinds}: say which")
        elif not found and channel.explicit:
            problems.append(f"{channel} shall take {meant}, but {_why_missing(meant, offered)}")
        elif not found:
            matches.append(Match(channel, None, _why_missing(meant, offered)))
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


def _channel(value: Any) -> tuple[str, str | None]:
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


def _same(wanted: WantedChannel, offered: Channel) -> bool:
    kind_fits = wanted.kind in (None, offered.kind) or offered.kind == UNKNOWN_KIND
    return wanted.label == offered.label and kind_fits


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
    if not offered:
        return "the checkpoint does not name its channels"
    kinds = [channel.kind for channel in offered if channel.label == wanted.label]
    if kinds:
        return f"the checkpoint has {wanted.label} as {', '.join(kinds)} only"
    labels = list(dict.fromkeys(channel.label for channel in offered))
    return f"the checkpoint has no {wanted.label}.{did_you_mean(wanted.label, labels)}"
