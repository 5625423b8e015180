"""Why a row is kept, and what a person could type instead: nothing here changes what is loaded."""

from collections.abc import Sequence

from cosemzoo.errors import did_you_mean
from cosemzoo.loading.vocabularies import COSEM, Dialects, Vocabulary, parents, vocabularies


def why_kept(label: str, kind: str | None, offered: Sequence[str], dialects: Dialects) -> str:
    """Say why a row has no source, with the nearest thing that the checkpoint has.

    Parameters
    ----------
    label : str
    kind : str or None
    offered : sequence of str
        The labels of the checkpoint that have this kind.
    dialects : Dialects
    """
    missing = f"the checkpoint has no {label}"
    if label in offered:
        return f"{_other_class(label, dialects)}: {_label_map(label, kind, label)} would start it from that"
    synonym = _synonym(label, kind, offered, dialects)
    if synonym:
        return f"{missing}. {synonym}"
    parent = _parent(label, offered, dialects)
    if parent:
        return f"{missing}. {_label_map(label, kind, parent)} would start it from its parent"
    # Of two labels that are known, neither is the other one misspelt.
    candidates = [one for one in offered if not _is_known(one)] if _is_known(label) else offered
    return f"{missing}.{did_you_mean(label, candidates)}"


def _label_map(label: str, kind: str | None, old: str) -> str:
    return f"label_map={{{label if kind is None else (label, kind)!r}: {old!r}}}"


def _other_class(label: str, dialects: Dialects) -> str:
    model, checkpoint = dialects.model, dialects.checkpoint
    assert model is not None
    assert checkpoint is not None
    theirs = checkpoint.identity(label)
    assert theirs is not None
    called = model.labels_of(theirs)
    named = f" ({model.title}: {' or '.join(called)})" if called else ""
    return f"{label} of {model.title} is another class than the checkpoint's {label}{named}"


def _synonym(label: str, kind: str | None, offered: Sequence[str], dialects: Dialects) -> str:
    """Say which vocabulary has the label as the name of one that is offered."""
    checkpoint = dialects.checkpoint or vocabularies()[COSEM]
    for vocabulary in _vocabularies_of(label, dialects):
        meant = vocabulary.identity(label)
        for old in offered:
            if meant is None or checkpoint.identity(old) != meant:
                continue
            types = _label_map(label, kind, old)
            if dialects.model is None and dialects.checkpoint is not None:
                types = f"vocabulary={vocabulary.name!r} or {types}"
            whose = "" if dialects.checkpoint else f"{checkpoint.title}'s "
            return f"It is {vocabulary.title}'s name of {whose}{old}: {types} would start it from that"
    return ""


def _parent(label: str, offered: Sequence[str], dialects: Dialects) -> str:
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
