"""A folder to prepare a publication in, which does not outlive its process for long.

A process that is killed cannot tidy up. Each folder therefore has a lock beside it that its process holds;
whoever comes next removes the folders whose locks nobody holds.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import cached_assets_path


@contextmanager
def staging_folder(root: Path | None = None) -> Iterator[Path]:
    """Give an empty folder, removed at the end.

    Parameters
    ----------
    root : Path, optional
        Where; by default in the assets of huggingface_hub (``HF_ASSETS_CACHE``).

    Raises
    ------
    OSError
        If it cannot be made.
    """
    root = root or cached_assets_path("cosemzoo", "publishing", "staging")
    root.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(root)
    lock = _lock_of_own(root)
    folder = Path(lock.lock_file).with_suffix("")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _lock_of_own(root: Path) -> FileLock:
    while True:
        lock = FileLock(root / f"{uuid.uuid4().hex}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            # Another process took it for abandoned, in the instant before it was locked.
            continue
        return lock


def _remove_abandoned(root: Path) -> None:
    for path in root.glob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        except Timeout:
            continue
