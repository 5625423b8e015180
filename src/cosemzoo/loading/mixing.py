"""A first layer for another number of input channels: how much of each stored one goes into each new one."""

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from attrs import frozen

from cosemzoo.errors import InvalidInput

#: What becomes of the first layer where the model has another number of input channels.
InChannels: TypeAlias = Literal["error", "repeat", "mean", "first", "keep"]
IN_CHANNELS: Final = ("error", "repeat", "mean", "first", "keep")
#: By input channel of the model, then of the checkpoint: how much of it goes in.
Mixing: TypeAlias = tuple[tuple[float, ...], ...]


@frozen
class Mixed:
    """How the input channels are made.

    Attributes
    ----------
    mixing : Mixing or None
        None where the layer stays the model's own.
    how : str
        In words; empty where nothing changes.
    filled : tuple of int or None
        The input channels of the model that are filled; None for all.
    problem : str
        Why it cannot be said.
    """

    mixing: Mixing | None
    how: str = ""
    filled: tuple[int, ...] | None = None
    problem: str = ""


def mix_channels(
    in_channels: InChannels,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    counts: tuple[int, int],
) -> Mixed:
    """Say how the model's input channels are made from the checkpoint's.

    Parameters
    ----------
    in_channels : {"error", "repeat", "mean", "first", "keep"}
        What to do where the numbers differ and the channels are not named on both sides. "repeat": each takes
        one of the stored, in turn, divided by how many take the same; "mean": each takes the mean; "first":
        the first ones are taken as they are and further ones start at zero. All are scaled so that an input
        which is the same in every channel gives the activation that it gave before.
    names : (sequence of str or None, sequence of str or None)
        Of the checkpoint's channels, and of the model's.
    counts : (int, int)
        How many there are of each.

    Raises
    ------
    InvalidInput
        If names are not names of that many channels, or "repeat" would drop some.
    """
    there, here = counts
    if names[1] is not None:
        _check_names(names[1], here)
    if names[0] and len(names[0]) != there:
        return Mixed(None, problem=f"has {there} input channels, its manifest names {', '.join(names[0])}")
    if names[0] and names[1] is not None:
        return _by_name(names[0], names[1])
    same = tuple(tuple(float(i == j) for i in range(there)) for j in range(here))
    return Mixed(same) if there == here else _by_count(in_channels, there, here, same)


def _by_count(in_channels: InChannels, there: int, here: int, same: Mixing) -> Mixed:
    said = f"{there} → {here} input channels"
    match in_channels:
        case "mean":
            return Mixed(((1.0 / here,) * there,) * here, f"{said}, each the mean")
        case "repeat" if here > there:
            shares = [len(range(i, here, there)) for i in range(there)]
            rows = tuple(tuple((i == j % there) / shares[i] for i in range(there)) for j in range(here))
            return Mixed(rows, f"{said}, repeated")
        case "repeat":
            raise InvalidInput([f"in_channels='repeat' cannot make {said}; 'mean' and 'first' can"])
        case "first":
            scale = max(1.0, there / here)
            rows = tuple(tuple(scale * part for part in row) for row in same)
            return Mixed(rows, f"{said}, the first ones")
        case "keep":
            return Mixed(None)
    choices = ", ".join(f"in_channels={choice!r}" for choice in IN_CHANNELS[1:])
    problem = f"has {there} input channels in the checkpoint and {here} in the model; say {choices}"
    return Mixed(None, problem=f"{problem}, or name them on both sides")


def _by_name(names: Sequence[str], wanted: Sequence[str]) -> Mixed:
    mixing = tuple(tuple(float(name == new) for name in names) for new in wanted)
    filled = tuple(i for i, new in enumerate(wanted) if new in names)
    if list(names) == list(wanted):
        return Mixed(mixing)
    if not filled:
        listed = f"{', '.join(names)} in the checkpoint, {', '.join(wanted)} in the model"
        return Mixed(None, problem=f"has no input channel that is on both sides: {listed}")
    taken = ", ".join(new if new in names else f"{new} (the model's own)" for new in wanted)
    dropped = ", ".join(name for name in names if name not in wanted)
    left = f"; not used: {dropped}" if dropped else ""
    return Mixed(
        mixing, f"input channels by name: {taken}{left}", filled if len(filled) < len(wanted) else None
    )


def _check_names(names: Any, count: int) -> None:
    problems = []
    ordered = isinstance(names, (list, tuple)) or hasattr(names, "tolist")
    if not ordered or not all(isinstance(name, str) for name in names):
        problems.append(f"input_channels is {names!r}, not a list of names")
    elif len(names) != count:
        problems.append(f"input_channels names {len(names)} channels, the model's first layer has {count}")
    elif len(set(names)) < len(names):
        problems.append(f"input_channels has a name twice: {', '.join(names)}")
    if problems:
        raise InvalidInput(problems)
