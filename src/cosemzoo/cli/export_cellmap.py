"""`cosemzoo export cellmap`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cosemzoo.cli.description import identity_pairs, identity_values
from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs
from cosemzoo.cli.progress import no_download_bars

if TYPE_CHECKING:
    from cosemzoo.interop.cellmap import CellmapExport
    from cosemzoo.zoo import Zoo


_EXAMPLES: Final = """\b
Examples:
  cosemzoo export cellmap setup04@1820500 setup04
  cosemzoo export cellmap my-lab/run_1@best run_1 --input-shape 270 270 270
  cosemzoo export cellmap ./folder run_2 --voxel-size 10 8 8 --json
"""
_AXES: Final = (int, int, int)


@click.command(epilog=_EXAMPLES)
@reference_argument
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--input-shape",
    type=_AXES,
    metavar="Z Y X",
    help="The block in voxels that the metadata name.  [default: the smallest that fits from 216 on]",
)
@click.option(
    "--voxel-size",
    type=_AXES,
    metavar="Z Y X",
    help="Of the input, in whole nm, instead of the manifest's.",
)
@zoo_options
@json_option
def cellmap(zoo: "Zoo", *, reference: str, folder: Path, as_json: bool, **options: Any) -> None:
    """Write a checkpoint as a folder that cellmap-models opens and cellmap-flow serves.

    DIR must not be there, or be empty; it appears whole or not at all, with metadata.json, model.ts
    (TorchScript), model.pt2 (torch.export) and README.md. Both model files are run beside the network first;
    setup04 takes minutes, 4 GB of memory and 2 GB of disk.

    A file that cellmap-models traces is locked to the shape it was traced with: another silently gives an
    output of the wrong shape. These are not. They take every input that fits the network, in batches of any
    size, and refuse others. --input-shape is only what cellmap-flow shall read at a time.
    """
    from cosemzoo.interop.cellmap import STEPS, export_cellmap  # noqa: PLC0415 - the help needs no torch

    with no_download_bars():
        checkpoint = zoo.resolve(reference)
    with _steps_bar(len(STEPS)) as progress:
        done = export_cellmap(checkpoint, folder, zoo=zoo, progress=progress, **options)
    if as_json:
        print_json(_values(done))
    else:
        print_pairs(_pairs(done))


@contextmanager
def _steps_bar(steps: int) -> Iterator[Callable[[str], None]]:
    """Give what shows, on a terminal, which of so many steps has begun."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # noqa: PLC0415 - not for the help

    begun = 0
    with tqdm(total=steps, unit="step", disable=None) as bar:  # type: ignore[no-untyped-call]

        def show(words: str) -> None:
            nonlocal begun
            bar.update(begun - bar.n)
            bar.set_description(words)
            begun += 1

        yield show
        bar.update(begun - bar.n)


def _values(done: "CellmapExport") -> dict[str, Any]:
    metadata = done.metadata
    return {
        **identity_values(done.checkpoint),
        "target": str(done.folder),
        "files": [{"name": name, "bytes": size} for name, size in done.files.items()],
        "channels_names": list(metadata.channels_names or ()),
        "input_shape": list(metadata.input_shape or ()),
        "output_shape": list(metadata.output_shape or ()),
        "input_voxel_size": list(metadata.input_voxel_size or ()),
        "output_voxel_size": list(metadata.output_voxel_size or ()),
        "deviation": done.deviation,
    }


def _pairs(done: "CellmapExport") -> Iterator[tuple[str, str]]:
    metadata = done.metadata
    yield from identity_pairs(done.checkpoint)
    if done.checkpoint.manifest is not None and done.checkpoint.manifest.generated:
        yield "GENERATED", "made-up numbers in the network's shapes, not a trained network"
    yield "written", str(done.folder)
    for name, size in done.files.items():
        yield "file", f"{name}, {size:,} bytes"
    yield "channels", ", ".join(metadata.channels_names or ())
    for words, shapes, unit in (
        ("block", (metadata.input_shape, metadata.output_shape), "voxels (z y x)"),
        ("voxel", (metadata.input_voxel_size, metadata.output_voxel_size), "nm (z y x)"),
    ):
        yield words, f"{' → '.join(' x '.join(map(str, shape or ())) for shape in shapes)} {unit}"
    yield "compared", f"both files and the network: off by {done.deviation:.3g} of its root mean square"
