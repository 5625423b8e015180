"""What the Hub's client raises, said as the errors of this package."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cosemzoo.errors import (
    AccessDenied,
    CacheNotWritable,
    CosemZooError,
    DiskFull,
    HubUnavailable,
    NotCached,
    NotReadable,
    RunNotFound,
)
from cosemzoo.reference import known_runs, parse_reference, published_iterations

#: What the client's HTTP library raises without an answer: httpx with huggingface_hub 1, httpx2 with 2.
HTTPError: Final[type[BaseException]] = HfHubHTTPError.__bases__[0]

#: What the system calls a disk, a quota or a file that is full.
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# An answer that is not what a Hub sends: a portal's web page, another API; or no way to ask, as through a
# proxy for which a package is missing.
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ImportError)
# At least one of these is in every refusal of a Hub.
_HUB_HEADERS = ("X-Error-Code", "X-Error-Message", "X-Repo-Commit")


@frozen
class Asked:
    """What was asked of whom, for a message.

    Attributes
    ----------
    reference : str
    repository : str
    endpoint : str
    cache_dir : Path
    """

    reference: str
    repository: str
    endpoint: str
    cache_dir: Path


@contextmanager
def hub_errors(asked: Asked, size: int = 0) -> Iterator[None]:
    """Turn what huggingface_hub raises into this package's errors.

    A revision or a file that a repository lacks stays `RevisionNotFoundError` or `EntryNotFoundError`: only
    the caller knows what that means.

    Parameters
    ----------
    asked : Asked
    size : int
        Bytes that are to be downloaded.
    """
    try:
        yield
    except (LocalEntryNotFoundError, RuntimeError) as error:
        # The client's own summary of a download or an upload; why it failed is its cause, or, through Xet,
        # in its words.
        raise _translate(asked, error.__cause__ or error, size) from error
    except (RevisionNotFoundError, EntryNotFoundError, CosemZooError):
        raise
    except (HTTPError, OSError, *_UNREADABLE) as error:
        raise _translate(asked, error, size) from error


@contextmanager
def read_errors(reference: str) -> Iterator[None]:
    """Turn what the system says of files that cannot be read into `NotReadable`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, CosemZooError) or error.errno is None:
            raise
        raise NotReadable(reference, str(error.filename or "a file"), str(error.strerror)) from error


def free_bytes(folder: Path) -> int:
    """Give the bytes free on the disk that holds, or will hold, a folder."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _translate(asked: Asked, error: BaseException, size: int) -> CosemZooError:
    match error:
        case HfHubHTTPError() | LocalTokenNotFoundError():
            return _refused(asked, error)
        case OfflineModeIsEnabled():
            return NotCached(asked.reference, asked.repository, str(asked.cache_dir))
        case OSError() | RuntimeError() if _is_no_room(error):
            free = free_bytes(asked.cache_dir)
            return DiskFull(asked.reference, str(asked.cache_dir), size, free)
        case OSError() if _is_of_cache(error, asked.cache_dir):
            return CacheNotWritable(asked.reference, str(asked.cache_dir), str(error))
        case _:
            # No answer, a short one (an OSError of the client's own), or one that no Hub gives.
            return _unavailable(asked, f"{type(error).__name__}: {error}")


def _is_no_room(error: OSError | RuntimeError) -> bool:
    return error.errno in NO_ROOM if isinstance(error, OSError) else "No space left" in str(error)


def _is_of_cache(error: OSError, cache_dir: Path) -> bool:
    """Whether an error is about a file of the cache, or a folder that the cache was to be made in."""
    if error.errno is None or not isinstance(error.filename, str):
        return False
    path = Path(error.filename).absolute()
    names = (cache_dir, Path(os.path.realpath(cache_dir)))
    return any(path.is_relative_to(cache) or cache.is_relative_to(path) for cache in names)


def _refused(asked: Asked, error: HfHubHTTPError | LocalTokenNotFoundError) -> CosemZooError:
    if isinstance(error, LocalTokenNotFoundError):
        return _denied(asked, gated=False)
    status = error.response.status_code
    if status in {401, 403, 404} and not any(name in error.response.headers for name in _HUB_HEADERS):
        reason = f"it answered {status} as no Hub does, so it is not a Hub: check HF_ENDPOINT"
        return _unavailable(asked, reason, status)
    if isinstance(error, GatedRepoError):
        return _denied(asked, gated=True)
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return _no_repository(asked)
    if status in {401, 403}:
        return _denied(asked, gated=False)
    return _unavailable(asked, f"it answered {status}", status)


def _unavailable(asked: Asked, reason: str, status: int | None = None) -> HubUnavailable:
    return HubUnavailable(asked.reference, asked.endpoint, " ".join(reason.split()), status)


def _denied(asked: Asked, *, gated: bool) -> AccessDenied:
    url = f"{asked.endpoint}/{asked.repository}"
    return AccessDenied(asked.reference, asked.repository, url, gated=gated)


def _no_repository(asked: Asked) -> RunNotFound:
    where = f"repository {asked.repository} on {asked.endpoint}"
    run = next((run for run, repository in known_runs().items() if repository == asked.repository), None)
    if run is not None:
        hint = _import_hint(run, parse_reference(asked.reference).wanted)
    else:
        hint = (
            "It does not exist, or it is private and needs a token: check the spelling, "
            "then run `hf auth login` (or set HF_TOKEN)."
        )
    return RunNotFound(asked.reference, where, hint)


def _import_hint(run: str, criterion: str) -> str:
    """Say how one has a COSEM run all the same: its originals are published elsewhere."""
    iterations = published_iterations()[run]
    which, others = criterion, ""
    if criterion not in iterations:
        which, others = iterations[-1], f" (there are the iterations {', '.join(iterations)})"
    return (
        "This COSEM run is not published there yet. To have the published original in the local zoo, run: "
        f"cosemzoo import {run}@{which}{others}; then ask for local:{run}@{which}. "
        "If you publish it yourself, name your repository: namespace/run."
    )
