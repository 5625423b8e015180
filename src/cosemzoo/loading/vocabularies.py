"""What a label means: the classes of the ground truth, and what each vocabulary calls them."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, Self

from attrs import frozen

from cosemzoo.errors import InvalidOption

#: The classes of the ground truth that count as positive for a label: their ids in Heinrich et al. 2021
#: (doi:10.1038/s41586-021-03977-3). Two labels mean the same if their identities are equal.
Identity = frozenset[int]

COSEM: Final = "cosem"


@frozen
class Vocabulary:
    """The labels of one community.

    Attributes
    ----------
    name : str
        What a manifest and a caller name it by, such as ``cellmap-challenge``.
    title : str
        What a person calls it, as in the middle of a sentence.
    identities : mapping of str to frozenset of int
        By label; empty where the class of the label was not confirmed.
    """

    name: str
    title: str
    identities: Mapping[str, Identity]

    def identity(self, label: str) -> Identity | None:
        """Give what a label means; None where that is not known."""
        return self.identities.get(label) or None

    def labels_of(self, identity: Identity) -> tuple[str, ...]:
        """Give every label that means this."""
        return tuple(label for label, meant in self.identities.items() if meant == identity)


@frozen
class Dialects:
    """The vocabularies that two lists of labels are in.

    Attributes
    ----------
    model : Vocabulary or None
        That of the labels of the model's head; None takes them for names in the checkpoint's own.
    checkpoint_name : str or None
        What the manifest calls that of the checkpoint's labels.
    """

    model: Vocabulary | None = None
    checkpoint_name: str | None = None

    @classmethod
    def of(cls, model: object, checkpoint: str | None) -> Self:
        """Find both by their names.

        Parameters
        ----------
        model : str or None
            What the caller says.
        checkpoint : str or None
            What the manifest says.

        Raises
        ------
        InvalidOption
            If the caller names one that there is not.
        """
        return cls(None if model is None else find_vocabulary(model), checkpoint)

    @property
    def checkpoint(self) -> Vocabulary | None:
        """That of the checkpoint's labels; None where it is not known here, as one of a later release."""
        # Looked up when it is needed: most plans never read the table.
        return None if self.checkpoint_name is None else vocabularies().get(self.checkpoint_name)

    def same_class(self, new: str, old: str) -> bool | None:
        """Whether a label of the model means what one of the checkpoint does; None where it is not known."""
        meant = None if self.model is None else self.model.identity(new)
        if meant is None or self.checkpoint is None:
            return None
        offered = self.checkpoint.identity(old)
        return None if offered is None else meant == offered


@cache
def vocabularies() -> Mapping[str, Vocabulary]:
    """Give every vocabulary by its name (`vocabularies.toml`)."""
    table = _table()
    found = {}
    for name, title in table["titles"].items():
        labels = {label: Identity(one["ids"]) for one in table["classes"] for label in one.get(name, ())}
        found[name] = Vocabulary(name, title, MappingProxyType(labels))
    return MappingProxyType(found)


@cache
def parents() -> Mapping[str, str]:
    """Give the label of COSEM that a row can sensibly start from, by labels that COSEM does not have."""
    found: dict[str, str] = _table()["parents"]
    return MappingProxyType(found)


def find_vocabulary(name: object) -> Vocabulary:
    """Find a vocabulary by its name.

    Raises
    ------
    InvalidOption
        If there is none of this name.
    """
    found = vocabularies().get(name) if isinstance(name, str) else None
    if found is None:
        raise InvalidOption("vocabulary", name, f"one of {', '.join(map(repr, vocabularies()))}")
    return found


def _table() -> Any:
    text = files("cosemzoo.loading").joinpath("vocabularies.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
