"""Which tensor of the checkpoint belongs to which of the model: by name, translated where that helps."""

from collections.abc import Mapping, Sequence

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


@frozen
class Pairing:
    """The result: for each tensor of the model, the checkpoint's tensors that hold its values.

    Attributes
    ----------
    sources : mapping of str to tuple of str
        By the first name of the model's tensor. More than one source means that the file stores the tensor
        under several names, which must hold the same values; the first is read. Empty where there is none.
    source, model : Scheme
        How each side was read.
    """

    sources: Mapping[str, tuple[str, ...]]
    source: Scheme
    model: Scheme


def pair_tensors(targets: Sequence[TargetTensor], weights: WeightsTable, declared: str | None) -> Pairing:
    """Pair the tensors of a model with those of a checkpoint.

    Names are compared as they are, and translated from the checkpoint's layout to the model's; the
    translation is used where it pairs more tensors.

    Parameters
    ----------
    targets : sequence of TargetTensor
    weights : WeightsTable
    declared : str or None
        The layout that the manifest declares; None or an unknown one is detected.

    Raises
    ------
    AliasConflict
        If names of one tensor have different shapes or dtypes in the file.
    """
    model_names = [name for target in targets for name in target.names]
    source_names = [*weights.tensors, *weights.aliases]
    model_wrapper, source_wrapper = wrapper_prefix(model_names), wrapper_prefix(source_names)
    source_layout = find_layout(declared) or detect_layout(
        name.removeprefix(source_wrapper) for name in source_names
    )
    model_layout = detect_layout(name.removeprefix(model_wrapper) for name in model_names)
    as_is = _pair(targets, weights, Scheme(source_wrapper, AS_IS), Scheme(model_wrapper, AS_IS))
    translated = _pair(
        targets, weights, Scheme(source_wrapper, source_layout), Scheme(model_wrapper, model_layout)
    )
    best = max(as_is, translated, key=lambda pairing: sum(map(bool, pairing.sources.values())))
    _check_same_type(best, weights)
    return best


def _pair(targets: Sequence[TargetTensor], weights: WeightsTable, source: Scheme, model: Scheme) -> Pairing:
    stored: dict[str, list[str]] = {}
    for name in weights.tensors:
        stored.setdefault(source.key(name), []).append(name)
    for alias, name in weights.aliases.items():
        stored.setdefault(source.key(alias), []).append(name)
    sources = {}
    for target in targets:
        found = dict.fromkeys(name for key in map(model.key, target.names) for name in stored.get(key, ()))
        # The order must not depend on the order of names in the file: the same inputs give the same plan.
        sources[target.name] = tuple(sorted(found, key=lambda name: (name not in target.names, name)))
    return Pairing(sources, source, model)


def _check_same_type(pairing: Pairing, weights: WeightsTable) -> None:
    conflicts = []
    for first, *others in filter(None, pairing.sources.values()):
        entry = weights.tensors[first].entry
        for other in others:
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
