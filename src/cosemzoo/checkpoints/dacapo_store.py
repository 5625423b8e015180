"""Checkpoints in DaCapo's store of weights: which iteration a name means, and what the rows of its head are.

================================================  ===================================================
path below ``runs_base_dir``                      holds
================================================  ===================================================
``<run>/checkpoints/iterations/<n>``              the weights of an iteration
``<run>/checkpoints/<dataset>/<criterion>``       a link to the best iteration
``<run>/checkpoints/<dataset>/<criterion>.json``  the same: ``{"iteration": n}``
``<run>/checkpoints/<key>``                       weights that somebody gave a name, such as ``best``
``configs/runs/<run>.yaml``                       the run's configuration
================================================  ===================================================

DaCapo 0.3.5 writes ``<dataset>/<criterion>.json`` and reads ``<criterion>/<dataset>.json``: either order is
accepted. Its links hold the path of the machine that wrote them, so they are read, not followed.
"""

import filecmp
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Final

import yaml  # type: ignore[import-untyped]
from attrs import frozen

from cosemzoo.errors import (
    CosemZooError,
    CosemZooWarning,
    CriterionNotFound,
    InvalidDocument,
    NotReadable,
    RunNotFound,
    UnreadableCheckpoint,
)
from cosemzoo.strict_json import NotStrictJSON, decode, show

_BEST: Final = "best"
_CHECKPOINTS: Final = "checkpoints"
_ITERATIONS: Final = "iterations"
_ITERATION: Final = re.compile(r"0|[1-9][0-9]*")
# The tasks whose head has one row for each member of a list of labels, by kind, one kind after another:
# `create_model` of the predictors of DaCapo 0.3.5, and for HotDistance its loss, which splits the rows.
_HEADS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "OneHotTaskConfig": ("classes", ("one-hot",)),
    "DistanceTaskConfig": ("channels", ("distance",)),
    "HotDistanceTaskConfig": ("channels", ("one-hot", "distance")),
    "InnerDistanceTaskConfig": ("channels", ("inner-distance",)),
}


@frozen
class StoredCheckpoint:
    """One checkpoint of a run in a store.

    Attributes
    ----------
    path : Path
        Its weights: a file that torch has pickled, without a suffix.
    run : str
    iteration : int
    criterion : str
        What was asked: ``best``, ``jrc_hela-2/f1_score``, ``1000``.
    names : tuple of str
        Every ``<dataset>/<criterion>``, as the store spells it, that means this iteration.
    """

    path: Path
    run: str
    iteration: int
    criterion: str
    names: tuple[str, ...]


@frozen
class _Record:
    """What is recorded under one name: an iteration, or why none can be told."""

    name: str
    iteration: int | None
    problems: tuple[str, ...] = ()
    file: Path | None = None

    @property
    def is_best(self) -> bool:
        """Whether it is the best by a criterion on a dataset, as far as can be told."""
        return "/" in self.name and (self.iteration is not None or bool(self.problems))


@frozen
class _Run:
    """A run's iterations, and the names that are recorded for them."""

    name: str
    folder: Path
    iterations: Mapping[int, Path]
    records: tuple[_Record, ...]

    def missing(self, wanted: str, note: str = "") -> CriterionNotFound:
        names = [record.name for record in self.records if record.is_best or record.iteration is not None]
        return CriterionNotFound(f"{self.name}@{wanted}", wanted, [*map(str, self.iterations), *names], note)

    def contradiction(self, problems: Sequence[str]) -> UnreadableCheckpoint:
        step = f"Correct it, or say which iteration: {self.name}@ITERATION."
        return UnreadableCheckpoint(str(self.folder), "; ".join(problems), step)


def find_stored(basedir: Path, run: str, criterion: str | None) -> StoredCheckpoint:
    """Find a checkpoint in a DaCapo store of weights.

    Parameters
    ----------
    basedir : Path
        DaCapo's ``runs_base_dir``.
    run : str
        The run's folder in it.
    criterion : str or None
        An iteration; a name that is recorded, in either order of dataset and criterion; or ``best``, which
        None also means: what is stored under that name, else the one iteration that all recorded names mean.

    Raises
    ------
    RunNotFound
        If there is no such run; it says what to give where `basedir` is the run's own folder.
    CriterionNotFound
        If there is no such checkpoint, or the recorded names do not agree on the best.
    UnreadableCheckpoint
        If what is recorded contradicts itself, or is damaged.
    NotReadable
        If a file or a folder of the store cannot be read.

    Warns
    -----
    CosemZooWarning
        If the run's folder of iterations holds other names, or has damaged records that were not needed.
    """
    wanted = criterion or _BEST
    with _reading(f"{run}@{wanted}"):
        folder = _checkpoints_of(basedir, run)
        iterations, others = _iterations_in(folder)
        stored = _Run(run, folder, iterations, tuple(_records_in(folder, iterations)))
        if others:
            message = f"{folder / _ITERATIONS} holds names that are no iterations: {', '.join(others)}"
            warnings.warn(f"{message}; they are ignored", CosemZooWarning, stacklevel=2)
        record = _choose(stored, wanted)
        assert record.iteration is not None
        path = _weights_of(stored, record, record.iteration)
    names = (other.name for other in stored.records if other.iteration == record.iteration and other.is_best)
    return StoredCheckpoint(path, run, record.iteration, wanted, tuple(names))


def stored_channels(basedir: Path, run: str) -> tuple[tuple[str, str], ...] | None:
    """Give the channels of a run from its configuration in DaCapo's store of files.

    Parameters
    ----------
    basedir : Path
        DaCapo's ``runs_base_dir``.
    run : str

    Returns
    -------
    tuple of (str, str) or None
        (label, kind) of each row of the head; None where there is no configuration, or it does not name
        them: the rows of affinities have no labels, and the rows of other tasks are not known.

    Raises
    ------
    InvalidDocument
        If the configuration is not YAML.
    NotReadable
        If it cannot be read.
    """
    path = basedir / "configs" / "runs" / f"{run}.yaml"
    with _reading(run):
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        # Plain texts, lists and mappings: a tag, such as python/tuple that DaCapo writes, means nothing here.
        config = yaml.BaseLoader(text).get_single_data()
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidDocument(str(path), [("$", f"is not YAML ({' '.join(str(error).split())})")]) from error
    except RecursionError as error:
        raise InvalidDocument(str(path), [("$", "is nested too deeply")]) from error
    return _rows_of(config.get("task_config")) if isinstance(config, dict) else None


def _rows_of(task: object) -> tuple[tuple[str, str], ...] | None:
    while isinstance(task, dict) and task.get("__type__") == "PretrainedTaskConfig":
        task = task.get("sub_task_config")
    if not isinstance(task, dict):
        return None
    kind = task.get("__type__")
    member, kinds = _HEADS.get(kind, ("", ())) if isinstance(kind, str) else ("", ())
    labels = task.get(member)
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        return None
    return tuple((label, kind) for kind in kinds for label in labels) or None


@contextmanager
def _reading(reference: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, CosemZooError):
            raise
        raise NotReadable(reference, str(error.filename), str(error.strerror)) from error


# --- what is there -----------------------------------------------------------------------------------------


def _checkpoints_of(basedir: Path, run: str) -> Path:
    folder = basedir / run / _CHECKPOINTS
    if folder.is_dir():
        return folder
    inside = basedir.absolute()
    # The folder was given of one run (with or without its checkpoints), not of all of them.
    if inside.name == _CHECKPOINTS and (inside / _ITERATIONS).is_dir():
        inside = inside.parent
    if (inside / _CHECKPOINTS / _ITERATIONS).is_dir():
        given = f"{basedir} belongs to the run {inside.name} alone. Give the folder of all runs"
        hint = f"{given}: --store {inside.parent}, and the run {inside.name}."
    elif not basedir.is_dir():
        hint = "There is no such folder. Give DaCapo's runs_base_dir."
    else:
        runs = sorted(path.parent.name for path in basedir.glob(f"*/{_CHECKPOINTS}"))
        hint = f"It has: {', '.join(runs) or 'no runs'}. Give DaCapo's runs_base_dir, and one of its runs."
    raise RunNotFound(run, f"run {run} in the DaCapo store {basedir}", hint)


def _iterations_in(folder: Path) -> tuple[dict[int, Path], list[str]]:
    """Give the weights by iteration, in ascending order, and the names that are no iterations."""
    place = folder / _ITERATIONS
    found = sorted(place.iterdir()) if place.is_dir() else []
    flat = [path for path in folder.iterdir() if _is_iteration(path)]
    files = [path for path in found if _is_iteration(path)]
    iterations = {int(path.name): path for path in [*flat, *files]}
    return dict(sorted(iterations.items())), [path.name for path in found if path not in files]


def _is_iteration(path: Path) -> bool:
    return _ITERATION.fullmatch(path.name) is not None and path.is_file()


def _records_in(folder: Path, iterations: Mapping[int, Path]) -> Iterator[_Record]:
    names: dict[str, None] = {}
    for path in sorted(folder.iterdir()):
        if path.name != _ITERATIONS and not _is_iteration(path):
            names |= dict.fromkeys(_names_below(path, folder))
    for name in names:
        yield _record(folder, name, iterations)


def _names_below(path: Path, folder: Path) -> Iterator[str]:
    """Give the name of every file and of every link, those that lead nowhere too."""
    if path.is_dir() and not path.is_symlink():
        for member in sorted(path.iterdir()):
            yield from _names_below(member, folder)
    else:
        yield path.relative_to(folder).as_posix().removesuffix(".json")


def _record(folder: Path, name: str, iterations: Mapping[int, Path]) -> _Record:
    path, document = folder / name, folder / f"{name}.json"
    noted, problem = _noted_iteration(document) if document.is_file() else (None, "")
    problems = [f"{name}.json {problem}"] if problem else []
    if path.is_symlink():
        linked = _linked_iteration(path, folder, iterations)
        target = f"the link {name} leads to {os.readlink(path)}"
        if noted is None and linked is None and not problems:
            problems.append(f"{target}, which is no iteration of this run")
        elif noted is not None and linked not in {None, noted}:
            problems.append(f"{target}, but {name}.json says iteration {noted}")
        iteration = linked if noted is None else noted
        return _Record(name, None if problems else iteration, tuple(problems))
    iteration, file = noted, path if path.is_file() else None
    if file is not None and noted is None and not problems:
        same = [n for n, other in iterations.items() if filecmp.cmp(other, file, shallow=False)]
        iteration = same[0] if len(same) == 1 else None
    return _Record(name, iteration, tuple(problems), file)


def _noted_iteration(document: Path) -> tuple[int | None, str]:
    """Give what a ``{"iteration": n}`` says, or what is wrong with it."""
    try:
        decoded = decode(document.read_bytes())
    except NotStrictJSON as error:
        return None, str(error)
    value = decoded.value
    if decoded.repeated:
        return None, f"repeats the key {show(decoded.repeated[0][1])}"
    if not isinstance(value, dict) or "iteration" not in value:
        return None, f"is {show(value)}, without an iteration"
    iteration = value["iteration"]
    # `type`, not `isinstance`: JSON's true is no number, though Python's is an int.
    if type(iteration) is not int or iteration < 0:
        return None, f"says {show(iteration)}, which is no iteration"
    return iteration, ""


def _linked_iteration(path: Path, folder: Path, iterations: Mapping[int, Path]) -> int | None:
    """Give the iteration that a link means: by its text, for it may lead to where the store was once."""
    target = PurePath(os.readlink(path))
    above = target.parent.parent
    # A link into another run's checkpoints means none of this one.
    run = above.parent.name if above.name == _CHECKPOINTS else ""
    if _ITERATION.fullmatch(target.name) and target.parent.name == _ITERATIONS:
        return int(target.name) if run in {folder.parent.name, "", ".."} else None
    here = os.path.realpath(path)
    return next((n for n, file in iterations.items() if os.path.realpath(file) == here), None)


# --- what was asked ----------------------------------------------------------------------------------------


def _choose(run: _Run, wanted: str) -> _Record:
    if _ITERATION.fullmatch(wanted):
        if int(wanted) not in run.iterations:
            raise run.missing(wanted)
        damaged = [problem for record in run.records for problem in record.problems]
        if damaged:
            message = f"{run.folder}: {'; '.join(damaged)}; what is recorded there is ignored"
            warnings.warn(message, CosemZooWarning, stacklevel=3)
        return _Record(wanted, int(wanted))
    spellings = _spellings(wanted)
    means = [record for record in run.records if record.name in spellings]
    if not means and wanted == _BEST:
        means = [record for record in run.records if record.is_best]
        if not means:
            raise run.missing(wanted, f"No best is recorded: say which iteration, {run.name}@ITERATION.")
    if not means:
        raise run.missing(wanted)
    return _agreed(run, wanted, means)


def _spellings(wanted: str) -> set[str]:
    """Give a name in either order of dataset and criterion; each of them may hold a ``/``."""
    parts = wanted.split("/")
    return {"/".join(parts[i:] + parts[:i]) for i in range(len(parts))}


def _agreed(run: _Run, wanted: str, means: Sequence[_Record]) -> _Record:
    problems = [problem for record in means for problem in record.problems]
    problems += [
        f"nothing says which iteration the file {record.name} is"
        for record in means
        if record.iteration is None and not record.problems
    ]
    if problems:
        raise run.contradiction(problems)
    if len({record.iteration for record in means}) > 1:
        said = ", ".join(f"{record.name} means {record.iteration}" for record in means)
        iterations = ", ".join(map(str, run.iterations)) or "none"
        raise run.missing(
            wanted, f"What is recorded does not agree: {said}. The iterations are: {iterations}. Say which."
        )
    return means[0]


def _weights_of(run: _Run, record: _Record, iteration: int) -> Path:
    path = run.iterations.get(iteration, record.file)
    if path is None:
        raise run.missing(
            record.name, f"{record.name} means {iteration}, whose weights are not in the store any more."
        )
    flat = run.folder / str(iteration)
    if path != flat and flat.is_file() and not filecmp.cmp(path, flat, shallow=False):
        problem = f"the files {_ITERATIONS}/{iteration} and {iteration} differ"
        raise UnreadableCheckpoint(str(run.folder), problem, "Remove the one that is wrong.")
    return path
