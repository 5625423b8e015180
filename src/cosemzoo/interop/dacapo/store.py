"""Checkpoints in DaCapo's store of weights, as the zoo has them: with a manifest, and as safetensors.

DaCapo keeps pickles. Each is converted once, without running any of its code, into a cache folder that is
named by the SHA-256 of the pickle.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs
from filelock import BaseFileLock, FileLock
from huggingface_hub import cached_assets_path

from cosemzoo.checkpoints.dacapo_store import StoredCheckpoint, find_stored, stored_channels
from cosemzoo.checkpoints.shards import SUFFIX
from cosemzoo.errors import InvalidReference, InvalidSetting, UnreadableCheckpoint
from cosemzoo.interop.dacapo.options import runs_base_dir
from cosemzoo.loading.labels import WantedChannel
from cosemzoo.publishing.conversion import convert
from cosemzoo.reference import Reference, parse_reference
from cosemzoo.starts import with_channels
from cosemzoo.zoo import Checkpoint, Zoo
from cosemzoo.zoo.digests import DigestMemory, read_record, write_record
from cosemzoo.zoo.failures import read_errors
from cosemzoo.zoo.weights import SINGLE_FILE

_RECORD: Final = "conversion.json"
_LOCK: Final = ".lock"


class DacapoStore:
    """The checkpoints that DaCapo has stored on this machine; give it to `Start`, `load_into` or `fetch`.

    A reference is ``run@criterion``: the criterion is an iteration, ``<dataset>/<criterion>`` in either
    order, or ``best``. Where the run's configuration is stored too, the checkpoint's channels are the
    labels of its task.

    Parameters
    ----------
    runs_base_dir : str or os.PathLike, optional
        DaCapo's folder of that name; by default that of DaCapo's options (`cosemzoo.interop.dacapo.options`).
    cache_dir : str or os.PathLike, optional
        Where converted weights are kept; by default in the assets of huggingface_hub (``HF_ASSETS_CACHE``).

    Examples
    --------
    >>> from cosemzoo.starts import Start
    >>> start = Start("my_run@2000", store=DacapoStore("/data/dacapo"))
    >>> start.name
    'my_run/2000'
    """

    def __init__(
        self,
        runs_base_dir: str | os.PathLike[str] | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._runs_base_dir = None if runs_base_dir is None else Path(runs_base_dir)
        self._cache_dir = None if cache_dir is None else Path(cache_dir)
        self._zoo = Zoo(offline=True)

    @property
    def runs_base_dir(self) -> Path:
        """DaCapo's folder of runs.

        Raises
        ------
        InvalidSetting
            If it was not given, and DaCapo's options cannot be read.
        """
        return runs_base_dir() if self._runs_base_dir is None else self._runs_base_dir

    def resolve(self, reference: "str | os.PathLike[str] | Reference") -> Checkpoint:
        """Find a checkpoint; the first time, its weights are converted.

        Raises
        ------
        InvalidReference
            If it is not a run of a store.
        RunNotFound, CriterionNotFound
            If there is nothing of that name.
        UnreadableCheckpoint, UnsafePickle, NonFiniteValues, AliasConflict, InvalidDocument, NotReadable
            If what is stored cannot be trusted, or not be read.
        InvalidSetting, DiskFull
            If there is no place to find it, or to keep what is converted.
        """
        parsed = parse_reference(reference)
        if parsed.place == "folder" or parsed.namespace is not None:
            raise InvalidReference(
                str(parsed), "a DacapoStore is asked for run@criterion, the run of one store"
            )
        base = self.runs_base_dir
        stored = find_stored(base, parsed.run, parsed.criterion)
        with read_errors(str(parsed)):
            found = self._zoo.resolve(self._converted(stored))
        checkpoint = attrs.evolve(
            found, reference=attrs.evolve(parsed, place="local"), criterion=str(stored.iteration)
        )
        channels = stored_channels(base, parsed.run)
        return checkpoint if channels is None else _described(checkpoint, stored, channels)

    def fetch(self, checkpoint: Checkpoint) -> Mapping[str, Path]:
        """Give its converted files, verified.

        Raises
        ------
        IntegrityError
            If they are not what they were when it was resolved.
        """
        return self._zoo.fetch(checkpoint)

    def _converted(self, stored: StoredCheckpoint) -> Path:
        """Give the folder of the converted weights, converting them if they are not there, whole."""
        root = self._cache_dir or cached_assets_path("cosemzoo", "dacapo", "weights")
        key = hashlib.sha256(os.fsencode(stored.path.resolve())).hexdigest()
        source = DigestMemory([root / "sources"]).digest_of(stored.path, key)
        folder = root / source
        lock = _locked(folder)
        try:
            if not _is_whole(folder):
                _convert(stored.path, folder, source)
        finally:
            lock.release()
        return folder


def _locked(folder: Path) -> BaseFileLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire()
    except OSError as error:
        step = "Give another: DacapoStore(cache_dir=…), or HF_ASSETS_CACHE."
        raise InvalidSetting("cache_dir", f"{folder} cannot be written ({error.strerror})", step) from error
    return lock


def _is_whole(folder: Path) -> bool:
    """Whether the weights in a folder are those that a conversion wrote there."""
    weights = folder / SINGLE_FILE
    if not weights.is_file():
        return False
    match read_record(folder / _RECORD):
        case {"sha256": str(sha256)}:
            return DigestMemory([folder]).digest_of(weights, "digest") == sha256
    return False


def _convert(source: Path, folder: Path, sha256: str) -> None:
    # The lock is held: whatever else lies here was left behind by a process that was killed.
    for left in folder.glob(f".*{SUFFIX}"):
        left.unlink(missing_ok=True)
    (folder / _RECORD).unlink(missing_ok=True)
    done = convert(source, folder / SINGLE_FILE)
    if done.source_sha256 != sha256:
        (folder / SINGLE_FILE).unlink(missing_ok=True)
        step = "Wait until the training has stored it, and try again."
        raise UnreadableCheckpoint(str(source), "it changed while it was read", step)
    record: dict[str, Any] = {"sha256": done.sha256, "kind": done.kind, "dropped": list(done.dropped)}
    if not write_record(folder / _RECORD, record):
        raise UnreadableCheckpoint(str(source), f"{folder / _RECORD} cannot be written", "Free some room.")


def _described(
    checkpoint: Checkpoint, stored: StoredCheckpoint, channels: tuple[tuple[str, str], ...]
) -> Checkpoint:
    wanted = [WantedChannel(label, kind) for label, kind in channels]
    described = with_channels(checkpoint, stored.run, wanted)
    if described.manifest is None:
        return described
    return attrs.evolve(described, manifest=attrs.evolve(described.manifest, iteration=stored.iteration))
