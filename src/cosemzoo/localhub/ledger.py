"""What was asked of the Hub and what it sent: for tests and benchmarks to count."""

import threading
from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any

_KEPT_RECORDS = 10_000


@dataclass(frozen=True)
class RequestRecord:
    """One request that was answered.

    Attributes
    ----------
    method, path
        As received; the path is percent-encoded and without its query.
    query
        The query, percent-encoded.
    status
        The status of the answer.
    bytes_sent
        The bytes of the answer's body.
    range
        The request's ``Range`` header, None without one.
    """

    method: str
    path: str
    query: str
    status: int
    bytes_sent: int
    range: str | None


class Ledger:
    """Counts requests and bytes. A request is in it before its answer is complete at the client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._entries: deque[LedgerEntry] = deque(maxlen=_KEPT_RECORDS)
        self._requests = 0
        self._bytes_sent = 0
        self._methods: Counter[str] = Counter()

    def open(self, record: RequestRecord) -> "LedgerEntry":
        """Note that a request is being answered."""
        entry = LedgerEntry(self, record)
        with self._lock:
            self._entries.append(entry)
            self._requests += 1
            self._methods[record.method] += 1
        return entry

    def add_bytes(self, entry: "LedgerEntry", count: int) -> None:
        """Note that body bytes of an answer are being sent."""
        with self._lock:
            entry.record = replace(entry.record, bytes_sent=entry.record.bytes_sent + count)
            self._bytes_sent += count

    def records(self) -> list[RequestRecord]:
        """Return the requests since the last reset, oldest first; at most the last 10,000."""
        with self._lock:
            return [entry.record for entry in self._entries]

    def counters(self) -> dict[str, Any]:
        """Return the counts since the last reset: requests, by method, and body bytes sent."""
        with self._lock:
            return {
                "requests": self._requests,
                "methods": dict(self._methods),
                "bytes_sent": self._bytes_sent,
            }

    def reset(self) -> None:
        """Start counting from zero."""
        with self._lock:
            self._clear()


class LedgerEntry:
    """One request while it is being answered."""

    def __init__(self, ledger: Ledger, record: RequestRecord) -> None:
        self._ledger = ledger
        self.record = record

    def add_bytes(self, count: int) -> None:
        """Note that body bytes are being sent."""
        self._ledger.add_bytes(self, count)
