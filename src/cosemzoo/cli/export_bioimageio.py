"""`cosemzoo export bioimageio`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cosemzoo.cli.description import identity_pairs, identity_values
from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs, printable
from cosemzoo.cli.progress import no_download_bars

if TYPE_CHECKING:
    from cosemzoo.interop.bioimageio import BioimageioPackage
    from cosemzoo.zoo import Zoo

_EXAMPLES: Final = """\b
Examples:
  cosemzoo export bioimageio setup04@1820500 setup04.bioimage
  cosemzoo export bioimageio setup04@1820500 packages/setup04 --raw-range 80 210
  cosemzoo export bioimageio my-lab/run_1@best run_1 --author "A. Name" --license CC-BY-4.0
"""


@click.command(epilog=_EXAMPLES)
@reference_argument
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--author",
    "authors",
    multiple=True,
    metavar="NAME",
    help="Who made the network; may be given several times.  [default for COSEM's: COSEM Project Team]",
)
@click.option(
    "--license",
    metavar="SPDX",
    help="The licence of the weights, such as CC-BY-4.0.  [default for COSEM's: BSD-3-Clause]",
)
@click.option(
    "--raw-range",
    type=(int, int),
    default=(0, 255),
    show_default=True,
    metavar="LOW HIGH",
    help="The raw values that become the ends of the network's input range.",
)
@zoo_options
@json_option
def bioimageio(
    zoo: "Zoo",
    *,
    reference: str,
    folder: Path,
    authors: Sequence[str],
    license: str | None,  # noqa: A002 - the name of the option
    raw_range: tuple[int, int],
    as_json: bool,
) -> None:
    """Write a bioimage.io model package (format 0.5) of a checkpoint into DIR.

    DIR must be empty, or not be there. The network computes a test output from noise on the way; setup04
    takes a minute, and 1.9 GB on disk. --raw-range is the contrast of the data that the package is for: what
    is beyond is clipped. It needs pip install "cosemzoo[bioimageio]"; afterwards, bioimageio test DIR tests
    the package.
    """
    from cosemzoo.interop.bioimageio import export_bioimageio  # noqa: PLC0415 - the help needs no torch

    with no_download_bars():
        checkpoint = zoo.resolve(reference)
    done = export_bioimageio(
        checkpoint, folder, authors=authors, license=license, raw_range=raw_range, zoo=zoo
    )
    if as_json:
        print_json(
            {
                **identity_values(checkpoint),
                "target": str(done.folder),
                "files": [{"name": name, "bytes": size} for name, size in done.files.items()],
                "input_shape": list(done.input_shape),
                "output_shape": list(done.output_shape),
            }
        )
    else:
        _print(done)


def _print(done: "BioimageioPackage") -> None:
    shapes = (" x ".join(map(str, shape[1:])) for shape in (done.input_shape, done.output_shape))
    pairs = [*identity_pairs(done.checkpoint), ("package", str(done.folder))]
    pairs.extend(("file", f"{name}, {size:,} bytes") for name, size in done.files.items())
    pairs.append(("test", " → ".join(shapes)))
    print_pairs(pairs)
    click.echo(f"\nTo test it:\n  bioimageio test {printable(str(done.folder))}")
