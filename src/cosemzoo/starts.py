"""The DaCapo-shaped face: starts and their configs, with the attributes and methods that DaCapo's have.

A start is a named checkpoint and the promise to fill a model from it. Making one parses, no more.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Unpack

import attrs
from torch import nn

from cosemzoo.errors import InvalidHead, InvalidManifest, InvalidReference
from cosemzoo.loading.labels import UNKNOWN_KIND, NewHead, WantedChannel, parse_new_head
from cosemzoo.loading.layouts import HEAD_PREFIX, detect_layout, wrapper_prefix
from cosemzoo.loading.plan import LoadPlan
from cosemzoo.loading.report import LoadReport
from cosemzoo.manifest import Channel, HeadTensor, Manifest, check_manifest
from cosemzoo.models import LoadOptions, PlanOptions, WeightsStore, load_checkpoint, plan_load
from cosemzoo.reference import DEFAULT_CRITERION, Reference, parse_reference
from cosemzoo.zoo import Checkpoint, Zoo
from cosemzoo.zoo.weights import shapes_of

_M = TypeVar("_M", bound=nn.Module)

_logger = logging.getLogger("cosemzoo")


class FolderStore:
    """Checkpoints in folders: ``<root>/<run>/<criterion>/``, each with its safetensors and ``config.json``.

    Parameters
    ----------
    root : str or Path
    """

    def __init__(self, root: str | Path) -> None:
        self._zoo = Zoo(local_dir=Path(root), offline=True)

    def resolve(self, reference: "str | os.PathLike[str] | Reference") -> Checkpoint:
        """Find the checkpoint of a run and criterion; whatever namespace it has is not looked at.

        Raises
        ------
        RunNotFound, CriterionNotFound
            If there is no such folder.
        InvalidManifest, InvalidSafetensors, WeightsNotFound
            If it cannot be trusted.
        """
        parsed = parse_reference(reference)
        if parsed.place == "folder":
            raise InvalidReference(parsed.run, "a FolderStore is asked for run@criterion, not for a folder")
        return self._zoo.resolve(attrs.evolve(parsed, place="local", namespace=None))

    def fetch(self, checkpoint: Checkpoint) -> Mapping[str, Path]:
        """Give its files."""
        return self._zoo.fetch(checkpoint)


class Start:
    """A starting point: a checkpoint of a weights store.

    Parameters
    ----------
    start_config : str, os.PathLike, StartConfig, or mapping
        A reference (``run@criterion``), a resolved `Checkpoint`, an object with ``run`` and ``criterion``,
        or a mapping with these keys. ``start_config.task_config.channels``, where present, are the labels of
        the checkpoint's head.
    store : WeightsStore, optional
        Where the checkpoint is; by default the Hub, as `Zoo()` finds it.

    Attributes
    ----------
    run : str
    criterion : str
    name : str
        ``run/criterion``.
    report : LoadReport or None
        What the last load did.

    Raises
    ------
    InvalidReference
        If it cannot name a checkpoint.
    """

    def __init__(self, start_config: Any, store: WeightsStore | None = None) -> None:
        self.reference = _reference_of(start_config)
        self.run = str(attrs.evolve(self.reference, criterion=None))
        self.criterion = self.reference.wanted
        self.name = f"{self.run}/{self.criterion}"
        self.report: LoadReport | None = None
        self._store: WeightsStore = Zoo() if store is None else store
        task_config = _member(start_config, "task_config")
        given = None if task_config is None else _member(task_config, "channels")
        self._given_channels = parse_new_head(given)
        self._checkpoint = start_config if isinstance(start_config, Checkpoint) else None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, resolved when it is first needed and the same from then on.

        Raises
        ------
        CosemZooError
            As `cosemzoo.resolve`.
        """
        if self._checkpoint is None:
            checkpoint = self._store.resolve(self.reference)
            if self._given_channels is not None:
                checkpoint = with_channels(checkpoint, self.run, self._given_channels)
            self._checkpoint = checkpoint
        return self._checkpoint

    @property
    def channels(self) -> list[str] | None:
        """The labels of the checkpoint's head, once each, in the order of its rows; None if unknown."""
        if self._given_channels is not None:
            return list(dict.fromkeys(channel.label for channel in self._given_channels))
        manifest = self.checkpoint.manifest
        return None if manifest is None else list(manifest.labels)

    def check(self) -> None:
        """Make the checkpoint present on this machine, and verify it.

        Raises
        ------
        CosemZooError
            As `cosemzoo.fetch`.
        """
        self._store.fetch(self.checkpoint)

    def plan(
        self,
        model: nn.Module,
        new_head: NewHead = None,
        **options: Unpack[PlanOptions],
    ) -> LoadPlan:
        """Plan what `initialize_weights` would do; nothing is downloaded, nothing is changed.

        Parameters and errors are those of `cosemzoo.plan_load`.
        """
        return plan_load(
            model,
            self.checkpoint,
            new_head=new_head,
            zoo=self._store,
            **options,
        )

    def initialize_weights(
        self,
        model: _M,
        new_head: NewHead = None,
        **options: Unpack[LoadOptions],
    ) -> _M:
        """Load the checkpoint into the model, in place.

        Parameters, warnings and errors are those of `cosemzoo.load_into`; the report is `report`.

        Returns
        -------
        torch.nn.Module
            The same model.
        """
        self.report = None
        self.report = load_checkpoint(model, self.checkpoint, new_head, options, self._store)
        return model

    def __repr__(self) -> str:
        """Give the call that makes it."""
        return f"{type(self).__name__}({str(self.reference)!r})"


class CosemStart(Start):
    """A starting point that is a run of the zoo.

    Examples
    --------
    >>> start = CosemStart("setup04@1820500")
    >>> start.name
    'setup04/1820500'
    """


def _criterion_text(criterion: object) -> str:
    return DEFAULT_CRITERION if criterion is None else str(criterion)


@attrs.define
class StartConfig:
    """Which run and criterion to start from.

    Attributes
    ----------
    run : str
        The run, such as ``setup04`` or ``namespace/run``.
    criterion : str
        Which of its checkpoints.
    """

    start_type: ClassVar[type[Start]] = Start

    run: str = attrs.field(metadata={"help_text": "The run to use as a starting point."})
    criterion: str = attrs.field(
        default=DEFAULT_CRITERION,
        converter=_criterion_text,
        metadata={"help_text": "The criterion for choosing weights from the run."},
    )


@attrs.define
class CosemStartConfig(StartConfig):
    """Which run of the zoo to start from.

    Examples
    --------
    >>> config = CosemStartConfig(run="setup04", criterion="best")
    >>> config.start_type(config).name
    'setup04/best'
    """

    start_type: ClassVar[type[Start]] = CosemStart


def _member(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _reference_of(start_config: Any) -> Reference:
    if isinstance(start_config, Checkpoint):
        return start_config.reference
    if isinstance(start_config, (str, os.PathLike, Reference)):
        return parse_reference(start_config)
    run, criterion = _member(start_config, "run"), _member(start_config, "criterion")
    if not isinstance(run, (str, os.PathLike)):
        problem = "a start is a reference, or a config with a run and a criterion"
        raise InvalidReference(repr(start_config), problem)
    parsed = parse_reference(run)
    if criterion is None or (parsed.place == "folder" and criterion == DEFAULT_CRITERION):
        return parsed
    if parsed.place == "folder":
        raise InvalidReference(
            f"{run}@{criterion}", "a folder is one checkpoint and has no criteria", str(parsed)
        )
    if parsed.criterion is not None:
        raise InvalidReference(f"{run}@{criterion}", "run names a criterion already", str(parsed))
    return parse_reference(f"{parsed}@{criterion}")


def with_channels(checkpoint: Checkpoint, run: str, given: Sequence[WantedChannel]) -> Checkpoint:
    """Give a checkpoint the labels that its config says it has, if it does not say them itself.

    Raises
    ------
    InvalidHead
        If it says others.
    """
    labels = list(dict.fromkeys(channel.label for channel in given))
    if checkpoint.manifest is not None:
        said = list(checkpoint.manifest.labels)
        if said != labels:
            raise InvalidHead(
                [f"task_config.channels is {labels}, but the checkpoint's manifest says {said}"]
            )
        return checkpoint
    manifest = _manifest_of(run, given, checkpoint)
    if manifest is None:
        _logger.warning("%s: its head does not fit the channels %s: they are not used", run, labels)
        return checkpoint
    return attrs.evolve(checkpoint, manifest=manifest)


def _manifest_of(run: str, given: Sequence[WantedChannel], checkpoint: Checkpoint) -> Manifest | None:
    """Describe a checkpoint that does not describe itself; None where the labels do not fit its head."""
    shapes = shapes_of(checkpoint.weights)
    wrapper = wrapper_prefix(shapes)
    layout = detect_layout(name.removeprefix(wrapper) for name in shapes)
    head = tuple(
        HeadTensor(name)
        for name in shapes
        if layout.canonical(name.removeprefix(wrapper)).startswith(HEAD_PREFIX)
    )
    channels = tuple(Channel(one.label, one.kind or UNKNOWN_KIND) for one in given)
    manifest = Manifest(run=run, channels=channels, head=head)
    try:
        check_manifest(manifest, shapes, run)
    except InvalidManifest:
        return None
    return manifest
