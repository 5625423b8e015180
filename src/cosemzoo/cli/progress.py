"""Progress bars: those of huggingface_hub, on stderr, where there is something to wait for."""

from collections.abc import Callable, Iterator
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


@contextmanager
def bytes_bar(words: str) -> Iterator[Callable[[int, int], None]]:
    """Give what shows, on a terminal, how many bytes of how many are done."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # noqa: PLC0415 - not for the help

    with tqdm(desc=words, unit="B", unit_scale=True, disable=None) as bar:  # type: ignore[no-untyped-call]

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        yield show
