"""`cosemzoo verify`."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from cosemzoo.cli.description import identity_pairs, identity_values, weights_pair, weights_values
from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs
from cosemzoo.cli.progress import no_download_bars

if TYPE_CHECKING:
    from cosemzoo.verify import Deviation
    from cosemzoo.zoo import Checkpoint, Zoo

_EXAMPLES: Final = """\b
Examples:
  cosemzoo verify setup04@1820500
  cosemzoo verify setup04@1820500 --forward
  cosemzoo verify my-lab/run_1@best --forward --device cuda --json
"""
_NO_SAMPLE: Final = (
    "it was published without a golden sample, so that nothing can be computed and compared. "
    "Leave out --forward to verify its files alone, or ask its maintainers what its network gives."
)


@click.command(epilog=_EXAMPLES)
@reference_argument
@click.option("--forward", is_flag=True, help="Compute the golden sample here, and compare.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where to compute it.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="By how much of its root mean square the output may be off.  [default: 0.0001]",
)
@zoo_options
@json_option
@click.pass_context
def verify(
    ctx: click.Context, /, zoo: "Zoo", reference: str, *, forward: bool, as_json: bool, **options: Any
) -> None:
    """Verify a checkpoint's files, and that its network computes here what it should.

    The files are fetched as `cosemzoo fetch` does it. With --forward the network is built, and computes the
    golden sample that was stored when the weights were published; the exit code is 1 where the output is
    further off than the tolerance, or where there is no sample.
    """
    unused = [name for name in options if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    if unused and not forward:
        raise click.UsageError(f"--{' and --'.join(unused)} says how to compute: give --forward, too.")
    with no_download_bars():
        checkpoint = zoo.resolve(reference)
    # First, because it finds out without the weights what cannot be computed.
    deviation = _check(zoo, checkpoint, **options) if forward else None
    zoo.fetch(checkpoint)
    if as_json:
        print_json(_values(checkpoint, deviation))
    else:
        print_pairs(_pairs(checkpoint, deviation))
    if forward and deviation is None:
        raise click.ClickException(f"{reference}: {_NO_SAMPLE}")
    if deviation is not None and not deviation.within:
        ctx.exit(1)


def _check(
    zoo: "Zoo", checkpoint: "Checkpoint", *, device: str, tolerance: float | None
) -> "Deviation | None":
    from cosemzoo.verify import TOLERANCE, check_forward  # noqa: PLC0415 - the help needs no torch

    return check_forward(
        checkpoint, device=device, tolerance=TOLERANCE if tolerance is None else tolerance, zoo=zoo
    )


def _values(checkpoint: "Checkpoint", deviation: "Deviation | None") -> dict[str, Any]:
    return {
        **identity_values(checkpoint),
        "weights": weights_values(checkpoint),
        "forward": None if deviation is None else _forward_values(deviation),
    }


def _forward_values(deviation: "Deviation") -> dict[str, Any]:
    import torch  # noqa: PLC0415 - the help needs no torch

    sample = deviation.sample
    return {
        "within": deviation.within,
        "problem": deviation.problem,
        "largest_difference": _number(deviation.largest),
        "relative_difference": _number(deviation.relative),
        "tolerance": deviation.tolerance,
        "root_mean_square": deviation.magnitude,
        "input_shape": list(sample.raw.shape),
        "output_shape": list(sample.output.shape),
        "seed": sample.seed,
        "input_range": list(sample.input_range),
        "made_with_torch": sample.torch_version,
        "torch": torch.__version__,
        "device": deviation.device,
        "seconds": deviation.seconds,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pairs(checkpoint: "Checkpoint", deviation: "Deviation | None") -> Iterator[tuple[str, str]]:
    yield from identity_pairs(checkpoint)
    name, size = weights_pair(checkpoint)
    # Nobody has published the digest of a folder's files.
    yield name, f"{size}, {'well-formed' if checkpoint.commit is None else 'verified'}"
    if deviation is None:
        return
    sample = deviation.sample
    shapes = " → ".join(" x ".join(map(str, tensor.shape[1:])) for tensor in (sample.raw, sample.output))
    yield "golden sample", f"{shapes}, made with torch {sample.torch_version}"
    yield "computed", f"on {deviation.device} in {deviation.seconds:.1f} s"
    if deviation.problem:
        yield "verdict", f"NOT THE SAME: this is another network; {deviation.problem}"
        return
    yield "largest difference", f"{deviation.largest:.3g}"
    yield "relative", f"{deviation.relative:.3g} of the output's root mean square ({deviation.magnitude:.3g})"
    allowed = f"tolerance {deviation.tolerance:g}"
    yield (
        "verdict",
        f"the same network ({allowed})"
        if deviation.within
        else f"NOT THE SAME: beyond the {allowed}; this is another network, or it computes wrongly here",
    )
