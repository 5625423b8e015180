"""The model's heads: tensors with one slice per channel, and the checkpoint's channels for them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import field, frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidHead, UnsupportedModel, did_you_mean
from cosemzoo.loading.pairing import (
    GroupedTensor,
    Pairing,
    TargetTensor,
    leaf_of,
    module_of,
    names_by_key,
    stored_names,
)
from cosemzoo.loading.parametrized import why_not_alike
from cosemzoo.manifest import Manifest

#: What a caller may give as `head`: the module that is the model's head; where the checkpoint has several
#: heads, the modules in their order, or a mapping of the checkpoint's modules to the model's: the others are
#: found by name.
HeadNames: TypeAlias = "str | Sequence[str] | Mapping[str, str] | None"


@frozen
class HeadTensorPair:
    """One tensor of a head and the checkpoint's tensors that belong to it (none where it has none).

    Attributes
    ----------
    target : TargetTensor
    sources : tuple of str
    axis : int
        Along which its channels are.
    tied : tuple of str
        Those of its names that are no head's, such as an embedding's.
    """

    target: TargetTensor
    sources: tuple[str, ...]
    axis: int
    tied: tuple[str, ...] = ()


@frozen
class Head:
    """One head of the model.

    Attributes
    ----------
    module : str
        Its module in the model.
    pairs : tuple of HeadTensorPair
    rows : int
        How many rows it has in the model.
    source_channels : range
        Indices of the checkpoint's channels of this head; empty where they are unknown.
    source_names : frozenset of str
        Every name in the file of the checkpoint's head that it takes its rows from.
    problem : str
        Why it has no rows: its tensors do not have one per channel.
    groups : int
        In how many groups its rows are, each of which sees inputs of its own.
    """

    module: str
    pairs: tuple[HeadTensorPair, ...]
    rows: int
    source_channels: range
    source_names: frozenset[str]
    problem: str = ""
    groups: int = 1


@frozen
class _SourceHead:
    module: str
    channels: range
    axes: dict[str, int] = field(factory=dict)  # by every name in the file


def find_heads(
    targets: Sequence[TargetTensor],
    weights: WeightsTable,
    manifest: Manifest | None,
    pairing: Pairing,
    head: HeadNames,
) -> tuple[Head, ...]:
    """Find the heads that the manifest names, through the layout, or that the caller names.

    Parameters
    ----------
    targets : sequence of TargetTensor
    weights : WeightsTable
    manifest : Manifest or None
        Without one the channels are unknown, and a head is only what the caller names.
    pairing : Pairing
    head : HeadNames

    Returns
    -------
    tuple of Head
        In the order of the model's state dict; no tensor is in two of them.

    Raises
    ------
    InvalidHead
        If `head` names what is not there, or twice the same, or what has not one row per channel.
    UnsupportedModel
        If `head` names a module that has its weight in parts where the checkpoint has it whole, or the other
        way round.
    """
    sources = _source_heads(manifest, weights, pairing) if manifest else []
    assigned = _assign(head, sources)
    if not assigned:
        return ()
    tensors = _named_tensors([module for _, module in assigned if module is not None], targets, pairing)
    named = {target.name for members in tensors.values() for target in members}
    free = [target for target in targets if target.name not in named]
    heads = []
    for source, module in assigned:
        if module is None:
            pairs = _pairs_by_name(source, free, weights, pairing)
        else:
            pairs = _pairs_in_module(source, module, tensors[module], weights, pairing)
        taken = {pair.target.name for pair in pairs}
        free = [target for target in free if target.name not in taken]
        if pairs:
            heads.append(_head(source, pairs))
    problems = [one.problem for one in heads if one.problem]
    if problems and head is not None:
        raise InvalidHead(problems)
    order = {target.name: place for place, target in enumerate(targets)}
    return tuple(sorted(heads, key=lambda one: min(order[pair.target.name] for pair in one.pairs)))


def _source_heads(manifest: Manifest, weights: WeightsTable, pairing: Pairing) -> list[_SourceHead]:
    # A file may hold one head under two names: they are one head.
    names_of = names_by_key([*weights.tensors, *weights.aliases], pairing.origin)
    heads: dict[tuple[str, int], _SourceHead] = {}
    for tensor in manifest.head:
        key = pairing.origin.key(tensor.name)
        head_key = module_of(key), tensor.first_channel
        if head_key not in heads:
            stored = weights.aliases.get(tensor.name, tensor.name)
            rows = weights.tensors[stored].entry.shape[tensor.channel_axis]
            channels = range(tensor.first_channel, tensor.first_channel + rows)
            heads[head_key] = _SourceHead(module_of(tensor.name), channels)
        heads[head_key].axes.update(dict.fromkeys(sorted(names_of[key]), tensor.channel_axis))
    for (module, _), source in heads.items():
        _complete(source, module, names_of, weights)
    return list(heads.values())


def _complete(
    source: _SourceHead, module: str, names_of: Mapping[str, Sequence[str]], weights: WeightsTable
) -> None:
    """Add the bias of a weight, or the weight of a bias, that the manifest does not list.

    Its rows are the same channels: left out, they would be copied by position beside rows that go by label.
    """
    # Of a parametrized weight its parts are listed.
    listed = {leaf.removeprefix("parametrizations.").partition(".")[0] for leaf in map(leaf_of, source.axes)}
    for leaf in {"weight", "bias"} - listed if listed <= {"weight", "bias"} else ():
        names = sorted(names_of.get(f"{module}.{leaf}", ()))
        for name in names[:1]:
            shape = weights.tensors[weights.aliases.get(name, name)].entry.shape
            if shape.count(len(source.channels)) > 1:
                problem = (
                    f"{name} {list(shape)} belongs to the head, but the manifest does not say which axis"
                )
                raise InvalidHead([f"{problem} counts its channels: ask the run's maintainers to amend it"])
            if len(source.channels) in shape:
                source.axes.update(dict.fromkeys(names, shape.index(len(source.channels))))


def _assign(head: Any, sources: Sequence[_SourceHead]) -> list[tuple[_SourceHead | None, str | None]]:
    """Give every head of the checkpoint, and the module that the caller names for it (None: none)."""
    if head is None:
        return [(source, None) for source in sources]
    has = ", ".join(source.module for source in sources) or "none"
    if isinstance(head, Mapping):
        given: dict[str, str] = {}
        for old, new in head.items():
            meant = next((s for s in sources if old in map(module_of, s.axes)), None)
            if meant is None:
                raise InvalidHead([f"the checkpoint has no head {old!r}; it has: {has}"])
            if given.setdefault(meant.module, new) != new:
                raise InvalidHead([f"{old!r} is another name of the checkpoint's head {meant.module!r}"])
        _check_names(given.values())
        return [(source, given.get(source.module)) for source in sources]
    modules = [head] if isinstance(head, str) else list(head) if isinstance(head, Iterable) else [head]
    _check_names(modules)
    if not sources:
        return [(None, module) for module in modules]
    if len(modules) != len(sources):
        problem = f"head names {len(modules)} of the checkpoint's {len(sources)} heads ({has})"
        raise InvalidHead([f"{problem}: map them, head={{checkpoint's: model's}}"])
    return list(zip(sources, modules, strict=True))


def _check_names(modules: Iterable[Any]) -> None:
    problems = [
        f"head has a {type(module).__name__}, not the name of a module"
        for module in modules
        if not isinstance(module, str)
    ]
    if problems:
        raise InvalidHead(problems)


def _named_tensors(
    modules: Sequence[str], targets: Sequence[TargetTensor], pairing: Pairing
) -> dict[str, list[TargetTensor]]:
    """Find the tensors of each module that the caller names."""
    problems = [f"{module!r} is named for two heads" for module in {*modules} if modules.count(module) > 1]
    tensors: dict[str, list[TargetTensor]] = {}
    holders: dict[str, str] = {}
    for module in dict.fromkeys(modules):
        paths = {module, pairing.model.wrapper + module}
        tensors[module] = [t for t in targets if any(_in_one_of(paths, name) for name in t.names)]
        if not tensors[module]:
            known = dict.fromkeys(module_of(name) for target in targets for name in target.names)
            near = did_you_mean(module, known)
            problems.append(f"the model has no module {module!r} with tensors of its own.{near}")
        for target in tensors[module]:
            other = holders.setdefault(target.name, module)
            if other != module:
                problems.append(f"{module!r} and {other!r} are the same in the model: {target.name}")
    if problems:
        raise InvalidHead(sorted(problems))
    return tensors


def _in_one_of(paths: set[str], name: str) -> bool:
    # A tensor of the model itself is in no module: its name stands for it.
    return module_of(name) in paths or (not module_of(name) and name in paths)


def _pairs_by_name(
    source: _SourceHead | None, targets: Sequence[TargetTensor], weights: WeightsTable, pairing: Pairing
) -> list[HeadTensorPair]:
    axes = source.axes if source else {}
    return [
        HeadTensorPair(target, stored_names(names, weights), axes[name], _tied(target, axes, pairing))
        for target, names in ((target, pairing.names[target.name]) for target in targets)
        for name in [name for name in names if name in axes][:1]
    ]


def _pairs_in_module(
    source: _SourceHead | None,
    module: str,
    targets: Sequence[TargetTensor],
    weights: WeightsTable,
    pairing: Pairing,
) -> list[HeadTensorPair]:
    if source is None:
        return [HeadTensorPair(t, stored_names(pairing.names[t.name], weights), 0) for t in targets]
    _check_parts(source, targets, weights)
    paths = {module, pairing.model.wrapper + module}
    pairs = []
    for target in targets:
        leaves = set(map(leaf_of, target.names))
        names = [name for name in source.axes if leaf_of(name) in leaves]
        axis = source.axes[names[0]] if names else 0
        tied = tuple(name for name in _tied(target, source.axes, pairing) if module_of(name) not in paths)
        # What the checkpoint has for these must hold the same values.
        keys = set(map(pairing.model.key, tied))
        names += [name for name in pairing.names[target.name] if pairing.source.key(name) in keys]
        pairs.append(HeadTensorPair(target, stored_names(names, weights), axis, tied))
    return pairs


def _tied(target: TargetTensor, axes: Iterable[str], pairing: Pairing) -> tuple[str, ...]:
    if not target.aliases:
        return ()
    keys = set(map(pairing.source.key, axes))
    return tuple(name for name in target.names if pairing.model.key(name) not in keys)


def _check_parts(source: _SourceHead, targets: Sequence[TargetTensor], weights: WeightsTable) -> None:
    """Refuse a head whose bias would be loaded, and its weight not, because one side has that in parts."""
    modules = set(map(module_of, source.axes))
    stored = (name for name in (*weights.tensors, *weights.aliases) if module_of(name) in modules)
    theirs = {leaf_of(name): name for name in stored}
    ours = {leaf_of(name): name for target in targets for name in target.names}
    problems = why_not_alike(theirs, theirs.keys() - ours, ours, ours.keys() - theirs)
    module = module_of(targets[0].name)
    named = [(f"{module}.{leaf}", problem) for leaf, problem in problems]
    if named:
        raise UnsupportedModel(named)


def _head(source: _SourceHead | None, pairs: Sequence[HeadTensorPair]) -> Head:
    module = module_of(pairs[0].target.name)
    channels = source.channels if source else range(0)
    names = frozenset(source.axes) if source else frozenset()
    telling = [pair for pair in pairs if pair.sources] or pairs
    counts = {_rows(pair) for pair in telling}
    rows = counts.pop()
    if counts or rows is None:
        shapes = ", ".join(f"{pair.target.name} {list(pair.target.shape)}" for pair in telling)
        problem = f"the tensors of {module or 'the head'} do not have one row per channel: {shapes}"
        return Head(module, tuple(pairs), 0, channels, names, problem)
    # What else the module holds, such as a running statistic's counter, is no part of the head.
    fitting = tuple(pair for pair in pairs if _rows(pair) == rows)
    groups = max(pair.target.groups if isinstance(pair.target, GroupedTensor) else 1 for pair in fitting)
    return Head(module, fitting, rows, channels, names, groups=groups)


def _rows(pair: HeadTensorPair) -> int | None:
    if pair.axis and isinstance(pair.target, GroupedTensor):
        # A grouped transposed convolution has the rows of all its groups on top of each other.
        return None
    return pair.target.shape[pair.axis] if pair.axis < len(pair.target.shape) else None
