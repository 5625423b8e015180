"""`cosemzoo fetch`."""

from typing import TYPE_CHECKING, Final

import click

from cosemzoo.cli.description import identity_pairs, identity_values
from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs
from cosemzoo.cli.progress import no_download_bars

if TYPE_CHECKING:
    from cosemzoo.zoo import Zoo


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
    --offline or HF_HUB_OFFLINE=1.
    """
    with no_download_bars():
        checkpoint = zoo.resolve(reference)
    paths = zoo.fetch(checkpoint)
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
            }
        )
        return
    print_pairs(
        [
            *identity_pairs(checkpoint),
            *(("file", str(path)) for path, _ in files),
            ("bytes", f"{size:,}, verified"),
        ]
    )
