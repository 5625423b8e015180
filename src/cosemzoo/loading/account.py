"""Every tensor and every channel of a load, accounted for: what plans and reports have in common."""

import math
from typing import Literal, NamedTuple

from attrs import frozen

Shape = tuple[int, ...]


class TensorRow(NamedTuple):
    """One tensor of the model; a tuple, because a plan makes one for each, and tuples are made fastest.

    Attributes
    ----------
    name : str
    aliases : tuple of str
        Its other names in the model.
    shape : tuple of int
    dtype : str
    status : {"copied", "remapped", "assumed", "adapted", "kept"}
        Whole from the checkpoint; by channel; by position, the labels being unknown; computed from the
        checkpoint's for another input; the model's own.
    is_head : bool
        Whether its slices are channels; all other tensors are the backbone.
    filled : int
        Elements that come from the checkpoint.
    source : str or None
        The tensor of the checkpoint that belongs to it.
    source_shape : tuple of int or None
    source_dtype : str or None
    reason : str
        Why it is kept, or kept in part, or how it is adapted.
    """

    name: str
    aliases: tuple[str, ...]
    shape: Shape
    dtype: str
    status: Literal["copied", "remapped", "assumed", "adapted", "kept"]
    is_head: bool
    filled: int
    source: str | None = None
    source_shape: Shape | None = None
    source_dtype: str | None = None
    reason: str = ""

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_converted(self) -> bool:
        """Whether its values change their dtype on the way."""
        return self.filled > 0 and self.source_dtype != self.dtype


@frozen(kw_only=True)
class ChannelRow:
    """One output row of the model's head.

    Attributes
    ----------
    head : str
        The head's module in the model.
    row : int
    label, kind : str or None
        What the model's row means; None where it is unknown.
    status : {"loaded", "assumed", "kept"}
    source_row : int or None
        The checkpoint's channel that fills it.
    source_label, source_kind : str or None
    reason : str
        Why it is kept.
    """

    head: str
    row: int
    label: str | None
    kind: str | None
    status: Literal["loaded", "assumed", "kept"]
    source_row: int | None = None
    source_label: str | None = None
    source_kind: str | None = None
    reason: str = ""


@frozen(kw_only=True)
class UnusedTensor:
    """A tensor of the checkpoint that does not go into the model.

    Attributes
    ----------
    name : str
    shape : tuple of int
    reason : str
    """

    name: str
    shape: Shape
    reason: str


@frozen
class PrefixChange:
    """How the start of the checkpoint's names differs from that of the model's, besides their layouts.

    Attributes
    ----------
    source, model : str
        What the names of the same tensors start with, on each side; empty for nothing.
    why : {"wrapper", "rename", "inferred"}
        It stands before every name of a side; the caller said so; it was found by comparing all names and
        shapes under it.
    """

    source: str
    model: str
    why: Literal["wrapper", "rename", "inferred"]

    def __str__(self) -> str:
        """Give both, and why."""
        source, model = (f"`{prefix}`" if prefix else "no prefix" for prefix in (self.source, self.model))
        return f"{source} → {model} ({self.why})"


@frozen(kw_only=True)
class Coverage:
    """How much of a part of the model comes from the checkpoint; aliased tensors count once.

    Attributes
    ----------
    tensors, all_tensors : int
        Tensors filled whole, and tensors that there are.
    parameters, all_parameters : int
        Elements filled, and elements that there are.
    """

    tensors: int
    all_tensors: int
    parameters: int
    all_parameters: int

    @property
    def fraction(self) -> float:
        """The smaller of the two fractions; 1 where there is nothing to fill."""
        tensors = self.tensors / self.all_tensors if self.all_tensors else 1.0
        return min(tensors, self.fraction_of_parameters)

    @property
    def fraction_of_parameters(self) -> float:
        """The fraction of the elements; 1 where there are none."""
        return self.parameters / self.all_parameters if self.all_parameters else 1.0

    def __str__(self) -> str:
        """Give both counts."""
        return (
            f"{self.tensors} of {self.all_tensors} tensors, "
            f"{self.parameters:,} of {self.all_parameters:,} parameters"
        )


@frozen(kw_only=True)
class Account:
    """What comes from where: the common part of `LoadPlan` and `LoadReport`.

    Attributes
    ----------
    reference : str
        What was asked for.
    commit : str or None
        The commit, or the content hash of a folder, that it means.
    outcome : {"strict", "partial"}
        Strict: names, shapes and channels agree, nothing is left over on either side.
    tensors : tuple of TensorRow
        Every tensor of the model, in the order of its state dict.
    channels : tuple of ChannelRow
        Every row of the model's heads.
    unused : tuple of UnusedTensor
        Every tensor of the checkpoint that is not used.
    unused_channels : tuple of str
        Every channel of the checkpoint that is not used.
    source_layout, model_layout : str
        The naming schemes that names were translated between; ``as is`` for none.
    prefixes : tuple of PrefixChange
        What names were changed by besides.
    input_expected : str
        What the checkpoint was trained on, as far as it says.
    input_differences : tuple of str
        What the caller says of the model's input and the checkpoint says otherwise.
    generated : bool
        Whether the checkpoint's weights are generated numbers, not a trained network.
    """

    reference: str
    commit: str | None
    outcome: Literal["strict", "partial"]
    tensors: tuple[TensorRow, ...]
    channels: tuple[ChannelRow, ...]
    unused: tuple[UnusedTensor, ...]
    unused_channels: tuple[str, ...]
    source_layout: str
    model_layout: str
    prefixes: tuple[PrefixChange, ...]
    input_expected: str
    input_differences: tuple[str, ...]
    generated: bool

    @property
    def title(self) -> str:
        """The reference, and the start of what it means."""
        return self.reference if self.commit is None else f"{self.reference} ({self.commit[:8]})"

    @property
    def coverage(self) -> Coverage:
        """How much of the backbone is filled."""
        return _coverage([tensor for tensor in self.tensors if not tensor.is_head])

    @property
    def model_coverage(self) -> Coverage:
        """How much of the whole model is filled, heads included."""
        return _coverage(self.tensors)

    @property
    def missing(self) -> tuple[TensorRow, ...]:
        """Tensors of the model that the checkpoint does not have."""
        return tuple(tensor for tensor in self.tensors if tensor.source is None)

    @property
    def mismatched(self) -> tuple[TensorRow, ...]:
        """Tensors that both have, and that cannot be copied."""
        return tuple(t for t in self.tensors if t.status == "kept" and t.source is not None)

    @property
    def converted(self) -> tuple[TensorRow, ...]:
        """Tensors whose dtype differs between the checkpoint and the model."""
        return tuple(tensor for tensor in self.tensors if tensor.is_converted)

    @property
    def adapted(self) -> tuple[TensorRow, ...]:
        """Tensors of the first layer that are computed for another input."""
        return tuple(tensor for tensor in self.tensors if tensor.status == "adapted")

    @property
    def assumed(self) -> tuple[ChannelRow, ...]:
        """Rows copied by position because the model's labels are unknown."""
        return tuple(channel for channel in self.channels if channel.status == "assumed")


def _coverage(tensors: "list[TensorRow] | tuple[TensorRow, ...]") -> Coverage:
    return Coverage(
        tensors=sum(tensor.status != "kept" and tensor.filled == tensor.parameters for tensor in tensors),
        all_tensors=len(tensors),
        parameters=sum(tensor.filled for tensor in tensors),
        all_parameters=sum(tensor.parameters for tensor in tensors),
    )
