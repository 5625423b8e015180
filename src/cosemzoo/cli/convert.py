"""`cosemzoo convert`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cosemzoo.cli.options import json_option
from cosemzoo.cli.output import print_json, print_pairs
from cosemzoo.cli.progress import bytes_bar

if TYPE_CHECKING:
    from cosemzoo.publishing.conversion import Conversion


_EXAMPLES: Final = """\b
Examples:
  cosemzoo convert setup04/1820500 model.safetensors
  cosemzoo convert epoch=9.ckpt model.safetensors --dtype bfloat16
  cosemzoo convert runs/my_run/checkpoints/iterations/2000 model.safetensors --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    help="Convert floating-point tensors; the largest relative error is said.  [default: keep their types]",
)
@click.option("--allow-nonfinite", is_flag=True, help="Keep NaN and infinities, instead of refusing them.")
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it is there.")
@json_option
def convert(
    checkpoint: Path,
    target: Path,
    *,
    dtype: str | None,
    allow_nonfinite: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Convert a training's CHECKPOINT to safetensors, the file TARGET.

    CHECKPOINT is a file of torch.save (of COSEM, DaCapo, Lightning, or a state dict), a safetensors file, or
    a folder of them. No code in it is run. Each tensor is stored once, under its canonical name; optimizers
    and the like are left out. The same checkpoint always gives the same bytes.
    """
    if target.exists() and not overwrite:
        raise click.UsageError(f"{target} is there already; to replace it, use --overwrite")
    from cosemzoo.publishing import conversion  # noqa: PLC0415 - the help needs no torch

    started = time.monotonic()
    with bytes_bar("converting") as progress:
        done = conversion.convert(
            checkpoint, target, dtype=dtype, allow_nonfinite=allow_nonfinite, progress=progress
        )
    seconds = time.monotonic() - started
    if as_json:
        print_json({**done.to_dict(), "target": str(target), "seconds": round(seconds, 3)})
    else:
        print_pairs(
            [
                ("checkpoint", done.source),
                *conversion_pairs(done),
                ("file", str(target)),
                ("bytes", f"{done.bytes:,}"),
                ("sha256", done.sha256),
                ("seconds", f"{seconds:.1f}"),
            ]
        )


def conversion_pairs(done: "Conversion") -> list[tuple[str, str]]:
    """Give what a conversion found, in words."""
    pairs = [("kind", done.kind)]
    if done.iteration is not None:
        pairs.append(("iteration", str(done.iteration)))
    pairs.append(("layout", done.layout or "unknown: the names were kept"))
    if done.prefix:
        pairs.append(("prefix", f"{done.prefix} removed from every name"))
    pairs.append(("tensors", f"{len(done.tensors):,}, of {done.names:,} names"))
    pairs.append(("aliases", f"{len(done.aliases):,} other names, recorded in the file"))
    pairs.extend(("dropped", line) for line in done.dropped)
    pairs.extend(
        ("not finite", f"{name}: {nan:,} NaN, {inf:,} infinite") for name, nan, inf in done.nonfinite
    )
    if done.dtype:
        pairs.append(("dtype", done.dtype))
    if done.largest_relative_error is not None:
        error = f"{done.largest_relative_error:.3g} at most, in {done.largest_error_tensor}"
        pairs.append(("relative error", error))
    pairs.append(("parameters", f"{done.parameters:,}"))
    return pairs
