"""What a run says about itself: a checkpoint's manifest (`config.json`), a run's index (`criteria.json`).

Both are read strictly: one error lists every problem with its JSON path. Fields that this version does not
know are kept (`extra`) and written back.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from attrs import Factory, frozen

from cosemzoo.document import (
    FORMAT_VERSION,
    Commit,
    FormatVersion,
    Interval,
    Sha256,
    Timestamp,
    VoxelSize,
    read_document,
    write_document,
)
from cosemzoo.errors import InvalidIndex, InvalidManifest

#: The file names of the two documents.
MANIFEST_FILE: Final = "config.json"
INDEX_FILE: Final = "criteria.json"


@frozen
class Channel:
    """What one output row predicts.

    Attributes
    ----------
    label : str
        The class, e.g. ``mito``.
    kind : str
        The quantity, e.g. ``distance`` or ``one-hot``.
    """

    label: str
    kind: str
    extra: Mapping[str, Any] = Factory(dict)

    def __str__(self) -> str:
        """Give ``label (kind)``."""
        return f"{self.label} ({self.kind})"


@frozen
class HeadTensor:
    """A tensor that has one slice per channel.

    Attributes
    ----------
    name : str
        Its name in the weights file.
    channel_axis : int
        The axis that counts channels: 0, or 1 for the weight of a transposed convolution.
    first_channel : int
        The channel of its first slice: a run with several heads lists their channels one head after another.
    """

    name: str
    channel_axis: int = 0
    first_channel: int = 0
    extra: Mapping[str, Any] = Factory(dict)


@frozen
class Target:
    """What the network was trained to predict.

    Attributes
    ----------
    description : str
        In words, e.g. ``tanh(signed distance / 50 nm)``.
    scale : float or None
        The distance, in nm, that the target divides by.
    threshold : float or None
        The output above which a voxel belongs to the label.
    """

    description: str
    scale: float | None = None
    threshold: float | None = None
    extra: Mapping[str, Any] = Factory(dict)


@frozen
class Architecture:
    """The network that the weights belong to.

    Attributes
    ----------
    name : str
        Which network.
    arguments : mapping
        What it is built from, as JSON values.
    """

    name: str
    arguments: Mapping[str, Any] = Factory(dict)
    extra: Mapping[str, Any] = Factory(dict)


@frozen
class InheritedChannel:
    """Which channel of its base a channel of a fine-tuned run started from.

    Attributes
    ----------
    label, kind : str
        The run's channel.
    source_label, source_kind : str or None
        The base's channel; both None where the row was new.
    source_row : int or None
        The row of the base's head, where the base does not name its channels and rows were taken by position.
    """

    label: str
    kind: str
    source_label: str | None = None
    source_kind: str | None = None
    source_row: int | None = None
    extra: Mapping[str, Any] = Factory(dict)

    @property
    def source(self) -> str | None:
        """What the row started from, in words; None where it was new."""
        if self.source_label is None:
            return None if self.source_row is None else f"row {self.source_row}"
        return self.source_label if self.source_kind is None else f"{self.source_label} ({self.source_kind})"


@frozen
class Lineage:
    """Where the weights come from.

    Attributes
    ----------
    base_repository : str or None
        The repository of the run that this one was fine-tuned from.
    base_commit : str or None
        The commit of that run's checkpoint.
    source_url : str or None
        Where the file that was converted came from.
    source_sha256 : str or None
        The SHA-256 of the file that was converted.
    base_reference : str or None
        The base's run and criterion, such as ``setup04@1820500``: never a name that can move.
    base_content_hash : str or None
        The content hash of a base that was in a folder, and so has no commit.
    channels : tuple of InheritedChannel or None
        What each channel started from, in the order of the manifest's channels; None where it is not known.
    """

    base_repository: str | None = None
    base_commit: Commit | None = None
    source_url: str | None = None
    source_sha256: Sha256 | None = None
    base_reference: str | None = None
    base_content_hash: Sha256 | None = None
    channels: tuple[InheritedChannel, ...] | None = None
    extra: Mapping[str, Any] = Factory(dict)

    @property
    def has_base(self) -> bool:
        """Whether the run was fine-tuned from another."""
        return any((self.base_repository, self.base_commit, self.base_reference, self.base_content_hash))


@frozen(kw_only=True)
class Manifest:
    """What a checkpoint says about itself: its `config.json`.

    Attributes
    ----------
    run : str
    iteration : int or None
        Training iterations; None where the run does not count them.
    channels : tuple of Channel
        One per output row, in the order of the rows.
    head : tuple of HeadTensor
        The tensors whose slices are channels.
    vocabulary : str or None
        What the labels mean, one of `cosemzoo.loading.vocabularies.vocabularies`; None: they are names alone.
    input_voxel_size, output_voxel_size : (float, float, float) or None
        In nm, z y x.
    input_range : (float, float) or None
        The smallest and the largest value of scaled raw data.
    input_channels : tuple of str or None
        What each of its input channels is, such as ``raw``.
    input_sampling : str or None
        How raw data of the input voxel size was made.
    target : Target or None
    architecture : Architecture or None
    layout : str or None
        The naming scheme of the tensors, one of `cosemzoo.loading.layouts.LAYOUTS`.
    lineage : Lineage or None
    generated : bool
        Whether the weights are random numbers in the network's shapes, not a trained network.
    tool_version : str or None
        The cosemzoo that wrote this.
    """

    format_version: FormatVersion = FORMAT_VERSION
    run: str
    iteration: int | None = None
    channels: tuple[Channel, ...]
    head: tuple[HeadTensor, ...]
    vocabulary: str | None = None
    input_voxel_size: VoxelSize | None = None
    output_voxel_size: VoxelSize | None = None
    input_range: Interval | None = None
    input_channels: tuple[str, ...] | None = None
    input_sampling: str | None = None
    target: Target | None = None
    architecture: Architecture | None = None
    layout: str | None = None
    lineage: Lineage | None = None
    generated: bool = False
    tool_version: str | None = None
    extra: Mapping[str, Any] = Factory(dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Every label once, in the order of the channels."""
        return tuple(dict.fromkeys(channel.label for channel in self.channels))

    @property
    def channel_names(self) -> tuple[str, ...]:
        """One name for each channel: its label, and its kind too where several have that label."""
        labels = [channel.label for channel in self.channels]
        return tuple(
            channel.label if labels.count(channel.label) == 1 else str(channel) for channel in self.channels
        )

    def to_json(self) -> str:
        """Give the text of `config.json`: the same manifest always gives the same text."""
        return write_document(self)


@frozen
class Release:
    """One published checkpoint of a run.

    Attributes
    ----------
    commit : str
        Its commit.
    weights : mapping of str to str
        SHA-256 of each weights file, by file name.
    labels : tuple of str
    date : str
        When it was published, ISO 8601.
    state : {"published", "yanked"}
        A yanked checkpoint was withdrawn: it resolves by iteration or commit only, with a warning.
    reason : str or None
        Why it was yanked.
    superseded : tuple of str
        Its earlier commits: the same weights, described otherwise.
    """

    commit: Commit
    weights: Mapping[str, Sha256]
    labels: tuple[str, ...]
    date: Timestamp
    state: Literal["published", "yanked"] = "published"
    reason: str | None = None
    superseded: tuple[Commit, ...] = ()
    extra: Mapping[str, Any] = Factory(dict)


@frozen(kw_only=True)
class Index:
    """The checkpoints of a run: its `criteria.json`.

    Attributes
    ----------
    run : str
    criteria : mapping of str to Release
        Every checkpoint by its criterion, as a rule an iteration.
    aliases : mapping of str to str
        Other names, such as ``best``, and the criterion each of them means now.
    """

    format_version: FormatVersion = FORMAT_VERSION
    run: str
    criteria: Mapping[str, Release]
    aliases: Mapping[str, str] = Factory(dict)
    extra: Mapping[str, Any] = Factory(dict)

    def to_json(self) -> str:
        """Give the text of `criteria.json`: the same index always gives the same text."""
        return write_document(self)


def read_manifest(text: bytes, source: str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Manifest:
    """Read a `config.json`.

    Parameters
    ----------
    text : bytes
    source : str
        What the file is called in an error.
    shapes : mapping of str to tuple of int, optional
        The shape of every tensor beside it, for a check that the channels fit them.

    Raises
    ------
    InvalidManifest
        With every problem, if the text cannot be trusted or contradicts the shapes.
    """
    values, problems = read_document(Manifest, text)
    problems.extend(_manifest_problems(values))
    problems.extend(_lineage_problems(values.get("lineage"), values.get("channels")))
    if shapes is not None and {"channels", "head"} <= set(values):
        problems.extend(_shape_problems(values["channels"], values["head"], shapes))
    if problems:
        raise InvalidManifest(source, problems)
    return Manifest(**values)


def read_index(text: bytes, source: str) -> Index:
    """Read a `criteria.json`.

    Raises
    ------
    InvalidIndex
        With every problem, if the text cannot be trusted.
    """
    values, problems = read_document(Index, text)
    problems.extend(_index_problems(values))
    if problems:
        raise InvalidIndex(source, problems)
    return Index(**values)


def is_manifest(text: bytes) -> bool:
    """Whether a `config.json` means to be a manifest, not some other tool's configuration.

    What is damaged or malformed counts as one: it is refused when it is read, not passed over.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return True
    ours = (
        "format_version" in document or {"channels", "head"} <= set(document)
        if isinstance(document, dict)
        else True
    )
    return bool(ours)


def check_manifest(manifest: Manifest, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Check that a manifest fits the tensors beside it.

    Raises
    ------
    InvalidManifest
        With every contradiction.
    """
    problems = list(_shape_problems(manifest.channels, manifest.head, shapes))
    if problems:
        raise InvalidManifest(source, problems)


def _manifest_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if not values.get("run", "x").strip():
        yield "$.run", "is empty"
    listed: set[str] = set()
    for i, tensor in enumerate(values.get("head", ())):
        if tensor.name in listed:
            yield f"$.head[{i}].name", f"{tensor.name} is listed before"
        listed.add(tensor.name)
    seen: dict[tuple[str, str], int] = {}
    for i, channel in enumerate(values.get("channels", ())):
        first = seen.setdefault((channel.label, channel.kind), i)
        if first != i:
            yield f"$.channels[{i}]", f"{channel} is also channel {first}"
        for name in ("label", "kind"):
            if not getattr(channel, name).strip():
                yield f"$.channels[{i}].{name}", "is empty"
    if values.get("channels") == ():
        yield "$.channels", "is empty"
    if (values.get("iteration") or 0) < 0:
        yield "$.iteration", f"is {values['iteration']}, less than 0"


def _lineage_problems(
    lineage: Lineage | None, channels: tuple[Channel, ...] | None
) -> Iterator[tuple[str, str]]:
    if lineage is None:
        return
    if lineage.base_commit and lineage.base_content_hash:
        yield "$.lineage.base_content_hash", "is given beside base_commit: a folder has no commit"
    if lineage.base_reference is not None and not lineage.base_reference.strip():
        yield "$.lineage.base_reference", "is empty"
    if lineage.channels is not None and not lineage.has_base:
        yield "$.lineage.channels", "says what came from a base, but no base is given"
    for i, inherited in enumerate(lineage.channels or ()):
        if inherited.source_kind is not None and inherited.source_label is None:
            yield f"$.lineage.channels[{i}].source_kind", "is given without source_label"
        if inherited.source_row is not None and inherited.source_row < 0:
            yield f"$.lineage.channels[{i}].source_row", f"is {inherited.source_row}, less than 0"
    if lineage.channels is not None and channels is not None:
        yield from _order_problems(lineage.channels, channels)


def _order_problems(
    inherited: tuple[InheritedChannel, ...], channels: tuple[Channel, ...]
) -> Iterator[tuple[str, str]]:
    if len(inherited) != len(channels):
        counts = f"has {len(inherited)} members, but there are {len(channels)} channels"
        yield "$.lineage.channels", counts
    for i, (one, own) in enumerate(zip(inherited, channels, strict=False)):
        if (one.label, one.kind) != (own.label, own.kind):
            found = f"is {one.label} ({one.kind}), but channel {i} is {own}"
            yield f"$.lineage.channels[{i}]", found


def _shape_problems(
    channels: tuple[Channel, ...], head: tuple[HeadTensor, ...], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, str]]:
    covered: set[int] = set()
    for i, tensor in enumerate(head):
        path, shape = f"$.head[{i}]", shapes.get(tensor.name)
        axis, first = tensor.channel_axis, tensor.first_channel
        if shape is None:
            yield f"{path}.name", f"the weights hold no tensor {tensor.name!r}"
        elif not 0 <= axis < len(shape):
            yield f"{path}.channel_axis", f"is {axis}; {tensor.name} has the shape {list(shape)}"
        elif not 0 <= first <= len(channels) - shape[axis]:
            what = f"{tensor.name}, of shape {list(shape)}, has {shape[axis]} slices along axis {axis}"
            yield path, f"{what}; from channel {first} on, there are {max(0, len(channels) - first)} channels"
        else:
            covered.update(range(first, first + shape[axis]))
    missing = [str(channel) for i, channel in enumerate(channels) if i not in covered]
    if missing and all(tensor.name in shapes for tensor in head):
        yield "$.channels", f"no head tensor has a slice for: {', '.join(missing)}"


def _index_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    criteria = values.get("criteria", {})
    for name, criterion in values.get("aliases", {}).items():
        if name in criteria:
            yield f"$.aliases[{name!r}]", "is also a criterion"
        if "criteria" in values and criterion not in criteria:
            yield f"$.aliases[{name!r}]", f"means {criterion!r}, which is not in $.criteria"
    for name, release in criteria.items():
        if release.state == "yanked" and not release.reason:
            yield f"$.criteria[{name!r}].reason", "is missing: a yanked checkpoint says why"
        if not release.weights:
            yield f"$.criteria[{name!r}].weights", "is empty"
