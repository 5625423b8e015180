"""The options that say where checkpoints are."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)

_OPTIONS = (
    click.option("--endpoint", metavar="URL", help="The Hub.  [default: HF_ENDPOINT, else huggingface.co]"),
    click.option(
        "--namespace",
        metavar="NAME",
        help="Where runs are that are not COSEM's.  [default: COSEMZOO_NAMESPACE]",
    ),
    click.option(
        "--cache-dir",
        type=_FOLDER,
        metavar="DIR",
        help="The cache of huggingface_hub.  [default: HF_HUB_CACHE]",
    ),
    click.option("--offline", is_flag=True, help="Ask the cache alone; always so with HF_HUB_OFFLINE=1."),
    click.option(
        "--local-dir",
        type=_FOLDER,
        metavar="DIR",
        help="The local zoo, for local:run@criterion.  [default: COSEMZOO_LOCAL_DIR]",
    ),
)


def zoo_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options, and the zoo that they describe as its first argument."""

    @wraps(command)
    def with_zoo(
        *,
        endpoint: str | None,
        namespace: str | None,
        cache_dir: Path | None,
        offline: bool,
        local_dir: Path | None,
        **others: Any,
    ) -> None:
        from cosemzoo.zoo import Zoo  # noqa: PLC0415 - the help needs no Hub client

        zoo = Zoo(
            endpoint=endpoint,
            namespace=namespace,
            cache_dir=cache_dir,
            offline=offline,
            local_dir=local_dir,
        )
        command(zoo, **others)

    decorated: Callable[..., None] = with_zoo
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead.")
reference_argument = click.argument("reference", metavar="REF")
