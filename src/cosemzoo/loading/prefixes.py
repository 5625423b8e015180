"""Names of the checkpoint that become the model's by another prefix: as the caller says, or the only one.

A prefix is inferred only where it is the only one under which the model has every tensor of the checkpoint's
backbone in the same shape; of at least two tensors, because one is found under many.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import evolve

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import AmbiguousNames, InvalidRename, UnsupportedModel, did_you_mean
from cosemzoo.loading.account import PrefixChange, Shape
from cosemzoo.loading.layouts import AS_IS, HEAD_PREFIX, common_prefixes
from cosemzoo.loading.pairing import (
    Pairing,
    Scheme,
    TargetTensor,
    module_of,
    names_by_key,
    pair_by_name,
    recognise,
)
from cosemzoo.loading.parametrized import why_not_alike
from cosemzoo.manifest import Manifest

#: What a caller may give as `rename`: the start of names in the checkpoint → of names in the model.
Rename: TypeAlias = "Mapping[str, str] | None"


def pair_tensors(
    targets: Sequence[TargetTensor],
    weights: WeightsTable,
    manifest: Manifest | None,
    *,
    rename: Rename = None,
) -> Pairing:
    """Pair the tensors of a model with those of a checkpoint.

    Parameters
    ----------
    targets : sequence of TargetTensor
    weights : WeightsTable
    manifest : Manifest or None
        Says the layout, and which tensors are a head.
    rename : Rename
        What the caller says; it goes before what names say.

    Raises
    ------
    InvalidRename
        With every rule that cannot be applied.
    AmbiguousNames
        If no name of the backbone is the model's, and several prefixes would make all of them the model's.
    UnsupportedModel
        With every weight that one side has whole and the other in parts.
    """
    source_names = [*weights.tensors, *weights.aliases]
    declared = manifest.layout if manifest else None
    said: dict[str, tuple[str, ...]] = {}
    if rename is not None:
        said = _renamed(source_names, targets, weights, rename, recognise(source_names, declared))
    given = {name for names in said.values() for name in names}
    pairing = pair_by_name(targets, [name for name in source_names if name not in given], declared)
    changes = [PrefixChange(old, new, "rename") for old, new in (rename or {}).items()]
    names = {**pairing.names, **said}
    if not all(names.values()):
        inferred, change = _infer(names, targets, weights, manifest, pairing)
        names |= inferred
        changes += [change] if change else []
        _check_parts(evolve(pairing, names=names), source_names)
    return evolve(pairing, names=names, changes=(*pairing.changes, *changes))


def _infer(
    names: Mapping[str, tuple[str, ...]],
    targets: Sequence[TargetTensor],
    weights: WeightsTable,
    manifest: Manifest | None,
    pairing: Pairing,
) -> tuple[dict[str, tuple[str, ...]], PrefixChange | None]:
    """Pair a backbone of which no tensor is paired yet, if there is one way to."""
    by_key = names_by_key([*weights.tensors, *weights.aliases], pairing.origin)
    backbone = _backbone(by_key, manifest, pairing)
    used = {name for found in names.values() for name in found}
    if any(used.intersection(by_key[key]) for key in backbone):
        return {}, None
    shapes = {key: _shape(by_key[key][0], weights) for key in backbone}
    found = _inferred(shapes, [target for target in targets if not names[target.name]])
    if len(found) > 1:
        candidates = [*found.values()]
        stored = _stored(candidates[0].source, by_key, backbone)
        raise AmbiguousNames(stored, [one.model for one in candidates])
    for paired, change in found.items():
        said = evolve(change, source=_stored(change.source, by_key, backbone))
        return {target: tuple(sorted(by_key[key])) for key, target in paired}, said
    return {}, None


def _stored(prefix: str, by_key: Mapping[str, Sequence[str]], backbone: Sequence[str]) -> str:
    """Give a prefix of keys as the file's own names have it."""
    key = backbone[0]
    return min(by_key[key]).removesuffix(key.removeprefix(prefix))


def _check_parts(pairing: Pairing, source_names: Sequence[str]) -> None:
    """Refuse weights that one side has whole and the other in parts: else these would be left as they are."""
    source = {pairing.source.key(name): name for name in source_names}
    model = {pairing.model.key(name): name for name in pairing.names}
    used = {name for found in pairing.names.values() for name in found}
    unused = {key for key, name in source.items() if name not in used}
    unfilled = {key for key, name in model.items() if not pairing.names[name]}
    problems = list(why_not_alike(source, unused, model, unfilled))
    if problems:
        raise UnsupportedModel(problems)


def _renamed(
    source_names: Sequence[str],
    targets: Sequence[TargetTensor],
    weights: WeightsTable,
    rename: Any,
    origin: Scheme,
) -> dict[str, tuple[str, ...]]:
    """Give the names in the file for the model's tensors that the rules say."""
    texts = [text for pair in rename.items() for text in pair] if isinstance(rename, Mapping) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidRename([f"it is {rename!r}, not a mapping of prefixes: {{'old.': 'new.'}}"])
    owner = {name: target.name for target in targets for name in target.names}
    found: dict[str, list[str]] = {}
    fitting: dict[str, list[str]] = {old: [] for old in rename}
    for name in source_names:
        renamed = {old: _replaced(name, old, new) for old, new in rename.items()}
        rules = [old for old, new in renamed.items() if new is not None]
        if rules:
            # The longest prefix says more than a shorter one.
            new = str(renamed[max(rules, key=len)])
            for old in rules:
                fitting[old].append(new)
            if new in owner:
                found.setdefault(owner[new], []).append(name)
    modules = _modules(source_names)
    problems = [
        f"no name in the checkpoint starts with {old!r}.{did_you_mean(old.rstrip('.'), modules)}"
        for old, names in fitting.items()
        if not names
    ]
    problems += [
        f"{old!r} → {rename[old]!r} leads to no tensor of the model."
        f"{did_you_mean(rename[old].rstrip('.'), _modules(owner))}"
        for old, names in fitting.items()
        if names and owner.keys().isdisjoint(names)
    ]
    by_key = names_by_key(source_names, origin)
    paired = {}
    for target, names in found.items():
        one = {origin.key(weights.aliases.get(name, name)): name for name in names}
        if len(one) > 1:
            problems.append(f"{' and '.join(one.values())} both become {target}")
        # Its other names in the file are the same tensor, whatever they would become.
        others = [name for key in one for name in by_key.get(key, ())]
        paired[target] = tuple(dict.fromkeys((*names, *others)))
    if problems:
        raise InvalidRename(problems)
    return paired


def _modules(names: Iterable[str]) -> set[str]:
    """Give every module that holds one of the names, and every one that holds such a module."""
    return {name[: dot.start()] for name in names for dot in re.finditer(r"\.", name)}


def _replaced(name: str, old: str, new: str) -> str | None:
    """Give the name with another start; None where it does not start so. Prefixes end where a module does."""
    if name == old:
        return new
    start, end = (prefix if not prefix or prefix.endswith(".") else f"{prefix}." for prefix in (old, new))
    return end + name.removeprefix(start) if name.startswith(start) else None


def _backbone(by_key: Mapping[str, Sequence[str]], manifest: Manifest | None, pairing: Pairing) -> list[str]:
    """Give the keys of the checkpoint's tensors that belong to no head."""
    heads = {module_of(pairing.origin.key(tensor.name)) for tensor in (manifest.head if manifest else ())}
    if not heads and pairing.origin.layout is not AS_IS:
        heads = {HEAD_PREFIX.removesuffix(".")}
    return [key for key in by_key if module_of(key) not in heads]


def _shape(name: str, weights: WeightsTable) -> Shape:
    return weights.tensors[weights.aliases.get(name, name)].entry.shape


def _inferred(
    shapes: Mapping[str, Shape], targets: Sequence[TargetTensor]
) -> dict[tuple[tuple[str, str], ...], PrefixChange]:
    """Find every prefix under which the model has all of these tensors in the same shapes.

    Returns
    -------
    dict
        By the pairs of key and model's tensor that it leads to: prefixes of the same tensors are one.
    """
    if len(shapes) < 2:
        return {}
    prefix = ("", *common_prefixes(shapes))[-1]
    own = {name: target for target in targets for name in target.names}
    telling = max(shapes, key=len).removeprefix(prefix)
    found: dict[tuple[tuple[str, str], ...], PrefixChange] = {}
    for name in own:
        if name != telling and not name.endswith(f".{telling}"):
            continue
        start = name.removesuffix(telling)
        paired = [(key, own.get(start + key.removeprefix(prefix))) for key in shapes]
        fitting = [(key, t.name) for key, t in paired if t is not None and t.shape == shapes[key]]
        if len(fitting) == len(shapes):
            found.setdefault(tuple(fitting), PrefixChange(prefix, start, "inferred"))
    return found
