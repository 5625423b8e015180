"""`cosemzoo fetch`."""

from typing import TYPE_CHECKING, Final

import click

from cosemzoo.cli.description import identity_pairs, identity_values
from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs
from cosemzoo.cli.progress import no_download_bars
from cosemzoo.errors import HubUnavailable, NotCached

if TYPE_CHECKING:
    from pathlib import Path

    from cosemzoo.zoo import Checkpoint, Zoo


_EXAMPLES: Final = """\b
Examples:
  cosemzoo fetch setup04@1820500
  cosemzoo fetch my-lab/run_1@best --cache-dir /scratch/hub
  cosemzoo fetch setup04@best --json
"""


@click.command(epilog=_EXAMPLES)
@reference_argument
@zoo_options
@json_option
def fetch(zoo: "Zoo", reference: str, as_json: bool) -> None:
    """Download a checkpoint and verify it.

    What is there already is not downloaded again. Afterwards the same reference works without a network, with
    --offline or HF_HUB_OFFLINE=1; so does cosemzoo verify --forward, as the golden sample, where one was
    published, comes with the weights.
    """
    with no_download_bars():
        checkpoint = zoo.resolve(reference)
    paths = zoo.fetch(checkpoint)
    golden, missing = _golden_sample(zoo, checkpoint)
    files = [(paths[file.name], file) for file in checkpoint.files]
    size = sum(file.size for _, file in files)
    if as_json:
        print_json(
            {
                **identity_values(checkpoint),
                "files": [
                    {"name": file.name, "path": str(path), "bytes": file.size, "sha256": file.sha256}
                    for path, file in files
                ],
                "bytes": size,
                "golden_sample": None if golden is None else str(golden),
            }
        )
        return
    print_pairs(
        [
            *identity_pairs(checkpoint),
            *(("file", str(path)) for path, _ in files),
            ("bytes", f"{size:,}, verified"),
            ("golden sample", missing if golden is None else str(golden)),
        ]
    )


def _golden_sample(zoo: "Zoo", checkpoint: "Checkpoint") -> tuple["Path | None", str]:
    """Fetch the golden sample too; where there is none, say why. The weights are of use without it."""
    from cosemzoo.zoo.weights import GOLDEN_FILE  # noqa: PLC0415 - the help needs no Hub client

    try:
        return zoo.fetch_beside(checkpoint, GOLDEN_FILE), "none"
    except NotCached:
        return None, "not in the cache"
    except HubUnavailable as error:
        return None, f"not fetched: {error.reason}"
