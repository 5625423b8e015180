"""A network of a run, ready to predict with or to train: built from the manifest, filled from the file."""

import time
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import nn

from cosemzoo.checkpoints.mapped import TORCH_DTYPES, MappedWeights
from cosemzoo.errors import UnknownNetwork
from cosemzoo.loading.assign import assign_plan
from cosemzoo.loading.labels import NewHead, parse_new_head
from cosemzoo.loading.model_tensors import read_model
from cosemzoo.loading.planner import make_plan
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Manifest
from cosemzoo.models import ReferenceLike, WeightsStore, resolve
from cosemzoo.nets import build_network
from cosemzoo.zoo import Checkpoint, Zoo


class ReadyNetwork(Protocol):
    """What `load_model` adds to a network.

    Attributes
    ----------
    manifest : Manifest
        What the checkpoint says about itself.
    report : LoadReport
        Every tensor and every channel accounted for.
    """

    manifest: Manifest
    report: LoadReport


def load_model(
    reference: ReferenceLike,
    *,
    new_head: NewHead = None,
    device: str | torch.device | None = None,
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
    device : str or torch.device, optional
        By default the CPU.
    dtype : torch.dtype, optional
        Of the parameters; by default as they are stored.
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
        If the manifest does not say which network it is, or says one that cannot be built here.
    InvalidHead
        If `new_head` does not fit.
    UnsafeConversion
        If values are beyond what `dtype` can hold.
    CosemZooError
        As `cosemzoo.fetch`.

    Examples
    --------
    >>> network = load_model("setup04@1820500")  # doctest: +SKIP
    >>> network(torch.zeros(1, 1, 216, 216, 216)).shape  # doctest: +SKIP
    torch.Size([1, 14, 68, 68, 68])
    """
    zoo = Zoo() if zoo is None else zoo
    checkpoint = resolve(reference, zoo=zoo)
    manifest = checkpoint.manifest
    wanted = parse_new_head(new_head)
    network = _build(checkpoint, None if wanted is None else len(wanted), dtype)
    assert manifest is not None
    began = time.perf_counter()
    held = read_model(network)
    plan = make_plan(
        [one.target for one in held if one.names],
        checkpoint.weights,
        manifest,
        reference=str(checkpoint.reference),
        commit=checkpoint.identity,
        new_head=[(channel.label, channel.kind) for channel in manifest.channels]
        if new_head is None
        else new_head,
        head=None,
        strict="require" if new_head is None else "never",
        min_coverage=1.0,
    )
    plan.check()
    planned = time.perf_counter()
    paths = zoo.fetch(checkpoint)
    fetched = time.perf_counter()
    weights = MappedWeights(checkpoint.weights, paths)
    assign_plan(plan, held, weights, device=torch.device(device or "cpu"), share=share, generator=generator)
    seconds = time.perf_counter() - fetched + planned - began
    network.eval()
    sizes = {one.names[0]: one.tensor.element_size() for one in held if one.names}
    written = sum(row.filled * sizes[row.name] for row in plan.tensors)
    ready = cast("ReadyNetwork", network)
    ready.manifest = manifest
    ready.report = LoadReport.of(plan, bytes_written=written, seconds=seconds)
    return network


def _build(checkpoint: Checkpoint, channels: int | None, dtype: torch.dtype | None) -> nn.Module:
    manifest = checkpoint.manifest
    architecture = None if manifest is None else manifest.architecture
    if architecture is None:
        raise UnknownNetwork(str(checkpoint.reference), "its manifest does not say which network it is")
    arguments: Mapping[str, Any] = architecture.arguments
    try:
        with torch.device("meta"):
            network = build_network(architecture.name, arguments, channels=channels)
    except ValueError as error:
        raise UnknownNetwork(str(checkpoint.reference), str(error)) from error
    return network.to(dtype or _stored_dtype(checkpoint))


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    kinds = {tensor.entry.dtype for tensor in checkpoint.weights.tensors.values()}
    (kind, *others) = kinds
    return torch.float32 if others else TORCH_DTYPES[kind]
