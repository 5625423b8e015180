"""What happens to every request before it is routed: host check, raw path, counting, faults."""

import json
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cosemzoo.localhub.faults import BodyFault, ConnectionCut, Faults
from cosemzoo.localhub.ledger import Ledger, LedgerEntry, RequestRecord

STATS_PATH = "/localhub/stats"

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


class Gateway:
    """The outermost layer of the Hub.

    Parameters
    ----------
    app
        What answers the request.
    ledger
        Where it is counted.
    faults
        The faults that a test asked for.
    """

    def __init__(self, app: ASGIApp, ledger: Ledger, faults: Faults) -> None:
        self._app = app
        self._ledger = ledger
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        # Revisions arrive with their slashes quoted; routing on the decoded path would split them.
        path = scope["raw_path"].decode("ascii")
        scope = {**scope, "path": path}
        if not _is_loopback(scope):
            await _refuse(send, 403, "The local Hub answers only to loopback hosts.")
        elif path == STATS_PATH:
            await self._app(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = f"{scope['method']} {scope['path']}"
        counted = _CountedSend(self._ledger, scope, send)
        status = self._faults.refusal(request)
        if status is not None:
            await _refuse(counted, status, f"The local Hub was told to fail with {status}.")
            return
        fault = self._faults.body_fault(request) if scope["method"] != "HEAD" else None
        await self._app(scope, receive, _DamagedSend(fault, counted) if fault else counted)


class _CountedSend:
    def __init__(self, ledger: Ledger, scope: Scope, send: Send) -> None:
        self._ledger = ledger
        self._scope = scope
        self._send = send
        self._entry: LedgerEntry | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._entry = self._ledger.open(
                RequestRecord(
                    method=self._scope["method"],
                    path=self._scope["path"],
                    query=self._scope["query_string"].decode("ascii"),
                    status=message["status"],
                    bytes_sent=0,
                    range=_header(self._scope, b"range"),
                )
            )
        elif self._entry is not None and self._scope["method"] != "HEAD":
            self._entry.add_bytes(len(message.get("body", b"")))
        await self._send(message)


class _DamagedSend:
    def __init__(self, fault: BodyFault, send: Send) -> None:
        self._fault = fault
        self._send = send
        self._sent = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            await self._send(message)
            return
        body = bytearray(message.get("body", b""))
        start, end = self._sent, self._sent + len(body)
        self._sent = end
        if self._fault.flip_at is not None and start <= self._fault.flip_at < end:
            body[self._fault.flip_at - start] ^= 0xFF
        if self._fault.cut_after is not None and end > self._fault.cut_after:
            rest = bytes(body[: self._fault.cut_after - start])
            await self._send({"type": "http.response.body", "body": rest, "more_body": True})
            raise ConnectionCut
        await self._send({**message, "body": bytes(body)})


def _is_loopback(scope: Scope) -> bool:
    """Tell whether a program of this machine asked: no page of a rebound name, and of no other site."""
    host = _header(scope, b"host")
    origin = _header(scope, b"origin")
    return _hostname(f"//{host}") in _LOOPBACK and (origin is None or _hostname(origin) in _LOOPBACK)


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value).decode("latin-1")
    return None


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-error-message", message.encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
