"""`cosemzoo export`."""

import click

from cosemzoo.cli.export_bioimageio import bioimageio
from cosemzoo.cli.export_cellmap import cellmap


@click.group()
def export() -> None:
    """Write checkpoints as the packages and folders of other programs."""


for _command in (bioimageio, cellmap):
    export.add_command(_command)
