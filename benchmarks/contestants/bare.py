"""An interpreter that has imported torch, and nothing else that a contestant needs."""

from collections.abc import Callable

import torch


def prepare() -> Callable[[], object]:
    """Import torch, as above; there is nothing to do."""
    return torch.get_num_threads
