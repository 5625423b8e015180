"""What goes into the network: how many channels, in which range of values, of which voxel size.

Only the first layer sees the input, so only its weight and bias are changed: for another number of input
channels, and so that a network that was trained on one range of values computes the same from another.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from attrs import Factory, frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidInput, InvalidOption
from cosemzoo.loading.account import Shape
from cosemzoo.loading.dtypes import why_not_convertible
from cosemzoo.loading.expected import Folding, voxel_differences
from cosemzoo.loading.mixing import IN_CHANNELS, InChannels, Mixed, Mixing, mix_channels
from cosemzoo.loading.pairing import TargetTensor, module_of
from cosemzoo.manifest import Manifest

_ADVICE: Final = "; scale the data instead"


@frozen(kw_only=True)
class FirstLayer:
    """The layer of a model that its input goes to.

    Attributes
    ----------
    path : str
        Its module.
    weight : str or None
        The name of its weight, whose axis 1 is that of the input channels; None where it has no such.
    groups : int
        In how many groups it sees its input channels: each row sees those of one.
    why_not_plain : str
        Why it has no such weight.
    why_not_exact : tuple of str
        Why it could not take another range of the input and compute the same.
    """

    path: str
    weight: str | None
    groups: int = 1
    why_not_plain: str = ""
    why_not_exact: tuple[str, ...] = ()


@frozen(kw_only=True)
class Inputs:
    """What the caller says about the model's input.

    Attributes
    ----------
    in_channels : {"error", "repeat", "mean", "first", "keep"}
        What to do where the number of input channels differs.
    input_channels : sequence of str or None
        What each of the model's input channels is.
    input_range : (float, float) or None
        The smallest and the largest value that the model will be given.
    voxel_size : (float, float, float), float or None
        Of what the model will be given, in nm, z y x.
    first_layer : FirstLayer or None
        None where it is not known: nothing can be adapted.
    """

    in_channels: InChannels = "error"
    input_channels: Sequence[str] | None = None
    input_range: tuple[float, float] | None = None
    voxel_size: "tuple[float, float, float] | float | None" = None
    first_layer: FirstLayer | None = None


@frozen
class DerivedTensor:
    """A tensor that is computed from stored ones, and then copied like one of them.

    Attributes
    ----------
    name : str
        What copies call it.
    source : str
        The stored tensor: a weight, or a bias.
    shape : tuple of int
    mixing : tuple of tuple of float
        For a weight: how its input channels (axis 1) are made from the stored ones. For a bias: the same of
        its layer's weight, for the sum that is added.
    target : str
        The model's tensor that it goes to.
    weight : str or None
        For a bias: the stored weight of its layer.
    offset : float
        For a bias: what the sum of the layer's weights is multiplied by before it is added.
    """

    name: str
    source: str
    shape: Shape
    mixing: Mixing
    target: str
    weight: str | None = None
    offset: float = 0.0


@frozen
class InputPlan:
    """What becomes of the first layer.

    Attributes
    ----------
    derived : mapping of str to DerivedTensor
        By the name of the model's tensor.
    columns : tuple of int or None
        The input channels of the model that are filled; None for all.
    reason : str
        What is done, for the report.
    mixes : bool
        Whether input channels are others than the checkpoint's, or in another order.
    differences : tuple of str
        What the caller says and the checkpoint says otherwise.
    problem : str
        Why the load must not go on as it is.
    """

    derived: Mapping[str, DerivedTensor] = Factory(dict)
    columns: tuple[int, ...] | None = None
    reason: str = ""
    mixes: bool = False
    differences: tuple[str, ...] = ()
    problem: str = ""


def plan_inputs(
    inputs: Inputs,
    targets: Sequence[TargetTensor],
    sources: Mapping[str, Sequence[str]],
    weights: WeightsTable,
    manifest: Manifest | None,
) -> InputPlan:
    """Plan what becomes of the first layer.

    Parameters
    ----------
    inputs : Inputs
    targets : sequence of TargetTensor
        The tensors of the model's backbone.
    sources : mapping of str to sequence of str
        The stored names for each of them.
    weights : WeightsTable
    manifest : Manifest or None

    Raises
    ------
    InvalidOption
        If `in_channels`, `input_range` or `voxel_size` cannot be meant.
    InvalidInput
        With every reason why what the caller asks for cannot be done, or not exactly.
    """
    if not isinstance(inputs.in_channels, str) or inputs.in_channels not in IN_CHANNELS:
        raise InvalidOption("in_channels", inputs.in_channels, f"one of {', '.join(map(repr, IN_CHANNELS))}")
    differences = tuple(voxel_differences(inputs.voxel_size, manifest))
    folding = Folding.of(inputs.input_range, manifest)
    layer = _Weights.of(inputs.first_layer, targets, sources, weights)
    if layer is None:
        problem = _not_adapted(inputs, targets, sources, weights)
        if folding is not None:
            raise InvalidInput([f"{folding} cannot be folded in: {_no_layer(inputs.first_layer)}{_ADVICE}"])
        return InputPlan(differences=differences, problem=problem)
    mixed = _mixed(inputs, layer, manifest)
    if mixed.mixing is None or (folding is None and not mixed.how):
        problem = mixed.problem and f"{layer.weight.name}, the first layer, {mixed.problem}"
        if folding is not None and not problem:
            problem = f"{layer.weight.name}, the first layer, is not loaded: {folding} has no place to go"
        return InputPlan(differences=differences, problem=problem)
    said = [mixed.how] if mixed.how else []
    scale, derived = 1.0, {}
    if folding is not None:
        scale = folding.scale
        said.append(str(folding))
        differences = (*differences, folding.difference)
        bias = layer.folded_bias(mixed.mixing, folding)
        derived[bias.target] = bias
    weight = layer.weight
    scaled = tuple(tuple(scale * part for part in row) for row in mixed.mixing)
    derived[weight.name] = DerivedTensor(
        _name(layer.source), layer.source, weight.shape, scaled, target=weight.name
    )
    return InputPlan(derived, mixed.filled, "; ".join(said), bool(mixed.how), differences)


@frozen
class _Weights:
    """The tensors of the first layer, where the checkpoint has its weight in a shape that can be adapted."""

    layer: FirstLayer
    weight: TargetTensor
    source: str
    source_shape: Shape
    bias: TargetTensor | None
    bias_source: str | None

    @classmethod
    def of(
        cls,
        layer: FirstLayer | None,
        targets: Sequence[TargetTensor],
        sources: Mapping[str, Sequence[str]],
        weights: WeightsTable,
    ) -> "_Weights | None":
        weight = next((t for t in targets if layer and layer.weight in t.names), None)
        if layer is None or weight is None or not sources[weight.name]:
            return None
        source = sources[weight.name][0]
        entry = weights.tensors[source].entry
        shape, wanted = entry.shape, weight.shape
        same = len(shape) == len(wanted) and (shape[:1], shape[2:]) == (wanted[:1], wanted[2:])
        if not same or why_not_convertible(entry.dtype, weight.dtype):
            return None
        beside = f"{module_of(layer.weight or '')}.bias".removeprefix(".")
        bias = next((t for t in targets if beside in t.names), None)
        stored = next(iter(sources[bias.name]), None) if bias else None
        if stored is not None and bias is not None:
            entry = weights.tensors[stored].entry
            if entry.shape != bias.shape or why_not_convertible(entry.dtype, bias.dtype):
                stored = None
        return cls(layer, weight, source, shape, bias, stored)

    def folded_bias(self, mixing: Mixing, folding: "Folding") -> DerivedTensor:
        problems = list(self.layer.why_not_exact)
        if self.bias is None or self.bias_source is None:
            where = "the model" if self.bias is None else "the checkpoint"
            problems.append(f"it has no bias in {where} that could take the shift")
        if problems or self.bias is None or self.bias_source is None:
            asked = f"{folding} cannot be folded into {self.weight.name} exactly"
            raise InvalidInput([f"{asked}: {problem}{_ADVICE}" for problem in problems])
        return DerivedTensor(
            _name(self.bias_source),
            self.bias_source,
            self.bias.shape,
            mixing,
            target=self.bias.name,
            weight=self.source,
            offset=folding.shift,
        )


def _mixed(inputs: Inputs, layer: _Weights, manifest: Manifest | None) -> Mixed:
    counts = layer.source_shape[1], layer.weight.shape[1]
    names = manifest.input_channels if manifest else None
    if layer.layer.groups == 1:
        return mix_channels(inputs.in_channels, (names, inputs.input_channels), counts)
    if counts[0] == counts[1]:
        # In which groups the checkpoint's rows see them is not known: the names of tensors decide, as always.
        return mix_channels(inputs.in_channels, (None, None), counts)
    if inputs.in_channels == "keep":
        return Mixed(None)
    problem = (
        f"sees {counts[0]} input channels in the checkpoint and {counts[1]} in the model, in groups of them"
    )
    return Mixed(None, problem=f"{problem}: it cannot be adapted; say in_channels='keep'")


def _no_layer(layer: FirstLayer | None) -> str:
    if layer is None:
        return "the model has no layer with weights"
    if layer.why_not_plain:
        return f"the first layer, {layer.path}, cannot take it ({layer.why_not_plain})"
    return f"the first layer, {layer.path}, is not loaded, or is the head"


def _not_adapted(
    inputs: Inputs,
    targets: Sequence[TargetTensor],
    sources: Mapping[str, Sequence[str]],
    weights: WeightsTable,
) -> str:
    """Say that what the caller asked for is not done, where a tensor is kept that it may be meant for."""
    if inputs.in_channels in ("error", "keep"):
        return ""
    for target in targets:
        for source in sources[target.name][:1]:
            shape = weights.tensors[source].entry.shape
            if len(shape) == len(target.shape) > 1 and shape[1] != target.shape[1]:
                asked = f"in_channels={inputs.in_channels!r} adapts the first layer only"
                kept = f"{target.name} is {list(target.shape)}, and {list(shape)} in the checkpoint"
                return f"{asked}; {kept}: {_no_layer(inputs.first_layer)}; say in_channels='keep'"
    return ""


def _name(stored: str) -> str:
    return f"{stored} (adapted)"
