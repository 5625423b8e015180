"""The metadata block of a model card, and the tags the Hub derives from it."""

import json
from typing import Any

import yaml  # type: ignore[import-untyped]

_FENCE = "---"

_PLAIN = ("library_name", "pipeline_tag", "tags", "language")
_PREFIXED = (("dataset", "datasets"), ("base_model", "base_model"), ("license", "license"))


class CardError(ValueError):
    """A metadata block that is not a YAML mapping."""


def metadata(readme: str) -> dict[str, Any]:
    """Return the metadata of a card, empty if it has none.

    Raises
    ------
    CardError
        If there is a block that is not a YAML mapping.
    """
    lines = readme.splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in (line.strip() for line in lines[1:]):
        return {}
    end = next(number for number, line in enumerate(lines[1:], start=1) if line.strip() == _FENCE)
    try:
        data = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        raise CardError(str(error)) from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise CardError(f"The metadata is a mapping of names to values, not {type(data).__name__}.")
    return data


def tags(card: dict[str, Any]) -> list[str]:
    """Return the tags that ``list_models(filter=...)`` finds a card by."""
    plain = [value for key in _PLAIN for value in _list(card.get(key))]
    prefixed = [f"{prefix}:{value}" for prefix, key in _PREFIXED for value in _list(card.get(key))]
    return list(dict.fromkeys([str(tag) for tag in plain if tag] + prefixed))


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def as_json(card: dict[str, Any]) -> Any:
    """Return the metadata with what JSON does not know, such as dates, as text."""
    return json.loads(json.dumps(card, default=str))
