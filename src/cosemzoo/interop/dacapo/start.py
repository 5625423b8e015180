"""A start for DaCapo's `RunConfig`: a configuration that DaCapo stores whole, and what it makes of a model.

DaCapo rebuilds a stored configuration by the name of its class, among the classes that it knows itself. It
has a `CosemStartConfig` of its own: what is stored under that name would come back as DaCapo's, without its
labels, and train. So this one is stored under another name, which `register` makes known, and without what
DaCapo's `Start` looks for: a process that did not call `register` fails before it trains.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeVar, Unpack

import attrs
from torch import nn

from cosemzoo.errors import InvalidHead, InvalidOption
from cosemzoo.interop.dacapo.peer import dacapo_module
from cosemzoo.interop.dacapo.store import DacapoStore
from cosemzoo.loading.labels import NewHead, WantedChannel, parse_new_head
from cosemzoo.loading.plan import LoadPlan
from cosemzoo.manifest import Channel
from cosemzoo.models import LoadOptions, PlanOptions
from cosemzoo.reference import DEFAULT_CRITERION, parse_reference
from cosemzoo.starts import CosemStart

_M = TypeVar("_M", bound=nn.Module)
_StartConfig: Any = dacapo_module("dacapo.experiments.starts").StartConfig
# A process that cannot read a stored configuration prints it: this says what to do.
_READ_WITH: Final = "cosemzoo.interop.dacapo.register(), called before DaCapo reads this"
_DEFAULT: Final[Mapping[str, object]] = {
    "label_map": None,
    "vocabulary": None,
    "head": None,
    "rename": None,
    "in_channels": "error",
    "input_channels": None,
    "input_range": None,
    "voxel_size": None,
    "strict": "auto",
    "min_coverage": 0.5,
}
# DaCapo's stores have lists only.
_INTERVALS: Final = ("input_range", "voxel_size")


class ConfiguredStart(CosemStart):
    """What DaCapo makes of a `CosemStartConfig`: it fills the model as the configuration says.

    Parameters
    ----------
    start_config : CosemStartConfig
    """

    def __init__(self, start_config: Any) -> None:
        base = start_config.runs_base_dir
        super().__init__(start_config, None if base is None else DacapoStore(base))
        self._config = start_config
        self._options: dict[str, Any] = {
            name: tuple(value) if name in _INTERVALS and isinstance(value, list) else value
            for name, default in _DEFAULT.items()
            if (value := getattr(start_config, name)) != default
        }

    def plan(self, model: nn.Module, new_head: NewHead = None, **options: Unpack[PlanOptions]) -> LoadPlan:
        """Plan what `initialize_weights` would do, with the same arguments."""
        given: Any = {**self._options, **options}
        return super().plan(model, self._rows(model, new_head, given), **given)

    def initialize_weights(self, model: _M, new_head: NewHead = None, **options: Unpack[LoadOptions]) -> _M:
        """Load the checkpoint into the model, in place, as DaCapo calls it.

        Parameters
        ----------
        model : torch.nn.Module
        new_head : sequence of labels, optional
            What DaCapo takes for the labels of the head: the task's channels in 0.3.5, None in main.
        **options
            Of `cosemzoo.load_into`, instead of those of the configuration.

        Raises
        ------
        InvalidHead
            If the configuration has another `new_head`, or nothing says which tensors are the head.
        CosemZooError
            As `cosemzoo.load_into`.
        """
        given: Any = {**self._options, **options}
        return super().initialize_weights(model, self._rows(model, new_head, given), **given)

    def _rows(self, model: nn.Module, given: NewHead, options: Mapping[str, Any]) -> NewHead:
        """Say what the rows of the model's head are; where nobody knows, that all of them are kept."""
        own, task = parse_new_head(self._config.new_head), parse_new_head(given)
        if own is not None and task is not None and _labels(own) != _labels(task):
            raise InvalidHead(
                [
                    f"new_head of the start has the labels {_labels(own)}, but the task's channels are "
                    f"{_labels(task)}: make them the same, or leave out new_head"
                ]
            )
        if own is not None:
            rows: NewHead = self._config.new_head
            return rows
        if task is not None or options.get("strict") == "require":
            return given
        if self.checkpoint.manifest is None:
            raise InvalidHead(
                [
                    f"neither the start's new_head nor {self.reference} says what the rows of the head are: "
                    'give new_head=[…]; or strict="require", if the model is this very network'
                ]
            )
        planning: Any = {name: value for name, value in options.items() if name != "read"}
        count = len(super().plan(model, None, **planning).channels)
        return {f"row {row} (of no known label)": None for row in range(count)} or None


def _labels(rows: Sequence[WantedChannel]) -> list[str]:
    return list(dict.fromkeys(row.label for row in rows))


def _plain(option: str, value: Any) -> Any:
    """Give an option as texts, numbers, lists and mappings by text: what DaCapo can store."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        # A number of numpy, or a member of an enumeration, can be one of these too.
        return int(value) if isinstance(value, int) else float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Channel):
        value = [value.label, value.kind]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): _plain(option, member) for key, member in value.items()}
    tolist = getattr(value, "tolist", None)
    if callable(tolist):
        return _plain(option, tolist())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_plain(option, member) for member in value]
    allowed = "of texts, numbers, lists and mappings by text here: what DaCapo can store"
    raise InvalidOption(option, value, allowed)


def _stored_option(value: Any, field: "attrs.Attribute[Any]") -> Any:
    return _plain(field.name, value)


def _storable(_: type, fields: "list[attrs.Attribute[Any]]") -> "list[attrs.Attribute[Any]]":
    """Have every option of a load converted to what DaCapo can store."""
    converter: Any = attrs.Converter(_stored_option, takes_field=True)
    return [each.evolve(converter=converter) if each.name in _DEFAULT else each for each in fields]


def _stored_new_head(value: Any) -> Any:
    if isinstance(value, Mapping):
        allowed = "a list here, because DaCapo stores mappings without their order: use label_map beside it"
        raise InvalidOption("new_head", value, allowed)
    return _plain("new_head", value)


def _run(value: Any) -> Any:
    return str(parse_reference(value)) if isinstance(value, os.PathLike) else value


def _criterion(value: object) -> str:
    return DEFAULT_CRITERION if value is None else str(value)


@attrs.frozen(field_transformer=_storable)
class CosemZooStartConfig(_StartConfig):  # type: ignore[misc]
    """Which checkpoint DaCapo starts a run from, and how it is loaded: ``RunConfig(start_config=…)``.

    Attributes
    ----------
    run : str
        A run of the zoo, such as ``setup04`` or ``namespace/run``; with `runs_base_dir`, one of DaCapo's.
    criterion : str
        Which of its checkpoints.
    new_head : list of labels or [label, kind], optional
        The channels of the model's head, in the order of its rows. Where DaCapo hands over the channels of
        the task as well, the labels of both must be the same. Where neither is there, no labels are guessed:
        the model keeps all rows of its head, unless `strict` is "require".
    label_map, vocabulary, head, rename, in_channels, input_channels
        As for `cosemzoo.load_into`; the keys of `label_map` are labels.
    input_range, voxel_size, strict, min_coverage
        As there. ``input_range=(0, 1)`` is right for DaCapo's intensities, which lie between 0 and 1, where
        the COSEM networks were trained on -1 to 1.
    runs_base_dir : str, optional
        Start from a run in this store of DaCapo's, instead of from the zoo.

    Raises
    ------
    InvalidReference, InvalidHead, InvalidOption
        If `run` and `criterion` name no checkpoint, if `new_head` cannot be one, or if an option is of a kind
        that DaCapo cannot store.

    Examples
    --------
    >>> config = CosemStartConfig("setup04", "1820500", new_head=["mito", "er"])
    >>> config.start_type(config).name
    'setup04/1820500'
    """

    start_type: ClassVar[type[ConfiguredStart]] = ConfiguredStart

    run: str = attrs.field(init=False, repr=False)
    criterion: str = attrs.field(init=False, repr=False)
    # What is stored in their place.
    from_run: str = attrs.field(alias="run", converter=_run)
    from_criterion: str = attrs.field(default=DEFAULT_CRITERION, alias="criterion", converter=_criterion)
    new_head: Any = attrs.field(default=None, converter=_stored_new_head)
    # Read back as they are: whether they are allowed is said where they are used, as of any other load.
    label_map: Any = None
    vocabulary: Any = None
    head: Any = None
    rename: Any = None
    in_channels: Any = "error"
    input_channels: Any = None
    input_range: Any = None
    voxel_size: Any = None
    strict: Any = "auto"
    min_coverage: Any = 0.5
    runs_base_dir: str | None = attrs.field(default=None, converter=attrs.converters.optional(str))
    read_with: str = attrs.field(default=_READ_WITH, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        """Give DaCapo's attributes their values, and refuse at once what could never be loaded."""
        object.__setattr__(self, "run", self.from_run)
        object.__setattr__(self, "criterion", self.from_criterion)
        ConfiguredStart(self)
        parse_new_head(self.new_head)


CosemStartConfig = CosemZooStartConfig


def register() -> None:
    """Make `CosemStartConfig` known to DaCapo, so that it reads back what it has stored.

    Every process that reads a stored run with such a start has to call it first. Calling it again changes
    nothing.
    """
    hooks = dacapo_module("dacapo.store.conversion_hooks")
    setattr(hooks, CosemZooStartConfig.__name__, CosemZooStartConfig)
