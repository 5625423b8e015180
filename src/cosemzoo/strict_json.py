"""JSON as the safetensors format means it: no repeated keys, no NaN, no surprises from deep or huge input."""

import json
import reprlib
from collections.abc import Mapping
from typing import Any, Final, NoReturn, TypeGuard

from attrs import frozen

_LONGEST_64_BIT_INTEGER = 20

# Names and values come from the file: a message shows them escaped and cut to a readable length.
_short = reprlib.Repr()
_short.maxstring = 120
_short.maxother = 120
_short.maxlevel = 2
show: Final = _short.repr


class NotStrictJSON(Exception):
    """The text is not JSON; the message is a sentence fragment that says why."""


@frozen
class Decoded:
    """A decoded JSON text.

    Attributes
    ----------
    value : object
        What the text says; where a key is repeated, its last value.
    repeated : tuple of (object, key)
        Every key that one JSON object gives more than once, with that object.
    """

    value: object
    repeated: tuple[tuple[Mapping[str, object], str], ...]

    def repeated_in(self) -> dict[int, list[str]]:
        """Repeated keys by the `id` of the object that repeats them (the objects live as long as `self`)."""
        found: dict[int, list[str]] = {}
        for owner, key in self.repeated:
            found.setdefault(id(owner), []).append(key)
        return found


def decode(text: bytes) -> Decoded:
    """Decode UTF-8 JSON.

    Raises
    ------
    NotStrictJSON
        If the text is not UTF-8, not JSON, holds `NaN` or `Infinity`, or is nested too deeply to read.

    Examples
    --------
    >>> decode(b'{"a": 1, "a": 2}').value
    {'a': 2}
    """
    repeated: list[tuple[Mapping[str, object], str]] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            seen: dict[str, int] = {}
            for key, _ in pairs:
                seen[key] = seen.get(key, 0) + 1
            repeated.extend((members, key) for key, count in seen.items() if count > 1)
        return members

    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=collect,
            parse_int=_integer,
            parse_constant=_refuse_constant,
        )
    except UnicodeDecodeError as error:
        raise NotStrictJSON(f"is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise NotStrictJSON(f"is not JSON ({error.msg} at character {error.pos})") from error
    except RecursionError as error:
        raise NotStrictJSON("is nested too deeply") from error
    return Decoded(value, tuple(repeated))


def is_text(value: object) -> TypeGuard[str]:
    """Whether `value` is a string that UTF-8 can hold: JSON escapes can also spell lone surrogates."""
    return isinstance(value, str) and (value.isascii() or value.encode("utf-8", "replace").decode() == value)


def _integer(text: str) -> int | float:
    # A number that needs more than 64 bits, and "-0", are no integers to the other readers of these files.
    # Leaving them floats also keeps a number of a million digits from being converted.
    return float(text) if len(text) > _LONGEST_64_BIT_INTEGER or text == "-0" else int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise NotStrictJSON(f"is not JSON (it holds {name})")
