"""Why a row is kept, and what a person could type instead: nothing here changes what is loaded."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from cosemzoo.errors import did_you_mean
from cosemzoo.loading.vocabularies import COSEM, Dialects, Vocabulary, parents, vocabularies

#: What the names of parts of a structure end with: one part is no other one misspelt.
_PARTS: Final = ("mem", "lum", "in", "out", "ribo")

#: The labels of a checkpoint, and the kinds that it has of each.
Offered = Mapping[str, Sequence[str]]


def why_kept(
    label: str, kind: str | None, offered: Offered, dialects: Dialects, others: Collection[str] = ()
) -> str:
    """Say why a row has no source, with the nearest thing that the checkpoint has.

    Parameters
    ----------
    label : str
    kind : str or None
    offered : mapping of str to sequence of str
        The labels of the checkpoint that have this kind, and their kinds.
    dialects : Dialects
    others : collection of str
        The labels of the other rows.
    """
    missing = f"the checkpoint has no {label}"
    if label in offered:
        types = _label_map(label, kind, label, offered)
        return f"{_other_class(label, dialects)}: {types} would start it from that"
    synonym = _synonym(label, kind, offered, dialects, others)
    if synonym:
        return f"{missing}. {synonym}"
    parent = _parent(label, offered, dialects)
    if parent:
        return f"{missing}. {_label_map(label, kind, parent, offered)} would start it from its parent"
    # Of two labels that are known, neither is the other one misspelt.
    known = _is_known(label)
    candidates = [one for one in offered if not (known and _is_known(one)) and _may_be_same_part(label, one)]
    return f"{missing}.{did_you_mean(label, candidates)}"


def _label_map(label: str, kind: str | None, old: str, offered: Offered) -> str:
    new = label if kind is None else (label, kind)
    # A row of no kind says which of several it takes.
    source = (old, offered[old][0]) if kind is None and len(offered[old]) > 1 else old
    return f"label_map={{{new!r}: {source!r}}}"


def _may_be_same_part(label: str, other: str) -> bool:
    parts = [name.rpartition("_")[2] for name in (label, other)]
    return parts[0] == parts[1] or not all(part in _PARTS for part in parts)


def _other_class(label: str, dialects: Dialects) -> str:
    model, checkpoint = dialects.model, dialects.checkpoint
    assert model is not None
    assert checkpoint is not None
    theirs = checkpoint.identity(label)
    assert theirs is not None
    called = model.labels_of(theirs)
    named = f" ({model.title}: {' or '.join(called)})" if called else ""
    return f"{label} of {model.title} is another class than the checkpoint's {label}{named}"


def _synonym(
    label: str, kind: str | None, offered: Offered, dialects: Dialects, others: Collection[str]
) -> str:
    """Say which vocabulary has the label as the name of one that is offered."""
    checkpoint = dialects.checkpoint or vocabularies()[COSEM]
    for vocabulary in _vocabularies_of(label, dialects):
        meant = vocabulary.identity(label)
        for old in offered:
            if meant is None or checkpoint.identity(old) != meant:
                continue
            types = _label_map(label, kind, old, offered)
            if dialects.model is None and dialects.checkpoint is not None and old not in others:
                types = f"vocabulary={vocabulary.name!r} or {types}"
            whose = "" if dialects.checkpoint else f"{checkpoint.title}'s "
            return f"It is {vocabulary.title}'s name of {whose}{old}: {types} would start it from that"
    return ""


def _parent(label: str, offered: Offered, dialects: Dialects) -> str:
    parent = parents().get(label)
    if parent is None:
        return ""
    checkpoint = dialects.checkpoint or vocabularies()[COSEM]
    meant = vocabularies()[COSEM].identity(parent)
    return next((old for old in offered if checkpoint.identity(old) == meant), "")


def _vocabularies_of(label: str, dialects: Dialects) -> Sequence[Vocabulary]:
    """Give those that the label may be of: the one that was named, if it knows it, else all that do."""
    if dialects.model is not None and dialects.model.identity(label):
        return [dialects.model]
    return [one for one in vocabularies().values() if one.identity(label)]


def _is_known(label: str) -> bool:
    return label in parents() or any(label in one.identities for one in vocabularies().values())
