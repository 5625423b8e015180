"""Downloading one large published file: verified, resumed, whole or not at all.

What has arrived is in ``<target>.part``, and ``<target>.part.json`` says of which file it is a part: its
address, size, and the validator (`ETag` or `Last-Modified`) that the server gave. A later process goes on
from there if the server says that the file is still the same, else it starts again. The connections are those
of huggingface_hub's session, which verifies certificates; no token is sent.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http import HTTPStatus
from io import FileIO
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from attrs import asdict, frozen
from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

from cosemzoo.errors import DiskFull, DownloadFailed, InvalidSetting, without_credentials
from cosemzoo.zoo.digests import read_record, write_record
from cosemzoo.zoo.failures import NO_ROOM, HTTPError, free_bytes

Progress = Callable[[int, int], None]

_ATTEMPTS: Final = 4
_WAIT_S: Final = 1.0
_REDIRECTS: Final = 5
_ON_DISK: Final = "give a file that is on disk"
# Statuses of a server that is asked again later.
_BUSY: Final = {408, 429, 500, 502, 503, 504}


def check_url(url: str) -> str:
    """Give an address back if it may be downloaded from.

    Raises
    ------
    InvalidSetting
        Unless it is https, or http on this machine.
    """
    problem = _problem(url)
    if problem:
        hint = "Give one that starts with https://; http:// is for this machine alone."
        raise InvalidSetting("address", f"{shown(url)!r}: {problem}", hint)
    return url


def download(
    url: str, target: Path, *, reference: str, again: str = "Run it again.", progress: Progress | None = None
) -> None:
    """Download a file; what is there already is not downloaded again.

    Parameters
    ----------
    url : str
    target : Path
        Appears when all of it has arrived. One process at a time downloads it; others wait.
    reference : str
        What is being fetched, for messages.
    again : str
        What to do after a failure that may pass, for messages: the caller knows whether what has arrived is
        still there then.
    progress : callable, optional
        Called with the bytes that have arrived, and all that will.

    Raises
    ------
    InvalidSetting
        If the address is neither https nor on this machine.
    DownloadFailed
        If the server does not give it, or not whole.
    DiskFull
        If there is no room for it.
    OSError
        If the target cannot be written.
    """
    url = check_url(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(f"{target}.lock"):
        if not target.exists():
            _Download(url, target, reference, again, progress).run()


class _Transient(Exception):
    """The server or the way to it fails at the moment."""


@frozen
class _Part:
    """Which file it is that a part is of."""

    address: str
    size: int
    validator: str


class _Download:
    def __init__(self, url: str, target: Path, reference: str, again: str, progress: Progress | None) -> None:
        self._url = url
        # An address can hold a password or a signature, which are not for a file.
        self._address = sha256(url.encode()).hexdigest()
        self._target = target
        self._part = target.with_name(f"{target.name}.part")
        self._record = target.with_name(f"{target.name}.part.json")
        self._reference = reference
        self._again = again
        self._progress = progress or (lambda _done, _total: None)

    def run(self) -> None:
        try:
            # Without a buffer: on a full disk, closing would try again to write what is in it.
            with self._part.open("ab", buffering=0) as file:
                self._complete(file)
            self._part.replace(self._target)
            self._record.unlink()
        finally:
            if self._part.exists() and not self._part.stat().st_size:
                self._part.unlink()

    def _complete(self, file: FileIO) -> None:
        failures = most = 0
        while not self._is_complete(file):
            try:
                self._receive(file)
            except (_Transient, HTTPError) as error:
                # What brings more bytes is no failure: a long download survives any number of cuts.
                failures = 1 if _length(file) > most else failures + 1
                most = max(most, _length(file))
                if failures == _ATTEMPTS:
                    kind = "" if isinstance(error, _Transient) else f"{type(error).__name__}: "
                    raise self._failed(f"{kind}{error}", self._again) from error
                time.sleep(_WAIT_S * 2 ** (failures - 1))
            except OfflineModeIsEnabled as error:
                step = f"Unset it where there is a network, or {_ON_DISK}."
                raise self._failed("offline mode is on: HF_HUB_OFFLINE", step) from error
            except (ImportError, ValueError) as error:
                # The client cannot ask at all, as through a proxy for which a package is missing.
                step = f"Correct how this machine reaches the network (its proxy), or {_ON_DISK}."
                raise self._failed(str(error), step) from error

    def _is_complete(self, file: FileIO) -> bool:
        part = self._known()
        return part is not None and _length(file) == part.size

    def _known(self) -> _Part | None:
        match read_record(self._record):
            case {"address": self._address, "size": int(size), "validator": str(validator)}:
                return _Part(self._address, size, validator)
        return None

    def _receive(self, file: FileIO) -> None:
        """Receive what is missing, or all of it where the server cannot or will not go on."""
        part, there = self._known(), _length(file)
        headers = {"Accept-Encoding": "identity"}
        if part is not None and part.validator and 0 < there < part.size:
            headers |= {"Range": f"bytes={there}-", "If-Range": part.validator}
        with self._response(headers) as response:
            status = response.status_code
            if "Range" in headers and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._forget(file)
                raise _Transient(f"it has less of the file than the {there:,} bytes that it sent")
            self._check(response)
            if part is not None and "Range" in headers and status == HTTPStatus.PARTIAL_CONTENT:
                expected = f"bytes {there}-{part.size - 1}/{part.size}"
                sent = _header(response, "Content-Range")
                if sent != expected:
                    self._forget(file)
                    raise _Transient(f"asked for {expected}, it sent {sent}")
                if not _is_of(response, part.validator):
                    self._forget(file)
                    raise _Transient("it sent a part of another file than before")
                self._require(part.size - there)
            else:
                # In this order: a record never says that the part of another file is of this one.
                self._forget(file)
                part = self._described(response)
                self._require(part.size)
                if not write_record(self._record, asdict(part)):
                    raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self._record))
            self._write(file, response, part.size)

    @contextmanager
    def _response(self, headers: dict[str, str]) -> Iterator[Any]:
        """Open the answer; redirections are followed by hand, since none may leave https."""
        url = self._url
        for _ in range(_REDIRECTS):
            with get_session().stream(
                "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=False
            ) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                url, was_https = urljoin(url, response.headers["Location"]), url.startswith("https:")
                problem = _problem(url) or ("it is not https" if was_https > url.startswith("https:") else "")
                if problem:
                    raise self._refused(f"it sends on to {shown(url)}: {problem}")
        raise self._refused(f"it sends on to another address more than {_REDIRECTS} times")

    def _check(self, response: Any) -> None:
        """Refuse an answer that is not the file."""
        status = response.status_code
        if status in _BUSY:
            raise _Transient(f"it answered {_named(status)}")
        if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            raise self._refused(f"it answered {_named(status)}")
        if "html" in _header(response, "Content-Type"):
            step = f"Sign in to the network and run it again, check the address, or {_ON_DISK}."
            raise self._failed("it answered with a web page, as the sign-in page of a network does", step)
        if _header(response, "Content-Encoding") not in {"", "identity"}:
            raise self._refused("it sends the file encoded, so that its size cannot be checked")

    def _described(self, response: Any) -> _Part:
        length = _header(response, "Content-Length")
        if response.status_code != HTTPStatus.OK or not length.isdecimal() or not int(length):
            raise self._refused("it does not say how large the file is, or that it is empty")
        etag = _header(response, "ETag")
        validator = etag if _is_strong(etag) else _header(response, "Last-Modified")
        return _Part(self._address, int(length), validator)

    def _forget(self, file: FileIO) -> None:
        file.truncate(0)
        self._record.unlink(missing_ok=True)

    def _require(self, missing: int) -> None:
        free = free_bytes(self._target.parent)
        if missing > free:
            raise DiskFull(self._reference, str(self._target.parent), missing, free)

    def _write(self, file: FileIO, response: Any, size: int) -> None:
        self._progress(_length(file), size)
        try:
            for piece in response.iter_raw():
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
                self._progress(_length(file), size)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            missing = size - _length(file)
            self._forget(file)
            raise DiskFull(
                self._reference, str(self._target.parent), missing, free_bytes(self._target.parent)
            ) from error

    def _refused(self, reason: str) -> DownloadFailed:
        return self._failed(reason, f"Check the address, or {_ON_DISK}.")

    def _failed(self, reason: str, step: str) -> DownloadFailed:
        return DownloadFailed(self._reference, shown(self._url), " ".join(reason.split()), step)


def shown(url: str) -> str:
    """Give an address without what can be secret: user and password, query, fragment."""
    return without_credentials(re.split("[?#]", url, maxsplit=1)[0])


def _header(response: Any, name: str) -> str:
    return str(response.headers.get(name, ""))


def _is_strong(etag: str) -> bool:
    # A weak ETag (W/"…") also stands for files that are only much alike.
    return etag.startswith('"')


def _is_of(response: Any, validator: str) -> bool:
    """Whether a part is of the file that a validator is of; servers that leave it out are believed."""
    return _header(response, "ETag" if _is_strong(validator) else "Last-Modified") in {"", validator}


def _length(file: FileIO) -> int:
    return file.seek(0, os.SEEK_END)


def _problem(url: str) -> str:
    """Say why an address may not be downloaded from; empty if it may."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        return str(error)
    if not host or port == 0 or not url.isprintable() or " " in url:
        return "it has no host, or a character or a port that no address has"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return ""
    return "it is not https"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _named(status: int) -> str:
    try:
        return f"{status} ({HTTPStatus(status).phrase})"
    except ValueError:
        return str(status)
