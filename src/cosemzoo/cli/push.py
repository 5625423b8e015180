"""`cosemzoo push`."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cosemzoo.cli.convert import conversion_pairs
from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs
from cosemzoo.cli.progress import bytes_bar

if TYPE_CHECKING:
    from cosemzoo.publishing.push import Pushed
    from cosemzoo.zoo import Zoo

_EXAMPLES: Final = """\b
Examples:
  cosemzoo push setup04@1820500 --weights CHECKPOINT --card model_cards/setup04.md
  cosemzoo push my-lab/run_1@1000 --weights last.ckpt --labels mito,er --alias best
  cosemzoo push my-lab/run_1@2000 --weights last.ckpt --card run_1.md --alias best --move-alias
  cosemzoo push my-lab/run_1@best --store /data/dacapo/runs
  cosemzoo push my-lab/run_1@1000 --alias best --move-alias      (published before)
  cosemzoo push my-lab/run_1@1000 --amend --card run_1.md        (published before)
"""
_FILE = click.Path(path_type=Path)
_NO_XET: Final = "is not supported by Xet Storage"


@click.command(epilog=_EXAMPLES)
@reference_argument
@click.option(
    "--weights",
    metavar="CHECKPOINT",
    help="A training checkpoint, safetensors, an https:// address, or a folder with config.json.",
)
@click.option("--store", type=_FILE, metavar="DIR", help="Take it from a DaCapo weights store instead.")
@click.option("--card", type=_FILE, metavar="FILE", help="The run's card.  [default: that of a COSEM run]")
@click.option("--labels", metavar="A,B,…", help="The head's labels, row by row, where there is no card.")
@click.option("--kind", metavar="KIND", help="What every row is, such as distance; with --labels.")
@click.option("--alias", "aliases", multiple=True, metavar="NAME", help="Another name, such as best.")
@click.option("--move-alias", is_flag=True, help="Let names be moved that mean another checkpoint now.")
@click.option("--amend", is_flag=True, help="Correct the description of the same weights.")
@click.option("--private", is_flag=True, help="Make the repository private, if it has to be made.")
@click.option("--dry-run", is_flag=True, help="Convert and check everything, publish nothing.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Cast the weights.")
@click.option("--allow-nonfinite", is_flag=True, help="Publish NaN and infinities, too.")
@click.option("--base", metavar="REF", help="What it was fine-tuned from.")
@click.option("--report", type=_FILE, metavar="FILE", help="The JSON report of the load from the base.")
@click.option("--generated", is_flag=True, help="Say that the weights are made-up numbers.")
@click.option("--golden/--no-golden", default=True, help="Store a golden sample with new weights.")
@zoo_options
@json_option
def push(zoo: "Zoo", reference: str, as_json: bool, **options: Any) -> None:
    """Publish a training checkpoint as an iteration of a run.

    It is converted to safetensors, described by the run's card, uploaded, tagged, read back, and then
    entered into the run's index. Where its network can be built here, a golden sample is stored with it: what
    the network computes from a block of noise, for `cosemzoo verify --forward`. The same again changes
    nothing. The weights of an iteration never change; names, such as best, move only with --move-alias.
    """
    pushed = _push(zoo, reference, **options)
    if as_json:
        print_json(_values(pushed))
    else:
        _print(pushed)


def _push(
    zoo: "Zoo",
    reference: str,
    *,
    weights: str | None,
    store: Path | None,
    labels: str | None,
    kind: str | None,
    move_alias: bool,
    dry_run: bool,
    **others: Any,
) -> "Pushed":
    from cosemzoo.loading.labels import UNKNOWN_KIND  # noqa: PLC0415 - the help needs none of these
    from cosemzoo.manifest import Channel  # noqa: PLC0415
    from cosemzoo.publishing.push import PushOptions, push  # noqa: PLC0415

    if kind and not labels:
        raise click.UsageError("--kind says what the rows of --labels are; give these, too.")
    logging.getLogger("huggingface_hub._commit_api").addFilter(lambda record: _NO_XET not in record.msg)
    names = [label.strip() for label in labels.split(",")] if labels else []
    with bytes_bar("reading and converting") as progress:
        options = PushOptions(
            channels=[Channel(name, kind or UNKNOWN_KIND) for name in names],
            move_aliases=move_alias,
            rehearse=dry_run,
            progress=progress,
            **others,
        )
        return push(reference, weights, zoo=zoo, store=store, options=options)


def _values(pushed: "Pushed") -> dict[str, Any]:
    published, conversion = pushed.published, pushed.conversion
    release = published.release
    return {
        "reference": published.reference,
        "repository": published.repository,
        "endpoint": published.endpoint,
        "commit": published.commit,
        "weights": None if release is None else dict(release.weights),
        "labels": list(pushed.manifest.labels),
        "generated": pushed.manifest.generated,
        "dry_run": published.rehearsed,
        "already_there": not published.changes,
        "changes": list(published.changes),
        "no_golden": pushed.no_golden,
        "conversion": None if conversion is None else conversion.to_dict(),
    }


def _pairs(pushed: "Pushed") -> Iterator[tuple[str, str]]:
    published, conversion = pushed.published, pushed.conversion
    yield "reference", published.reference
    yield "repository", f"{published.repository} on {published.endpoint}"
    if published.commit:
        yield "commit", published.commit
    if pushed.manifest.generated:
        yield "GENERATED", "made-up numbers in the network's shapes, not a trained network"
    yield "channels", ", ".join(pushed.manifest.labels)
    if conversion is not None:
        yield from conversion_pairs(conversion)
    if pushed.no_golden is not None:
        yield "golden sample", f"none: {pushed.no_golden}"


def _print(pushed: "Pushed") -> None:
    published = pushed.published
    print_pairs(_pairs(pushed))
    if published.rehearsed:
        click.echo("\nDry run: nothing was published. It would:")
    else:
        click.echo("\nDone:" if published.changes else "\nAlready there: nothing was changed.")
    for change in published.changes:
        click.echo(f"  - {change}")
    if not published.rehearsed:
        click.echo(
            f'\nTo load it:\n  CosemStart("{published.reference}").initialize_weights(model, new_head=[…])'
        )
