"""Weights that are held as the parts that they are computed from: weight_norm, spectral_norm and their like.

A part is no weight: where one side has the weight and the other its parts, neither fits. Told by names alone,
both those of ``torch.nn.utils.parametrizations`` and the older ones of ``torch.nn.utils``.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Final

from attrs import frozen

_NEW: Final = re.compile(
    r"(?P<module>(?:.*\.)?)parametrizations\.(?P<leaf>\w+)\.(?P<part>original\d*|\d+\..+)"
)
_HOW: Final = {
    frozenset({"original0", "original1"}): "weight_norm",
    frozenset({"original", "0._u", "0._v"}): "spectral_norm",
}
#: What does it, what the older functions put after a weight's name, and what the part is called now.
_OLD: Final = (
    ("weight_norm", {"_g": "original0", "_v": "original1"}),
    ("spectral_norm", {"_orig": "original", "_u": "0._u", "_v": "0._v"}),
    ("prune", {"_orig": "original", "_mask": "0.mask"}),
)


@frozen
class Parametrized:
    """A weight that is computed from parts.

    Attributes
    ----------
    how : str
        What does it, as far as names tell.
    parts : mapping of str to str
        The names of what it is computed from, by what `torch.nn.utils.parametrize` calls each.
    remove : str
        What takes it away again.
    """

    how: str
    parts: Mapping[str, str]
    remove: str

    def named(self, names: Mapping[str, str]) -> str:
        """Give what does it, and what the parts are called where they are."""
        return f"{self.how}: {', '.join(names[part] for part in self.parts.values())}"


def find_parametrized(names: Iterable[str]) -> dict[str, Parametrized]:
    """Find the weights that are computed from parts.

    Returns
    -------
    dict of str to Parametrized
        By the name that the weight itself has, or would have.
    """
    known = dict.fromkeys(names)
    parts: dict[str, dict[str, str]] = {}
    found: dict[str, Parametrized] = {}
    for name in known:
        new = _NEW.fullmatch(name) if "parametrizations." in name else None
        if new is not None:
            parts.setdefault(new["module"] + new["leaf"], {})[new["part"]] = name
        elif name.endswith(("_g", "_orig")):
            plain = name.rpartition("_")[0]
            for how, called in _OLD:
                old = {part: plain + ending for ending, part in called.items()}
                if name in old.values() and plain not in known and known.keys() >= set(old.values()):
                    remove = "prune.remove" if how == "prune" else f"remove_{how}"
                    found[plain] = Parametrized(how, old, f"torch.nn.utils.{remove}")
    for plain, new_parts in parts.items():
        how = _HOW.get(frozenset(new_parts), "parametrized")
        found[plain] = Parametrized(how, new_parts, "torch.nn.utils.parametrize.remove_parametrizations")
    return found


def has_dependent_rows(name: str) -> bool:
    """Whether a tensor is a part whose rows cannot be taken one by one.

    The parts of weight_norm have rows of their own. Those of spectral_norm are divided by what all of them
    make together; of others it is not known.
    """
    new = _NEW.fullmatch(name)
    return new["part"] == "original" if new else name.endswith("_orig")


def why_not_alike(
    source: Mapping[str, str], unused: Set[str], model: Mapping[str, str], unfilled: Set[str]
) -> Iterator[tuple[str, str]]:
    """Find the weights that one side has whole and the other in parts, or in other parts.

    Parameters
    ----------
    source, model : mapping of str to str
        The names on each side, by what both sides have in common.
    unused, unfilled : set of str
        What is not paired, on each side.

    Yields
    ------
    str, str
        The weight, and what to do.
    """
    theirs, ours = find_parametrized(source), find_parametrized(model)
    for plain, made in ours.items():
        if unfilled.isdisjoint(made.parts.values()):
            continue
        says = f"the model has it in parts ({made.named(model)})"
        if plain in unused:
            do = f"take these away ({made.remove}), load, and make them again"
            yield plain, f"{says}, the checkpoint whole ({source[plain]}): {do}"
        elif plain in theirs and not unused.isdisjoint(theirs[plain].parts.values()):
            same = theirs[plain].parts.keys() & made.parts.keys() if theirs[plain].how == made.how else ()
            rename = {source[theirs[plain].parts[part]]: model[made.parts[part]] for part in sorted(same)}
            do = f"rename={rename}" if rename else "do to the model what was done to the network it is from"
            yield plain, f"{says}, the checkpoint in others ({theirs[plain].named(source)}): {do}"
    for plain, made in theirs.items():
        if plain in unfilled and not unused.isdisjoint(made.parts.values()):
            do = f"make these in the model, load, and take them away again ({made.remove})"
            yield plain, f"the checkpoint has it in parts ({made.named(source)}), the model whole: {do}"
