"""Making many objects at once, none of which is garbage yet."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def garbage_kept() -> Iterator[None]:
    """Let Python look for reference cycles only afterwards.

    Reading a header and planning make some twenty objects for each tensor and drop next to none. As their
    number grows, Python walks again and again through every object of the process, torch's included: with
    10,000 tensors that is most of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
