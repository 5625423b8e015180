"""Faults that a test asks for: refusals, connections cut in mid-body, a flipped byte."""

import logging
import threading
from dataclasses import dataclass


class ConnectionCut(Exception):
    """Raised into the server so that it drops the connection in mid-answer, as a test asked."""


@dataclass
class _Refusal:
    match: str
    status: int
    remaining: int


@dataclass(frozen=True)
class BodyFault:
    """Damage to one answer's body: cut it after so many bytes, or flip the byte at an offset of it."""

    match: str
    cut_after: int | None = None
    flip_at: int | None = None


class Faults:
    """The faults still to come. Each matches requests by a substring of ``"METHOD /path"``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down = False
        self._refusals: list[_Refusal] = []
        self._body_faults: list[BodyFault] = []

    def set_down(self, down: bool) -> None:
        """Answer every request with 503, or stop doing so."""
        self._down = down

    def fail_next(self, status: int, match: str, times: int) -> None:
        """Answer the next ``times`` matching requests with ``status``."""
        with self._lock:
            self._refusals.append(_Refusal(match, status, times))

    def damage_next(self, fault: BodyFault) -> None:
        """Damage the body of the next matching answer."""
        with self._lock:
            self._body_faults.append(fault)

    def refusal(self, request: str) -> int | None:
        """Return the status to refuse ``"METHOD /path"`` with, None to serve it."""
        if self._down:
            return 503
        with self._lock:
            for refusal in self._refusals:
                if refusal.match in request:
                    refusal.remaining -= 1
                    if refusal.remaining == 0:
                        self._refusals.remove(refusal)
                    return refusal.status
        return None

    def body_fault(self, request: str) -> BodyFault | None:
        """Return, and use up, the damage meant for ``"METHOD /path"``."""
        with self._lock:
            for fault in self._body_faults:
                if fault.match in request:
                    self._body_faults.remove(fault)
                    return fault
        return None


def hide_cut_connections(record: logging.LogRecord) -> bool:
    """Keep connections that a test had cut out of the server's error log."""
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionCut))
