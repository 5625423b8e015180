"""A network of a run, ready to predict with or to train: built from the manifest, filled from the file."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol, cast

import torch
from attrs import evolve
from torch import nn

from cosemzoo.checkpoints.mapped import TORCH_DTYPES, MappedWeights
from cosemzoo.errors import InvalidHead, InvalidOption, StrictLoadFailed, UnknownNetwork, listing
from cosemzoo.loading.assign import assign_plan
from cosemzoo.loading.first_layer import find_first_layer
from cosemzoo.loading.inputs import Inputs
from cosemzoo.loading.label_map import LabelMap, map_labels
from cosemzoo.loading.labels import NewHead, parse_new_head
from cosemzoo.loading.model_tensors import ModelTensor, read_model, targets_of
from cosemzoo.loading.plan import LoadPlan, Strict
from cosemzoo.loading.planner import make_plan
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Manifest
from cosemzoo.models import ReferenceLike, WeightsStore, resolve
from cosemzoo.nets import build_network
from cosemzoo.zoo import Checkpoint, Zoo

_AS_TRAINED: Final = Inputs()
#: The types that torch convolves in.
_COMPUTES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NOT_SAID: Final = "its manifest does not say which network it is"


class ReadyNetwork(Protocol):
    """What `load_model` adds to a network.

    Attributes
    ----------
    manifest : Manifest
        What the checkpoint says about itself, with the `input_range` that was asked for. Its channels are the
        checkpoint's own: those of a new head are in the report.
    report : LoadReport
        Every tensor and every channel accounted for; ``[row.label for row in report.channels]`` says what
        the network's output channels are.
    """

    manifest: Manifest
    report: LoadReport


def load_model(
    reference: ReferenceLike,
    *,
    new_head: NewHead = None,
    label_map: LabelMap = None,
    vocabulary: str | None = None,
    input_range: tuple[float, float] | None = None,
    device: str | int | torch.device | None = None,
    dtype: torch.dtype | None = None,
    share: bool = True,
    generator: torch.Generator | None = None,
    zoo: WeightsStore | None = None,
) -> nn.Module:
    """Give the network of a checkpoint, with its weights.

    Parameters
    ----------
    reference : str, os.PathLike, Reference or Checkpoint
    new_head : sequence of labels or (label, kind), mapping new → old, or None
        The channels of a new head: rows that the checkpoint has are taken from it, the others are
        initialised as torch initialises that layer. None: the checkpoint's own head.
    label_map, vocabulary
        As for `cosemzoo.plan_load`; what the labels of `new_head` take and mean.
    input_range : (float, float), optional
        The smallest and largest value that the network will be given, such as ``(0, 1)``. Where it was
        trained on others, its first layer is changed so that it computes the same; its `manifest` then says
        this range.
    device : str, int or torch.device, optional
        By default the CPU.
    dtype : torch.dtype, optional
        Of the parameters: float16, bfloat16, float32 or float64; by default as they are stored, or float32
        where they are not all stored as the same one of these.
    share : bool
        Whether the parameters are the file itself, mapped: nothing is copied, processes share the memory, and
        training the network never changes the file. Without it, they are copies. Tensors that need another
        dtype or device are copies in any case.
    generator : torch.Generator, optional
        For the rows of a new head that the checkpoint does not have.
    zoo : WeightsStore, optional

    Returns
    -------
    torch.nn.Module
        In evaluation mode, with `manifest` and `report` (see `ReadyNetwork`).

    Raises
    ------
    UnknownNetwork
        If the manifest does not say which network it is, or says one that cannot be built here, or that the
        weights do not fit.
    InvalidHead
        If `new_head` or `label_map` does not fit.
    InvalidInput
        If the first layer cannot take `input_range`, or not exactly.
    InvalidOption
        If there is no such `vocabulary`, device or floating-point type, or `input_range` is no range.
    CosemZooError
        As `cosemzoo.fetch`. All of the above is found before weights are downloaded.
    UnsafeConversion, AliasConflict
        If values are beyond what `dtype` can hold, or names of one tensor hold different ones.

    Examples
    --------
    >>> network = load_model("setup04@1820500")  # doctest: +SKIP
    >>> network(torch.zeros(1, 1, 216, 216, 216)).shape  # doctest: +SKIP
    torch.Size([1, 14, 68, 68, 68])
    """
    place, dtype = _usable(device), _floating(dtype)
    zoo = Zoo() if zoo is None else zoo
    if isinstance(new_head, Iterator):
        # It is read more than once.
        new_head = [*new_head]
    wanted = parse_new_head(new_head)
    if wanted == ():
        raise InvalidHead(["new_head is empty; give at least one label, or leave it out for the own head"])
    if wanted is None:
        # What is planned below is the checkpoint's own head: no row of it goes elsewhere.
        _, problems = map_labels(None, label_map)
        if problems:
            raise InvalidHead(problems)
    checkpoint = resolve(reference, zoo=zoo)
    began = time.perf_counter()
    network, held, plan = _planned_as_published(checkpoint, dtype)
    manifest = _manifest_of(checkpoint)
    if wanted is not None or input_range is not None:
        network = _build(checkpoint, None if wanted is None else len(wanted), dtype)
        held = read_model(network)
        plan = _plan(
            checkpoint,
            held,
            _own_head(manifest) if wanted is None else new_head,
            label_map=label_map,
            vocabulary=vocabulary,
            inputs=Inputs(
                input_range=input_range,
                # Of these networks it is known that one layer is given the input.
                first_layer=find_first_layer(network, held, others=False),
            ),
            strict="auto" if wanted is None else "never",
        )
        if input_range is not None:
            low, high = input_range
            manifest = evolve(manifest, input_range=(float(low), float(high)))
    planned = time.perf_counter()
    paths = zoo.fetch(checkpoint)
    fetched = time.perf_counter()
    weights = MappedWeights(checkpoint.weights, paths)
    assign_plan(plan, held, weights, device=place, share=share, generator=generator)
    seconds = time.perf_counter() - fetched + planned - began
    network.eval()
    sizes = {one.names[0]: one.tensor.element_size() for one in held if one.names}
    written = sum(row.filled * sizes[row.name] for row in plan.tensors)
    ready = cast("ReadyNetwork", network)
    ready.manifest = manifest
    ready.report = LoadReport.of(plan, bytes_written=written, seconds=seconds)
    return network


def network_arguments(manifest: Manifest) -> dict[str, Any]:
    """Give what the network of a manifest is built from; the manifest need not say its channels twice."""
    assert manifest.architecture is not None
    return {"channels": len(manifest.channels), **manifest.architecture.arguments}


def empty_network(manifest: Manifest | None, reference: str, *, channels: int | None = None) -> nn.Module:
    """Build the network of a manifest on `meta`: with names, shapes and arithmetic, without values.

    Parameters
    ----------
    manifest : Manifest or None
    reference : str
        What it is called in an error.
    channels : int, optional
        Output rows of the head, instead of the manifest's own.

    Raises
    ------
    UnknownNetwork
        If the manifest does not say which network it is, or says one that cannot be built here.
    """
    if manifest is None or manifest.architecture is None:
        raise UnknownNetwork(reference, _NOT_SAID)
    rows, arguments = len(manifest.channels), network_arguments(manifest)
    if arguments["channels"] != rows:
        problem = f"its manifest lists {rows} channels, and a network of {arguments['channels']}"
        raise UnknownNetwork(reference, problem)
    try:
        with torch.device("meta"):
            return build_network(manifest.architecture.name, arguments, channels=channels)
    except ValueError as error:
        raise UnknownNetwork(reference, str(error)) from error


def _usable(device: str | int | torch.device | None) -> torch.device:
    try:
        found = torch.device("cpu" if device is None else device)
        if found.type != "meta":
            # As tensors there have it: "cpu" for "cpu:0".
            return torch.empty(0, device=found).device
    except (AssertionError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InvalidOption("device", device, f'"cpu", or one that torch finds here ({reason})') from error
    raise InvalidOption("device", device, '"cpu", or a GPU: on "meta", a network has no values')


def _floating(dtype: torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in _COMPUTES:
        return dtype
    raise InvalidOption("dtype", dtype, f"one of {', '.join(map(str, _COMPUTES))}, or not given")


def _planned_as_published(
    checkpoint: Checkpoint, dtype: torch.dtype | None
) -> tuple[nn.Module, tuple[ModelTensor, ...], LoadPlan]:
    """Build the network with the head that it was published with, all of whose values the file must have."""
    network = _build(checkpoint, None, dtype)
    held = read_model(network)
    try:
        own = _own_head(_manifest_of(checkpoint))
        return network, held, _plan(checkpoint, held, own, strict="require")
    except (StrictLoadFailed, InvalidHead) as error:
        problem = f"the weights are not those of the network in its manifest:{listing(error.problems)}"
        raise UnknownNetwork(str(checkpoint.reference), problem) from error


def _own_head(manifest: Manifest) -> list[tuple[str, str]]:
    return [(channel.label, channel.kind) for channel in manifest.channels]


def _plan(
    checkpoint: Checkpoint,
    held: Sequence[ModelTensor],
    new_head: NewHead,
    *,
    label_map: LabelMap = None,
    vocabulary: str | None = None,
    inputs: Inputs = _AS_TRAINED,
    strict: Strict = "never",
) -> LoadPlan:
    plan = make_plan(
        targets_of(held),
        checkpoint.weights,
        checkpoint.manifest,
        reference=str(checkpoint.reference),
        commit=checkpoint.identity,
        new_head=new_head,
        label_map=label_map,
        vocabulary=vocabulary,
        inputs=inputs,
        strict=strict,
        min_coverage=1.0,
    )
    plan.check()
    return plan


def _build(checkpoint: Checkpoint, channels: int | None, dtype: torch.dtype | None) -> nn.Module:
    network = empty_network(checkpoint.manifest, str(checkpoint.reference), channels=channels)
    return network.to(dtype or _stored_dtype(checkpoint))


def _manifest_of(checkpoint: Checkpoint) -> Manifest:
    if checkpoint.manifest is None:
        raise UnknownNetwork(str(checkpoint.reference), _NOT_SAID)
    return checkpoint.manifest


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    kinds = {TORCH_DTYPES.get(tensor.entry.dtype) for tensor in checkpoint.weights.tensors.values()}
    stored = kinds.pop()
    return torch.float32 if kinds or stored not in _COMPUTES else stored
