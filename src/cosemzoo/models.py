"""The torch user's face: resolve a reference, fetch it, plan a load, load it into a model."""

import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias, TypedDict

from torch import Tensor, nn

from cosemzoo.checkpoints.mapped import MappedWeights, state_dict_of
from cosemzoo.checkpoints.mounts import READS, Read
from cosemzoo.errors import InputDiffers, InvalidOption, PartialLoad
from cosemzoo.loading.apply import apply_plan, check_equal
from cosemzoo.loading.first_layer import find_first_layer
from cosemzoo.loading.heads import HeadNames
from cosemzoo.loading.inputs import Inputs
from cosemzoo.loading.label_map import LabelMap
from cosemzoo.loading.labels import NewHead
from cosemzoo.loading.mixing import InChannels
from cosemzoo.loading.model_tensors import ModelTensor, read_model, targets_of
from cosemzoo.loading.plan import LoadPlan, Strict
from cosemzoo.loading.planner import make_plan
from cosemzoo.loading.prefixes import Rename
from cosemzoo.loading.report import LoadReport
from cosemzoo.loading.translation import names_in
from cosemzoo.reference import Reference
from cosemzoo.zoo import Checkpoint, Zoo

_logger = logging.getLogger("cosemzoo")

#: What names a checkpoint: a text, a folder's path, a parsed reference, or one that is already resolved.
ReferenceLike: TypeAlias = "str | os.PathLike[str] | Reference | Checkpoint"


class PlanOptions(TypedDict, total=False):
    """How a load is planned, besides `new_head`; `plan_load` describes each."""

    label_map: LabelMap
    vocabulary: str | None
    head: HeadNames
    rename: Rename
    in_channels: InChannels
    input_channels: Sequence[str] | None
    input_range: tuple[float, float] | None
    voxel_size: "tuple[float, float, float] | float | None"
    strict: Strict
    min_coverage: float


class LoadOptions(PlanOptions, total=False):
    """How a load is planned and done, besides `new_head`; `load_into` describes each."""

    read: Read


class WeightsStore(Protocol):
    """Where checkpoints come from: a `Zoo`, or anything else that can do this."""

    def resolve(self, reference: "str | os.PathLike[str] | Reference") -> Checkpoint:
        """Find out what a reference means, without its weights."""
        ...

    def fetch(self, checkpoint: Checkpoint) -> Mapping[str, Path]:
        """Give the verified files of its weights, by their names."""
        ...


def resolve(reference: ReferenceLike, *, zoo: WeightsStore | None = None) -> Checkpoint:
    """Find out what a reference means now: a few KB of metadata, no weights.

    Parameters
    ----------
    reference : str, os.PathLike or Reference
        See `cosemzoo.reference`.
    zoo : WeightsStore, optional
        Where to look; the default, `Zoo()`, takes its settings from the environment.

    Returns
    -------
    Checkpoint
        Pinned to a commit.

    Raises
    ------
    InvalidReference, NamespaceMissing, RunNotFound, CriterionNotFound, AccessDenied
        If it names nothing that this caller may have.
    HubUnavailable, NotCached
        If the Hub cannot be asked and the cache has no answer.
    InvalidIndex, InvalidManifest, InvalidSafetensors, WeightsNotFound
        If what was published cannot be trusted.
    """
    if isinstance(reference, Checkpoint):
        return reference
    return _or_default(zoo).resolve(reference)


def fetch(reference: ReferenceLike, *, zoo: WeightsStore | None = None) -> Mapping[str, Path]:
    """Make a checkpoint's weights present on this machine, and verify them.

    Returns
    -------
    mapping of str to Path
        The verified files, by their names in the checkpoint.

    Raises
    ------
    IntegrityError
        If the bytes are not those that were published, twice.
    CacheNotWritable, DiskFull
        If they cannot be stored.
    CosemZooError
        As `resolve`.
    """
    zoo = _or_default(zoo)
    return zoo.fetch(resolve(reference, zoo=zoo))


def state_dict(
    reference: ReferenceLike, *, layout: str | None = None, zoo: WeightsStore | None = None
) -> dict[str, Tensor]:
    """Give a checkpoint's tensors by name, aliases included, without a model.

    Parameters
    ----------
    reference : str, os.PathLike, Reference or Checkpoint
    layout : str, optional
        Whose names to give them: "cellmap-models", "cellmap-models before 2024-03", "dacapo 0.3" or
        "dacapo main". Where a code base has several names for a tensor, each is in the result, and all of
        them are one tensor. By default, the names in the file.
    zoo : WeightsStore, optional

    Returns
    -------
    dict of str to torch.Tensor
        On the CPU, mapped from the verified files: nothing is copied until it is written to, and writing
        never reaches the files.

    Raises
    ------
    InvalidOption
        If there is no such layout, or the checkpoint's names are of none.
    AliasConflict
        If names that become one hold different values in the file.
    CosemZooError
        As `fetch`.

    Examples
    --------
    >>> model.load_state_dict(state_dict("setup04", layout="dacapo main"))  # doctest: +SKIP
    """
    zoo = _or_default(zoo)
    checkpoint = resolve(reference, zoo=zoo)
    table, called = checkpoint.weights, str(checkpoint.reference)
    # Before the weights are fetched: what is asked may be impossible.
    names = None if layout is None else names_in(layout, table, called)
    weights = MappedWeights(table, zoo.fetch(checkpoint))
    if names is None:
        return state_dict_of(table, weights)
    groups = dict.fromkeys(names.values())
    check_equal([(first, other) for first, *others in groups for other in others], weights, called)
    tensors = {stored: weights.tensor(stored[0]) for stored in groups}
    return {name: tensors[stored] for name, stored in names.items()}


def plan_load(
    model: nn.Module,
    reference: ReferenceLike,
    *,
    new_head: NewHead = None,
    label_map: LabelMap = None,
    vocabulary: str | None = None,
    head: HeadNames = None,
    rename: Rename = None,
    in_channels: InChannels = "error",
    input_channels: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
    voxel_size: tuple[float, float, float] | float | None = None,
    strict: Strict = "auto",
    min_coverage: float = 0.5,
    zoo: WeightsStore | None = None,
) -> LoadPlan:
    """Plan a load from a few KB of metadata; nothing is downloaded, nothing is changed.

    A plan that `load_into` would refuse is given all the same, and says so; its `check` raises.

    Parameters
    ----------
    model : torch.nn.Module
    reference : str, os.PathLike, Reference or Checkpoint
    new_head : sequence of labels or (label, kind), mapping new → old, or None
        The channels of the model's head, in the order of its rows. A mapping says which of the checkpoint's
        channels each takes (None: keep the model's own values). None: they are unknown; equal row counts are
        copied by position and reported as assumed, unequal ones are kept. A model with several heads gives
        the channels of all of them, in the order of its state dict.
    label_map : mapping new → old, optional
        Which of the checkpoint's channels some of the rows take, whatever both are called (None: keep the
        model's own values): labels, or (label, kind). A label alone is the channel of the row's own kind.
    vocabulary : str, optional
        What the labels of `new_head` mean, such as "cellmap-challenge": rows then go by class where the
        checkpoint's labels are known, too, and by name only where not. See `cosemzoo.loading.vocabularies`.
    head : str, sequence of str, or mapping, optional
        The module that is the model's head, where its name is not the checkpoint's.
    rename : mapping of str to str, optional
        What the checkpoint's names start with → what the model's names of the same tensors start with:
        ``{"backbone.": "encoder."}``. Known naming schemes and wrappers are found without it.
    in_channels : {"error", "repeat", "mean", "first", "keep"}
        What becomes of the first layer where the model has another number of input channels. "repeat": the
        checkpoint's in turn; "mean": their mean; "first": the first ones, further ones start at zero; all
        scaled so that the same data in every channel gives the same activation. "keep": the model's own.
    input_channels : sequence of str, optional
        What each of the model's input channels is; where the checkpoint says it, too, they go by name.
    input_range : (float, float), optional
        The smallest and largest value that the model will be given, such as ``(0, 1)``. Where the checkpoint
        expects others, its first layer is changed so that it computes the same (w' = 2w, b' = b - Σw for
        [0, 1] instead of [-1, 1]). It is refused where that layer pads with zeros, or another could be given
        the input as well. What a forward method does by itself cannot be seen: padding by a function, or an
        input that is added again further on, make it inexact.
    voxel_size : (float, float, float) or float, optional
        Of what the model will be given, in nm, z y x; a difference is warned of.
    strict : {"auto", "require", "never"}
        "auto": strictly where names, shapes and channels agree, else what fits. "require": strictly or not
        at all. "never": a partial load is expected.
    min_coverage : float
        The fraction of the model's backbone, by tensors and by parameters, that must be filled.
    zoo : WeightsStore, optional

    Raises
    ------
    InvalidHead
        If `new_head`, `label_map` or `head` do not fit.
    InvalidInput
        If the first layer cannot be given the input that the caller says, or not exactly.
    InvalidRename, AmbiguousNames
        If names cannot be paired as `rename` says, or could be in several ways.
    InvalidOption
        If an option is none of the values allowed.
    AliasConflict, UnsupportedModel
        If the file or the model cannot be planned for.
    CosemZooError
        As `resolve`.
    """
    held = read_model(model)
    options = PlanOptions(
        label_map=label_map,
        vocabulary=vocabulary,
        head=head,
        rename=rename,
        in_channels=in_channels,
        input_channels=input_channels,
        input_range=input_range,
        voxel_size=voxel_size,
        strict=strict,
        min_coverage=min_coverage,
    )
    return _plan(model, held, resolve(reference, zoo=zoo), new_head, options)


def load_into(
    model: nn.Module,
    reference: ReferenceLike,
    *,
    new_head: NewHead = None,
    label_map: LabelMap = None,
    vocabulary: str | None = None,
    head: HeadNames = None,
    rename: Rename = None,
    in_channels: InChannels = "error",
    input_channels: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
    voxel_size: tuple[float, float, float] | float | None = None,
    strict: Strict = "auto",
    min_coverage: float = 0.5,
    read: Read = "auto",
    zoo: WeightsStore | None = None,
) -> LoadReport:
    """Load a checkpoint into a model, in place: wholly as planned, or not at all.

    Parameters
    ----------
    model : torch.nn.Module
        Keeps its devices, dtypes, strides and `requires_grad`; tensors on `meta` are given memory on the
        CPU. What is not filled keeps the model's own values.
    reference, new_head, label_map, vocabulary, head, rename, strict, min_coverage, zoo
        As for `plan_load`.
    in_channels, input_channels, input_range, voxel_size
        As for `plan_load`.
    read : {"auto", "mmap", "sequential"}
        How the files are read. "mmap": through a mapping, the fastest where the file is in memory or on a
        local disk. "sequential": in large pieces in the order of the file, twice; the first time to know
        that all of it can be read. "auto": "sequential" on a network file system, else "mmap".

    Returns
    -------
    LoadReport
        Every tensor and every channel accounted for.

    Warns
    -----
    PartialLoad
        If not everything agrees. Turned into an error, it leaves the model as it was.
    InputDiffers
        If the model will be given other data than the checkpoint was trained with.

    Raises
    ------
    StrictLoadFailed, CoverageTooLow, InvalidHead, InvalidInput, InvalidRename, AmbiguousNames
        If checkpoint and model do not fit together, or not as the caller says.
    AliasConflict, UnsafeConversion, UnsupportedModel
        If checkpoint and model do not fit together.
    InvalidOption
        If `vocabulary`, `strict`, `min_coverage` or `read` is none of the values allowed.
    CosemZooError
        As `fetch`.

    Notes
    -----
    After any error the model is bit for bit as it was. A page of the file that was found readable and can no
    longer be read a moment later, when the model is already being filled, ends the process (SIGBUS): a model
    that is half filled is never given back.
    """
    options = LoadOptions(
        label_map=label_map,
        vocabulary=vocabulary,
        head=head,
        rename=rename,
        in_channels=in_channels,
        input_channels=input_channels,
        input_range=input_range,
        voxel_size=voxel_size,
        strict=strict,
        min_coverage=min_coverage,
        read=read,
    )
    return load_checkpoint(model, reference, new_head, options, _or_default(zoo))


def load_checkpoint(
    model: nn.Module, reference: ReferenceLike, new_head: NewHead, options: LoadOptions, zoo: WeightsStore
) -> LoadReport:
    """Load as `load_into` does; its warning points at the caller of the caller."""
    planning = options.copy()
    read = planning.pop("read", "auto")
    if read not in READS:
        raise InvalidOption("read", read, '"mmap", "sequential" or "auto"')
    held = read_model(model)
    checkpoint = resolve(reference, zoo=zoo)
    began = time.perf_counter()
    plan = _plan(model, held, checkpoint, new_head, planning)
    plan.check()
    planned = time.perf_counter()
    paths = zoo.fetch(checkpoint)
    fetched = time.perf_counter()
    weights = MappedWeights(checkpoint.weights, paths, read)
    for difference in plan.input_differences:
        warnings.warn(f"{plan.reference}: {difference}", InputDiffers, stacklevel=3)
    if plan.differences:
        # Before the commit: where warnings are errors, it must leave the model as it was.
        warnings.warn(_what_is_partial(plan), PartialLoad, stacklevel=3)
    manifest, vocabulary = checkpoint.manifest, options.get("vocabulary")
    if vocabulary is not None and (manifest is None or manifest.vocabulary is None):
        _logger.warning(
            "%s: vocabulary=%r has no effect: the checkpoint does not say whose labels it has; names decide",
            plan.reference,
            vocabulary,
        )
    if plan.assumed:
        _logger.warning(
            "%s: %d head rows copied by position, the model's labels being unknown; say them with new_head",
            plan.reference,
            len(plan.assumed),
        )
    apply_plan(plan, held, weights)
    seconds = time.perf_counter() - fetched + planned - began
    sizes = {one.names[0]: one.tensor.element_size() for one in held if one.names}
    written = sum(row.filled * sizes[row.name] for row in plan.tensors)
    return LoadReport.of(plan, bytes_written=written, seconds=seconds)


def _or_default(zoo: WeightsStore | None) -> WeightsStore:
    return Zoo() if zoo is None else zoo


def _plan(
    model: nn.Module,
    held: Sequence[ModelTensor],
    checkpoint: Checkpoint,
    new_head: NewHead,
    options: PlanOptions,
) -> LoadPlan:
    input_range = options.get("input_range")
    inputs = Inputs(
        in_channels=options.get("in_channels", "error"),
        input_channels=options.get("input_channels"),
        input_range=input_range,
        voxel_size=options.get("voxel_size"),
        first_layer=find_first_layer(model, held, others=input_range is not None),
    )
    return make_plan(
        targets_of(held),
        checkpoint.weights,
        checkpoint.manifest,
        reference=str(checkpoint.reference),
        commit=checkpoint.identity,
        new_head=new_head,
        label_map=options.get("label_map"),
        vocabulary=options.get("vocabulary"),
        head=options.get("head"),
        rename=options.get("rename"),
        inputs=inputs,
        strict=options.get("strict", "auto"),
        min_coverage=options.get("min_coverage", 0.5),
    )


def _what_is_partial(plan: LoadPlan) -> str:
    kept = [row for row in plan.channels if row.status == "kept"]
    counts = [f"{plan.coverage} of the backbone"]
    counts += [f"{len(plan.channels) - len(kept)} of {len(plan.channels)} head rows"] if plan.channels else []
    counts += [f"{len(plan.missing)} tensors missing"] if plan.missing else []
    counts += [f"{len(plan.mismatched)} mismatched"] if plan.mismatched else []
    counts += [f"{len(plan.unused)} unused"] if plan.unused else []
    inferred = [str(change) for change in plan.prefixes if change.why == "inferred"]
    counts += [f"names changed: {', '.join(inferred)}"] if inferred else []
    labels = ", ".join(f"{row.label} ({row.reason})" for row in kept if row.label)
    said = f"; kept: {labels}" if labels else ""
    return f"{plan.reference} is loaded in part: {', '.join(counts)}{said}; the report has each of them"
