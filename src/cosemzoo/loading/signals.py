"""Running something to its end: signals that arrive meanwhile are handled afterwards."""

import inspect
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


def run_to_end(action: Callable[[], None]) -> None:
    """Run `action`, and only then the handlers of the signals that arrived meanwhile.

    Python runs signal handlers in the main thread, between any two steps of it; in another thread nothing
    needs to be deferred. A signal without a Python handler ends the process as ever.
    """
    if threading.current_thread() is not threading.main_thread():
        action()
        return
    latch = _Latch()
    try:
        try:
            latch.install()
            action()
        finally:
            # It holds back to the last: a handler that ran before this would leave the others replaced.
            latch.remove()
    finally:
        _handle(latch.arrived)


class _Latch:
    """A handler in the place of all others, that remembers which signals arrived."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __call__(self, signum: int, _: FrameType | None) -> None:
        if signum not in self.arrived:
            self.arrived.append(signum)

    def install(self) -> None:
        # Ctrl-C, the likeliest to raise, is put back last.
        for signum in sorted(signal.valid_signals(), key=lambda signum: signum == signal.SIGINT):
            handler = signal.getsignal(signum)
            if callable(handler):
                self._handlers[signum] = handler
                signal.signal(signum, self)

    def remove(self) -> None:
        # A handler may raise while the others are put back.
        try:
            for signum, handler in list(self._handlers.items()):
                signal.signal(signum, handler)
                del self._handlers[signum]
        finally:
            if self._handlers:
                self.remove()


def _handle(arrived: list[int]) -> None:
    if arrived:
        try:
            signum = arrived.pop(0)
            handler = signal.getsignal(signum)
            # Not raised anew: an event loop, which is woken by the signal itself, would handle it twice.
            if callable(handler):
                handler(signum, inspect.currentframe())
            else:
                signal.raise_signal(signum)
        finally:
            _handle(arrived)
