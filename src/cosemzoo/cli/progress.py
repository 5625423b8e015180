"""Progress bars: those of huggingface_hub, on stderr, where there is something to wait for."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_download_bars() -> Iterator[None]:
    """Show no bars for the few KB that are downloaded meanwhile."""
    from huggingface_hub import constants  # noqa: PLC0415 - the help needs no Hub client
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # noqa: PLC0415
        disable_progress_bars,
        enable_progress_bars,
    )

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None:
        yield  # whoever set it has said what is shown
        return
    disable_progress_bars("huggingface_hub")
    try:
        yield
    finally:
        enable_progress_bars("huggingface_hub")
