"""The `cosemzoo` block of a card: what the run is, from which `config.json` is made."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Self

import attrs
from attrs import frozen

from cosemzoo.document import FORMAT_VERSION, Interval, Problem, VoxelSize
from cosemzoo.errors import InvalidManifest, InvalidReference, did_you_mean
from cosemzoo.loading.vocabularies import vocabularies
from cosemzoo.manifest import Architecture, Channel, HeadTensor, Manifest, Target, read_manifest
from cosemzoo.reference import parse_reference
from cosemzoo.strict_json import show

#: The key of the block in the front matter.
BLOCK: Final = "cosemzoo"

_PATH: Final = f"$.{BLOCK}"
# The kind of all channels that say none themselves: it is in the block, but not in what is read from it.
_KIND: Final = "kind"
_RECORDS: Final = {"channels": Channel, "head": HeadTensor, "target": Target, "architecture": Architecture}


@frozen(kw_only=True)
class RunDescription:
    """What a card says of all checkpoints of a run.

    Attributes
    ----------
    run : str
    iterations : tuple of int
        Those that there are; empty where the card does not say it.
    channels : tuple of Channel
        In the order of the head's rows.
    head : tuple of HeadTensor
        The head's tensors; empty where they have their usual names.
    vocabulary : str or None
        What the labels mean, one of `cosemzoo.loading.vocabularies.vocabularies`.
    input_voxel_size, output_voxel_size : (float, float, float) or None
        In nm, z y x.
    input_range : (float, float) or None
    input_sampling : str or None
    target : Target or None
    architecture : Architecture or None
        What the tensors cannot say of it.
    """

    run: str
    iterations: tuple[int, ...] = ()
    channels: tuple[Channel, ...]
    head: tuple[HeadTensor, ...] = ()
    vocabulary: str | None = None
    input_voxel_size: VoxelSize | None = None
    output_voxel_size: VoxelSize | None = None
    input_range: Interval | None = None
    input_sampling: str | None = None
    target: Target | None = None
    architecture: Architecture | None = None

    @classmethod
    def of(cls, manifest: Manifest, iterations: tuple[int, ...] = ()) -> Self:
        """Give what a manifest says of its run."""
        shared = {name: getattr(manifest, name) for name in field_names(cls) - {"iterations"}}
        return cls(iterations=iterations, **shared)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of every row."""
        return tuple(channel.label for channel in self.channels)


def field_names(record: type[Any]) -> set[str]:
    """Give the names of what a record says; `extra`, where a document's other members go, is none of them."""
    return {field.name for field in attrs.fields(record)} - {"extra"}


def read_description(block: object, source: str) -> tuple[RunDescription | None, list[Problem]]:
    """Read the block.

    Parameters
    ----------
    block : object
        As YAML gives it; None where there is none.
    source : str
        What the card is called in an error.

    Returns
    -------
    RunDescription or None
        None where there are problems.
    list of Problem
        Everything that is wrong, with its path in the front matter.
    """
    if block is None:
        return None, [(_PATH, "is missing: it says what config.json is made from")]
    if not isinstance(block, dict):
        return None, [(_PATH, f"is {show(block)}, not names and their values")]
    problems = [*_not_json(block, _PATH)]
    if problems:
        return None, problems
    problems += [*_unknown_names(block), *_run_problems(block), *_vocabulary_problems(block)]
    iterations, wrong = _read_iterations(block.get("iterations", []))
    problems += wrong
    channels, wrong = _read_channels(block)
    problems += wrong
    manifest, wrong = _read_rest(block, channels, source)
    problems += wrong
    if problems or manifest is None:
        return None, problems
    return RunDescription.of(manifest, iterations), []


def _not_json(value: object, path: str) -> Iterator[Problem]:
    """YAML has dates and sets; JSON has none of them."""
    if isinstance(value, dict):
        for name, member in value.items():
            if isinstance(name, str):
                yield from _not_json(member, f"{path}.{name}")
            else:
                yield path, f"has the name {show(name)}: put it in quotes"
    elif isinstance(value, list):
        for i, member in enumerate(value):
            yield from _not_json(member, f"{path}[{i}]")
    elif not isinstance(value, str | int | float | None):
        yield path, f"is a {type(value).__name__} ({value}): put it in quotes"


def _unknown_names(block: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _not_known(block, field_names(RunDescription) | {_KIND}, _PATH)
    for name, record in _RECORDS.items():
        value = block.get(name)
        members = enumerate(value) if isinstance(value, list) else [(None, value)]
        for i, member in members:
            where = f"{_PATH}.{name}" + ("" if i is None else f"[{i}]")
            if isinstance(member, dict):
                yield from _not_known(member, field_names(record), where)


def _not_known(value: Mapping[str, Any], known: set[str], path: str) -> Iterator[Problem]:
    for name in value:
        if name not in known:
            hint = did_you_mean(name, sorted(known)) or f" There are: {', '.join(sorted(known))}."
            yield f"{path}.{name}", f"is not known here.{hint}"


def _run_problems(block: Mapping[str, Any]) -> Iterator[Problem]:
    run = block.get("run")
    if not isinstance(run, str):
        return
    try:
        reference = parse_reference(run)
    except InvalidReference as error:
        yield f"{_PATH}.run", f"cannot be the name of a run: {error.problem}"
        return
    if reference.namespace or reference.criterion or reference.place != "hub":
        yield f"{_PATH}.run", f"is {run!r}: give the run's name alone"


def _vocabulary_problems(block: Mapping[str, Any]) -> Iterator[Problem]:
    name = block.get("vocabulary")
    if isinstance(name, str) and name not in vocabularies():
        hint = did_you_mean(name, vocabularies()) or f" There are: {', '.join(vocabularies())}."
        yield f"{_PATH}.vocabulary", f"is {name!r}, which is not known here.{hint}"


def _read_iterations(value: object) -> tuple[tuple[int, ...], list[Problem]]:
    path = f"{_PATH}.iterations"
    if not isinstance(value, list):
        return (), [(path, f"is {show(value)}, not a list of iterations")]
    problems = []
    for i, iteration in enumerate(value):
        if type(iteration) is not int or iteration < 0:
            problems.append((f"{path}[{i}]", f"is {show(iteration)}, not an integer from 0 on"))
        elif iteration in value[:i]:
            problems.append((f"{path}[{i}]", f"repeats {iteration}"))
    return (() if problems else tuple(value)), problems


def _read_channels(block: Mapping[str, Any]) -> tuple[object, list[Problem]]:
    """Give the channels as a manifest has them: each with its own kind."""
    listed = block.get("channels")
    if not isinstance(listed, list):
        return listed, []
    channels, problems, without = [], [], 0
    for i, entry in enumerate(listed):
        if isinstance(entry, dict):
            channel = dict(entry)
        elif isinstance(entry, str):
            channel = {"label": entry}
        else:
            # YAML reads words such as `no` and `on` as true and false.
            problems.append(
                (f"{_PATH}.channels[{i}]", f"is {show(entry)}, not a label: put labels in quotes")
            )
            channel = {"label": f"channel {i}"}
        without += _KIND not in channel and _KIND not in block
        channels.append({_KIND: block.get(_KIND, "?"), **channel})
    if without:
        problems.append((f"{_PATH}.{_KIND}", f"is missing, and {without} channels do not say theirs"))
    return channels, problems


def _read_rest(
    block: Mapping[str, Any], channels: object, source: str
) -> tuple[Manifest | None, list[Problem]]:
    """Read what the block and a manifest have in common, as a manifest."""
    shared = {name: value for name, value in block.items() if name in field_names(RunDescription)}
    shared.pop("iterations", None)
    if channels is not None:
        shared["channels"] = channels
    head = block.get("head", [])
    if isinstance(head, list):
        head = [{"name": tensor} if isinstance(tensor, str) else tensor for tensor in head]
    document = {"format_version": FORMAT_VERSION, **shared, "head": head}
    try:
        return read_manifest(json.dumps(document).encode(), source), []
    except InvalidManifest as error:
        return None, [(_PATH + path.removeprefix("$"), problem) for path, problem in error.problems]
