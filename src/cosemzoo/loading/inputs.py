"""What goes into the network: how many channels, in which range of values, of which voxel size.

Only the first layer sees the input, so only its weight and bias are changed: for another number of input
channels, and so that a network that was trained on one range of values computes the same from another.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from attrs import Factory, frozen

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidInput, InvalidOption
from cosemzoo.loading.account import Shape
from cosemzoo.loading.mixing import IN_CHANNELS, InChannels, Mixing, mix_channels
from cosemzoo.loading.pairing import TargetTensor, leaf_of, module_of
from cosemzoo.manifest import Manifest


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
    why_not_exact : mapping of str to str
        By the name of a weight in the model: why an input range cannot be folded into its layer.
    """

    in_channels: InChannels = "error"
    input_channels: Sequence[str] | None = None
    input_range: tuple[float, float] | None = None
    voxel_size: "tuple[float, float, float] | float | None" = None
    why_not_exact: Mapping[str, str] = Factory(dict)


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
    weight : str or None
        For a bias: the stored weight of its layer.
    offset : float
        For a bias: what the sum of the layer's weights is multiplied by before it is added.
    """

    name: str
    source: str
    shape: Shape
    mixing: Mixing
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
    differences : tuple of str
        What the caller says and the checkpoint says otherwise.
    problem : str
        Why the load must not go on as it is.
    """

    derived: Mapping[str, DerivedTensor] = Factory(dict)
    columns: tuple[int, ...] | None = None
    reason: str = ""
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
        The tensors of the model's backbone, in the order of its state dict: the first weight with an axis for
        input channels is the first layer.
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
    _check(inputs)
    differences = tuple(_voxel_differences(inputs, manifest))
    layer = _FirstLayer.find(targets, sources, weights)
    folding = _Folding.of(inputs, manifest)
    if layer is None:
        if folding is not None:
            raise InvalidInput([f"{folding}: the model has no first layer that the checkpoint fills"])
        return InputPlan(differences=differences)
    names = manifest.input_channels if manifest else None
    mixed = mix_channels(
        inputs.in_channels, (names, inputs.input_channels), (layer.source_shape[1], layer.weight.shape[1])
    )
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
        derived[layer.bias_name] = layer.folded_bias(mixed.mixing, folding, inputs.why_not_exact)
    weight = layer.weight
    scaled = tuple(tuple(scale * part for part in row) for row in mixed.mixing)
    derived[weight.name] = DerivedTensor(_name(layer.source), layer.source, weight.shape, scaled)
    return InputPlan(derived, mixed.filled, "; ".join(said), differences)


@frozen
class _FirstLayer:
    weight: TargetTensor
    source: str
    source_shape: Shape
    bias: TargetTensor | None
    bias_source: str | None

    @classmethod
    def find(
        cls, targets: Sequence[TargetTensor], sources: Mapping[str, Sequence[str]], weights: WeightsTable
    ) -> "_FirstLayer | None":
        weight = next((t for t in targets if leaf_of(t.name) == "weight" and len(t.shape) > 1), None)
        if weight is None or not sources[weight.name]:
            return None
        source = sources[weight.name][0]
        shape = weights.tensors[source].entry.shape
        if (shape[:1], shape[2:]) != (weight.shape[:1], weight.shape[2:]) or len(shape) != len(weight.shape):
            return None
        beside = f"{module_of(weight.name)}.bias".removeprefix(".")
        bias = next((t for t in targets if beside in t.names), None)
        stored = next(iter(sources[bias.name]), None) if bias else None
        if stored is not None and bias is not None and weights.tensors[stored].entry.shape != bias.shape:
            stored = None
        return cls(weight, source, shape, bias, stored)

    @property
    def bias_name(self) -> str:
        return self.bias.name if self.bias else ""

    def folded_bias(
        self, mixing: Mixing, folding: "_Folding", why_not_exact: Mapping[str, str]
    ) -> DerivedTensor:
        problems = [why_not_exact[self.weight.name]] if why_not_exact.get(self.weight.name) else []
        if self.bias is None or self.bias_source is None:
            where = "the model" if self.bias is None else "the checkpoint"
            problems.append(f"the first layer has no bias in {where} that could take the shift")
        if problems or self.bias is None or self.bias_source is None:
            asked = f"{folding} cannot be folded into {self.weight.name} exactly"
            raise InvalidInput([f"{asked}: {problem}; scale the data instead" for problem in problems])
        return DerivedTensor(
            _name(self.bias_source), self.bias_source, self.bias.shape, mixing, self.source, folding.shift
        )


@frozen
class _Folding:
    """The network's input is ``scale * given + shift``."""

    expected: tuple[float, float]
    given: tuple[float, float]

    @classmethod
    def of(cls, inputs: Inputs, manifest: Manifest | None) -> "_Folding | None":
        if inputs.input_range is None:
            return None
        expected = manifest.input_range if manifest else None
        if expected is None:
            raise InvalidInput(["the checkpoint does not say which range of values it expects"])
        low, high = inputs.input_range
        given = float(low), float(high)
        return None if given == tuple(expected) else cls((expected[0], expected[1]), given)

    @property
    def scale(self) -> float:
        return (self.expected[1] - self.expected[0]) / (self.given[1] - self.given[0])

    @property
    def shift(self) -> float:
        return self.expected[0] - self.scale * self.given[0]

    @property
    def difference(self) -> str:
        return (
            f"the checkpoint expects values in {_interval(self.expected)}, the model will be given "
            f"{_interval(self.given)}: its first layer is changed so that it computes the same"
        )

    def __str__(self) -> str:
        return f"input range {_interval(self.expected)} → {_interval(self.given)}"


def _voxel_differences(inputs: Inputs, manifest: Manifest | None) -> list[str]:
    expected = manifest.input_voxel_size if manifest else None
    if inputs.voxel_size is None or expected is None or manifest is None:
        return []
    given = _voxel_size(inputs.voxel_size)
    if given == tuple(expected):
        return []
    sampling = f" ({manifest.input_sampling})" if manifest.input_sampling else ""
    return [
        f"the checkpoint expects voxels of {_lengths(expected)}{sampling}, the model will be given "
        f"{_lengths(given)}: resample the data, or expect to train longer"
    ]


def _check(inputs: Inputs) -> None:
    if inputs.in_channels not in IN_CHANNELS:
        raise InvalidOption("in_channels", inputs.in_channels, f"one of {', '.join(map(repr, IN_CHANNELS))}")
    if inputs.input_range is not None and not _increasing(inputs.input_range):
        raise InvalidOption("input_range", inputs.input_range, "(smallest, largest), such as (0, 1)")
    if inputs.voxel_size is not None and not all(size > 0 for size in _voxel_size(inputs.voxel_size)):
        raise InvalidOption("voxel_size", inputs.voxel_size, "three lengths in nm, z y x, all above 0")


def _increasing(values: Any) -> bool:
    numbers = list(values) if isinstance(values, Sequence) and not isinstance(values, str) else []
    return (
        len(numbers) == 2
        and all(isinstance(number, (int, float)) for number in numbers)
        and all(low < high and high - low < float("inf") for low, high in pairwise(numbers))
    )


def _voxel_size(given: Any) -> tuple[float, ...]:
    values = [given] * 3 if isinstance(given, (int, float)) else list(given)
    if len(values) != 3 or not all(isinstance(value, (int, float)) for value in values):
        raise InvalidOption("voxel_size", given, "three lengths in nm, z y x, or one for all")
    return tuple(map(float, values))


def _name(stored: str) -> str:
    return f"{stored} (adapted)"


def _interval(values: Sequence[float]) -> str:
    return f"[{values[0]:g}, {values[1]:g}]"


def _lengths(values: Sequence[float]) -> str:
    return f"{' x '.join(f'{value:g}' for value in values)} nm"
