"""Which tensor of the checkpoint belongs to which of the model: by name, translated where that helps."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from attrs import frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import AliasConflict
from cosemzoo.loading.account import Shape
from cosemzoo.loading.layouts import AS_IS, Layout, detect_layout, find_layout, wrapper_prefix


@frozen
class TargetTensor:
    """One tensor of the model, as far as a plan needs to know it.

    Attributes
    ----------
    name : str
        Its first name in the state dict.
    aliases : tuple of str
        Its other names: the same memory, registered more than once.
    shape : tuple of int
    dtype : str
        The safetensors name of its element type, or torch's where that has none.
    """

    name: str
    aliases: tuple[str, ...]
    shape: Shape
    dtype: str

    @property
    def names(self) -> tuple[str, ...]:
        """All its names."""
        return (self.name, *self.aliases)


@frozen
class Scheme:
    """How one side names its tensors: a wrapper's prefix, then a layout."""

    wrapper: str
    layout: Layout

    def key(self, name: str) -> str:
        """Give what this name has in common with the names of the same tensor elsewhere."""
        return self.layout.canonical(name.removeprefix(self.wrapper))

    def keys(self, names: Sequence[str]) -> Iterable[str]:
        """Give the keys of many names."""
        return map(self.key, names) if self.wrapper or self.layout is not AS_IS else names


@frozen
class Pairing:
    """The result: for each tensor of the model, the checkpoint's names that mean the same tensor.

    Attributes
    ----------
    names : mapping of str to tuple of str
        By the first name of the model's tensor: names in the file, aliases included; the first is read, the
        others must hold the same values. Empty where there is none.
    source, model : Scheme
        How each side was read.
    origin : Scheme
        How the checkpoint's code base names its tensors, whether or not names were translated: it tells
        which names in the file are one tensor.
    """

    names: Mapping[str, tuple[str, ...]]
    source: Scheme
    model: Scheme
    origin: Scheme


def pair_tensors(targets: Sequence[TargetTensor], weights: WeightsTable, declared: str | None) -> Pairing:
    """Pair the tensors of a model with those of a checkpoint.

    Names are compared as they are, and translated from the checkpoint's layout to the model's; the
    translation is used where it pairs more tensors, or as many and leaves fewer of the file's unused.

    Parameters
    ----------
    targets : sequence of TargetTensor
    weights : WeightsTable
    declared : str or None
        The layout that the manifest declares; None or an unknown one is detected.
    """
    model_names = [name for target in targets for name in target.names]
    source_names = [*weights.tensors, *weights.aliases]
    model_wrapper, source_wrapper = wrapper_prefix(model_names), wrapper_prefix(source_names)
    source_layout = find_layout(declared) or detect_layout(
        name.removeprefix(source_wrapper) for name in source_names
    )
    origin = Scheme(source_wrapper, source_layout)
    as_is = _pair(targets, source_names, Scheme(source_wrapper, AS_IS), Scheme(model_wrapper, AS_IS), origin)
    if _fit(as_is) == (len(targets), len(source_names)):
        return as_is
    model_layout = detect_layout(name.removeprefix(model_wrapper) for name in model_names)
    translated = _pair(targets, source_names, origin, Scheme(model_wrapper, model_layout), origin)
    return max(as_is, translated, key=_fit)


def _fit(pairing: Pairing) -> tuple[int, int]:
    found = pairing.names.values()
    return sum(map(bool, found)), len({name for names in found for name in names})


def _pair(
    targets: Sequence[TargetTensor],
    source_names: Sequence[str],
    source: Scheme,
    model: Scheme,
    origin: Scheme,
) -> Pairing:
    by_key = names_by_key(source_names, source)
    names = {}
    for target, key in zip(targets, model.keys([target.name for target in targets]), strict=True):
        found: Collection[str] = by_key.get(key, ())
        if target.aliases or len(found) > 1:
            own = target.names
            found = {name for key in model.keys(own) for name in by_key.get(key, ())}
            # The order must not depend on that of the names in the file: the same inputs give the same plan.
            found = sorted(found, key=lambda name: (name not in own, name))
        names[target.name] = tuple(found)
    return Pairing(names, source, model, origin)


def names_by_key(names: Sequence[str], scheme: Scheme) -> dict[str, list[str]]:
    """Group names that are one tensor: those with the same key."""
    groups: dict[str, list[str]] = {}
    for name, key in zip(names, scheme.keys(names), strict=True):
        groups.setdefault(key, []).append(name)
    return groups


def stored_names(names: Iterable[str], weights: WeightsTable) -> tuple[str, ...]:
    """Give the names that tensors are stored under, each once."""
    if not weights.aliases:
        return tuple(names)
    return tuple(dict.fromkeys(weights.aliases.get(name, name) for name in names))


def check_same_type(groups: Iterable[tuple[str, ...]], weights: WeightsTable) -> None:
    """Check that stored tensors that are one tensor in the model have one shape and dtype.

    Raises
    ------
    AliasConflict
        With every contradiction.
    """
    conflicts = []
    for group in groups:
        for other in group[1:]:
            first, entry = group[0], weights.tensors[group[0]].entry
            found = weights.tensors[other].entry
            if (found.dtype, found.shape) != (entry.dtype, entry.shape):
                what = f"{entry.dtype} {list(entry.shape)} and {found.dtype} {list(found.shape)}"
                conflicts.append((first, other, what))
    if conflicts:
        raise AliasConflict(", ".join(weights.files), conflicts)


def module_of(name: str) -> str:
    """Give the module of a tensor's name: ``head`` for ``head.weight``, empty for the root's own."""
    return name.rpartition(".")[0]


def leaf_of(name: str) -> str:
    """Give the last part of a tensor's name: ``weight`` for ``head.weight``."""
    return name.rpartition(".")[2]
