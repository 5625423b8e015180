"""Making many objects at once, none of which is garbage yet."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock


class _Collector:
    """Python's search for reference cycles, which several threads may want to wait."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._waited_for = 0
        self._enabled = False

    def pause(self) -> None:
        with self._lock:
            if not self._waited_for:
                self._enabled = gc.isenabled()
                gc.disable()
            self._waited_for += 1

    def resume(self) -> None:
        with self._lock:
            self._waited_for -= 1
            if not self._waited_for and self._enabled:
                gc.enable()


_collector = _Collector()


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Let Python look for reference cycles only afterwards.

    Reading a header and planning make some twenty objects for each tensor and drop next to none. As their
    number grows, Python walks again and again through every object of the process, torch's included: with
    10,000 tensors that is most of the time.
    """
    _collector.pause()
    try:
        yield
    finally:
        _collector.resume()
