"""Running something to its end: signals that arrive meanwhile are handled afterwards."""

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
    arrived: list[int] = []
    replaced: dict[int, Any] = {}

    def remember(signum: int, _: FrameType | None) -> None:
        arrived.append(signum)

    # Ctrl-C is restored last: once its handler is back, a second one may end this function at any step.
    order = sorted(signal.valid_signals(), key=lambda signum: signum == signal.SIGINT)
    try:
        for signum in order:
            handler = signal.getsignal(signum)
            if callable(handler):
                replaced[signum] = handler
                signal.signal(signum, remember)
        action()
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
        for number in arrived:
            signal.raise_signal(number)
