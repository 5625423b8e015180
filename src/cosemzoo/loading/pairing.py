"""Which tensor of the checkpoint belongs to which of the model: by name, translated where that helps."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from attrs import evolve, frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import AliasConflict
from cosemzoo.loading.account import PrefixChange, Shape
from cosemzoo.loading.layouts import (
    AS_IS,
    Layout,
    common_prefixes,
    detect_layout,
    find_layout,
    has_inner_wrappers,
    without_inner_wrappers,
    wrapper_prefix,
)


class TargetTensor(NamedTuple):
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


class GroupedTensor(TargetTensor):
    """A grouped convolution's weight: its rows are in groups, and each group sees inputs of its own.

    Attributes
    ----------
    groups : int
    """

    groups: int

    @classmethod
    def of(cls, target: TargetTensor, groups: int) -> "GroupedTensor":
        """Give the same tensor, with its number of groups."""
        made = cls(*target)
        made.groups = groups
        return made


@frozen
class Scheme:
    """How one side names its tensors: a wrapper's prefix, then a layout.

    Attributes
    ----------
    wrapper : str
        What stands before every name.
    layout : Layout
    inner : bool
        Whether wrappers of inner modules are left out of the names as well.
    """

    wrapper: str
    layout: Layout
    inner: bool = False

    def key(self, name: str) -> str:
        """Give what this name has in common with the names of the same tensor elsewhere."""
        bare = name.removeprefix(self.wrapper)
        return self.layout.canonical(without_inner_wrappers(bare) if self.inner else bare)

    def keys(self, names: Sequence[str]) -> Iterable[str]:
        """Give the keys of many names."""
        same = not self.wrapper and not self.inner and self.layout is AS_IS
        return names if same else map(self.key, names)


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
    changes : tuple of PrefixChange
        What names were changed by besides.
    """

    names: Mapping[str, tuple[str, ...]]
    source: Scheme
    model: Scheme
    origin: Scheme
    changes: tuple[PrefixChange, ...] = ()


def pair_by_name(
    targets: Sequence[TargetTensor], source_names: Sequence[str], declared: str | None
) -> Pairing:
    """Pair the tensors of a model with those of a checkpoint.

    Names are compared as they are, and translated from the checkpoint's layout to the model's; the
    translation is used where it pairs more tensors, or as many and leaves fewer of the file's unused. What
    stands before every name of one side, such as ``net.``, is left out where that pairs more.

    Parameters
    ----------
    targets : sequence of TargetTensor
    source_names : sequence of str
        Every name in the file, aliases included.
    declared : str or None
        The layout that the manifest declares; None or an unknown one is detected.
    """
    model_names = list(chain.from_iterable([(name, *aliases) for name, aliases, _, _ in targets]))
    origin = recognise(source_names, declared)
    plain = Scheme(wrapper_prefix(source_names), AS_IS), Scheme(wrapper_prefix(model_names), AS_IS)
    as_is = _pair(targets, source_names, plain, origin)
    if _fit(as_is) == (len(targets), len(source_names)):
        return as_is
    own = recognise(model_names)
    # What a manifest declares can be wrong; what names tell as well.
    origins = dict.fromkeys((origin, recognise(source_names)))
    found = [as_is, *(_pair(targets, source_names, (one, own), one) for one in origins)]
    sources, models = (_plain_schemes(names) for names in (source_names, model_names))
    # Not both: another prefix on each side is no wrapper.
    wrapped = [(source, models[0]) for source in sources] + [(sources[0], model) for model in models[1:]]
    found += [_pair(targets, source_names, schemes, origin) for schemes in wrapped if schemes != plain]
    best = max(found, key=_fit)
    wrappers = best.source.wrapper, best.model.wrapper
    changed = (PrefixChange(*wrappers, "wrapper"),) if wrappers[0] != wrappers[1] else ()
    return evolve(best, changes=changed)


def recognise(names: Sequence[str], declared: str | None = None) -> Scheme:
    """Recognise how names are made: the shortest prefix before all of them that leaves a known layout.

    A layout that is declared is taken for granted, if it is known.
    """
    wrapper, inner = wrapper_prefix(names), has_inner_wrappers(names)
    layout = find_layout(declared)
    if layout is not None:
        return Scheme(wrapper, layout, inner)
    for prefix in (wrapper, *common_prefixes(names)):
        layout = detect_layout([name.removeprefix(prefix) for name in names])
        if layout is not AS_IS:
            return Scheme(prefix, layout, inner)
    return Scheme(wrapper, AS_IS, inner)


def _plain_schemes(names: Sequence[str]) -> list[Scheme]:
    inner = has_inner_wrappers(names)
    prefixes = dict.fromkeys((wrapper_prefix(names), *common_prefixes(names)))
    return [Scheme(prefix, AS_IS, inner) for prefix in prefixes]


def _fit(pairing: Pairing) -> tuple[int, int]:
    found = pairing.names.values()
    return sum(map(bool, found)), len(set(chain.from_iterable(found)))


def _pair(
    targets: Sequence[TargetTensor],
    source_names: Sequence[str],
    schemes: tuple[Scheme, Scheme],
    origin: Scheme,
) -> Pairing:
    source, model = schemes
    by_key = names_by_key(source_names, source)
    first = [target.name for target in targets]
    keys = model.keys(first)
    names = {name: tuple(by_key.get(key, ())) for name, key in zip(first, keys, strict=True)}
    paired = zip(targets, names.values(), strict=True)
    for target in [one for one, found in paired if one.aliases or len(found) > 1]:
        own = target.names
        several = {name for key in model.keys(own) for name in by_key.get(key, ())}
        # The order must not depend on that of the names in the file: the same inputs give the same plan.
        names[target.name] = tuple(sorted(several, key=lambda name: (name not in own, name)))
    return Pairing(names, source, model, origin)


def names_by_key(names: Sequence[str], scheme: Scheme) -> Mapping[str, Sequence[str]]:
    """Group names that are one tensor: those with the same key."""
    keys = scheme.keys(names)
    if keys is names:
        return {name: (name,) for name in names}
    groups: dict[str, list[str]] = {}
    for name, key in zip(names, keys, strict=True):
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
    for group in [group for group in groups if len(group) > 1]:
        for other in group[1:]:
            first, entry = group[0], weights.tensors[group[0]].entry
            found = weights.tensors[other].entry
            if (found.dtype, found.shape) != (entry.dtype, entry.shape):
                what = f"{entry.dtype} {list(entry.shape)} and {found.dtype} {list(found.shape)}"
                conflicts.append((first, other, what))
    if conflicts:
        raise AliasConflict(", ".join(weights.files), conflicts)


def module_of(name: str) -> str:
    """Give the module of a tensor's name: ``head`` for ``head.weight``, empty for the root's own.

    What a parametrized weight is computed from, ``head.parametrizations.weight.original0``, is the module's.
    """
    if "parametrizations." not in name:
        return name.rpartition(".")[0]
    module, inner, _ = f".{name}".partition(".parametrizations.")
    return module[1:] if inner else name.rpartition(".")[0]


def leaf_of(name: str) -> str:
    """Give what a tensor is called in its module: ``weight`` for ``head.weight``."""
    module = module_of(name)
    return name[len(module) + 1 :] if module else name
