"""How files get out: ``/resolve/`` with HEAD, GET and ranges."""

import io
import mimetypes
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cosemzoo.localhub.api.context import context, parameter, repo_id
from cosemzoo.localhub.errors import HubError
from cosemzoo.localhub.repository import ModelRepository
from cosemzoo.localhub.trees import File

_CHUNK_BYTES = 1024 * 1024
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(request: Request) -> Response:
    """``hf_hub_download`` and everything else that reads a file."""
    repository = context(request).access.downloadable(request, repo_id(request))
    commit = repository.git.resolve(parameter(request, "revision"))
    file = repository.file(commit, parameter(request, "path"))
    headers = {
        "X-Repo-Commit": commit.decode(),
        "ETag": f'"{file.etag}"',
        "Accept-Ranges": "bytes",
        "Content-Type": mimetypes.guess_type(file.path)[0] or "application/octet-stream",
    }
    if file.pointer:
        headers |= {"X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    part = requested_range(request.headers.get("range"), file.size)
    if part is None:
        status, part = 200, range(file.size)
    else:
        status = 206
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{file.size}"
    headers["Content-Length"] = str(len(part))
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return _PartOfFile(_open(repository, file), part, status, headers)


def requested_range(header: str | None, size: int) -> range | None:
    """Return the bytes that a ``Range`` header asks for, None for the whole file.

    A header that is malformed, or asks for several ranges, may be answered with the whole file (RFC 9110,
    section 14.2). One that asks for nothing that is there gets a 416.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, stop = max(size - int(last), 0), size
    else:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start == stop:
        raise HubError(
            416,
            f"The range {header} asks for nothing of a file of {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return range(start, stop)


def _open(repository: ModelRepository, file: File) -> BinaryIO:
    if file.pointer:
        return _open_file(repository.lfs.path(file.pointer.sha256))
    return io.BytesIO(repository.git.blob(file.oid))


def _open_file(path: Path) -> BinaryIO:
    return path.open("rb", buffering=0)


class _PartOfFile(StreamingResponse):
    """Streams a part of a file, and closes the file even if the client has gone or the connection is cut."""

    def __init__(self, source: BinaryIO, part: range, status: int, headers: dict[str, str]) -> None:
        super().__init__(_read(source, part), status_code=status, headers=headers)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._source:
            await super().__call__(scope, receive, send)


async def _read(source: BinaryIO, part: range) -> AsyncIterator[bytes]:
    source.seek(part.start)
    remaining = len(part)
    while remaining:
        chunk = await run_in_threadpool(source.read, min(_CHUNK_BYTES, remaining))
        if not chunk:
            raise EOFError("A stored file is shorter than its recorded size.")
        remaining -= len(chunk)
        yield chunk


ROUTES = [Route("/{namespace}/{name}/resolve/{revision}/{path:path}", resolve)]
