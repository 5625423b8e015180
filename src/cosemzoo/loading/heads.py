"""The model's heads: tensors with one slice per channel, and the checkpoint's channels for them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from attrs import field, frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidHead, did_you_mean
from cosemzoo.loading.layouts import detect_layout
from cosemzoo.loading.pairing import Pairing, TargetTensor, leaf_of, module_of
from cosemzoo.manifest import Manifest

#: What a caller may give as `head`: the module that is the model's head; where the checkpoint has several
#: heads, the modules in their order, or a mapping of the checkpoint's modules to the model's.
HeadNames: TypeAlias = "str | Sequence[str] | Mapping[str, str] | None"


@frozen
class HeadTensorPair:
    """One tensor of a head and the checkpoint's tensors that belong to it (none where it has none)."""

    target: TargetTensor
    sources: tuple[str, ...]
    axis: int


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
    """

    module: str
    pairs: tuple[HeadTensorPair, ...]
    rows: int
    source_channels: range


@frozen
class _SourceHead:
    module: str
    channels: range
    axes: dict[str, int] = field(factory=dict)  # by the last part of the tensor's name
    stored: dict[str, list[str]] = field(factory=dict)  # likewise


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

    Raises
    ------
    InvalidHead
        If `head` names what is not there, or the rows of one head's tensors differ.
    """
    sources = _source_heads(manifest, weights) if manifest else []
    if head is None:
        found = [_head(source, _pairs_by_name(source, targets, pairing)) for source in sources]
    else:
        found = [
            _head(source, _pairs_in_module(source, module, targets, pairing))
            for source, module in _assign(head, sources, targets, pairing)
        ]
    return tuple(head for head in found if head is not None)


def _source_heads(manifest: Manifest, weights: WeightsTable) -> list[_SourceHead]:
    layout = detect_layout([*weights.tensors, *weights.aliases])
    heads: dict[tuple[str, int], _SourceHead] = {}
    for tensor in manifest.head:
        stored = weights.aliases.get(tensor.name, tensor.name)
        # A file may store one head under two names: they are one head.
        key = module_of(layout.canonical(tensor.name)), tensor.first_channel
        if key not in heads:
            rows = weights.tensors[stored].entry.shape[tensor.channel_axis]
            channels = range(tensor.first_channel, tensor.first_channel + rows)
            heads[key] = _SourceHead(module_of(tensor.name), channels)
        leaf = leaf_of(tensor.name)
        heads[key].axes[leaf] = tensor.channel_axis
        names = heads[key].stored.setdefault(leaf, [])
        if stored not in names:
            names.append(stored)
    return list(heads.values())


def _pairs_by_name(
    source: _SourceHead, targets: Sequence[TargetTensor], pairing: Pairing
) -> list[HeadTensorPair]:
    axis_of = {name: source.axes[leaf] for leaf, names in source.stored.items() for name in names}
    return [
        HeadTensorPair(target, pairing.sources[target.name], axis_of[name])
        for target in targets
        for name in pairing.sources[target.name][:1]
        if name in axis_of
    ]


def _pairs_in_module(
    source: _SourceHead | None, module: str, targets: Sequence[TargetTensor], pairing: Pairing
) -> list[HeadTensorPair]:
    pairs = []
    for target in targets:
        leaf = next((leaf_of(name) for name in target.names if _in_module(name, module)), None)
        if leaf is None:
            continue
        if source is None:
            pairs.append(HeadTensorPair(target, pairing.sources[target.name], 0))
        else:
            stored = tuple(sorted(source.stored.get(leaf, ())))
            pairs.append(HeadTensorPair(target, stored, source.axes.get(leaf, 0)))
    return pairs


def _in_module(name: str, module: str) -> bool:
    return module in (module_of(name), name)


def _assign(
    head: HeadNames, sources: list[_SourceHead], targets: Sequence[TargetTensor], pairing: Pairing
) -> Iterator[tuple[_SourceHead | None, str]]:
    """Give, for each module that the caller names, the checkpoint's head that belongs to it."""
    by_module = {source.module: source for source in sources}
    problems: list[str] = []
    named: list[tuple[_SourceHead | None, str]] = []
    if isinstance(head, Mapping):
        for unknown in head.keys() - by_module.keys():
            has = ", ".join(by_module) or "none"
            problems.append(f"the checkpoint has no head {unknown!r}; it has: {has}")
        named = [(by_module.get(module), target) for module, target in head.items()]
    else:
        modules = [head] if isinstance(head, str) else list(head or ())
        if sources and len(modules) != len(sources):
            problems.append(
                f"head names {len(modules)} modules, the checkpoint has {len(sources)} heads "
                f"({', '.join(by_module)}): map them, head={{checkpoint's: model's}}"
            )
        named = [(sources[i] if i < len(sources) else None, module) for i, module in enumerate(modules)]
    wrapper = pairing.model.wrapper
    known = {module_of(name): None for target in targets for name in target.names}
    known |= {name: None for target in targets for name in target.names}
    resolved = []
    for source, module in named:
        found = next((m for m in (module, wrapper + module) if m in known), None)
        if found is None:
            near = did_you_mean(module, known)
            problems.append(f"the model has no module {module!r} with tensors of its own.{near}")
        resolved.append((source, found or ""))
    if problems:
        raise InvalidHead(problems)
    yield from resolved


def _head(source: _SourceHead | None, pairs: Sequence[HeadTensorPair]) -> Head | None:
    if not pairs:
        return None
    module = module_of(pairs[0].target.name)
    telling = [pair for pair in pairs if pair.sources] or pairs
    counts = {_rows(pair) for pair in telling}
    if len(counts) != 1 or None in counts:
        shapes = ", ".join(f"{pair.target.name} {list(pair.target.shape)}" for pair in telling)
        raise InvalidHead(
            [f"the tensors of {module or 'the head'} do not have one row per channel: {shapes}"]
        )
    rows = counts.pop() or 0
    # What else the module holds, such as a running statistic's counter, is no part of the head.
    fitting = tuple(pair for pair in pairs if _rows(pair) == rows)
    return Head(module, fitting, rows, source.channels if source else range(0))


def _rows(pair: HeadTensorPair) -> int | None:
    return pair.target.shape[pair.axis] if pair.axis < len(pair.target.shape) else None
