"""`cosemzoo show`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from cosemzoo.cli.description import (
    channel_columns,
    channel_rows,
    criteria_rows,
    identity_pairs,
    identity_values,
    lineage_values,
    manifest_pairs,
    weights_pair,
    weights_values,
)
from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs, print_table
from cosemzoo.cli.progress import no_download_bars
from cosemzoo.errors import HubUnavailable, NotCached

if TYPE_CHECKING:
    from cosemzoo.manifest import Index
    from cosemzoo.publishing.chain import LineageStep
    from cosemzoo.zoo import Checkpoint, Zoo


_EXAMPLES: Final = """\b
Examples:
  cosemzoo show setup04@best
  cosemzoo show my-lab/run_1
  cosemzoo show ./folder --json
"""


@click.command(epilog=_EXAMPLES)
@reference_argument
@zoo_options
@json_option
def show(zoo: "Zoo", reference: str, as_json: bool) -> None:
    """Say everything about a checkpoint, without downloading its weights.

    Which commit it is, what its channels and voxels are, what it was trained on and how large it is, what it
    was fine-tuned and converted from, and which other checkpoints the run has.
    """
    from cosemzoo.publishing.chain import lineage_chain  # noqa: PLC0415 - the help needs no Hub client

    with no_download_bars():
        checkpoint = zoo.resolve(reference)
        index = _criteria(zoo, reference)
        chain = lineage_chain(checkpoint, zoo)
    if as_json:
        _print_json(checkpoint, index, chain)
    else:
        _print_text(checkpoint, index, chain)


def _criteria(zoo: "Zoo", reference: str) -> "Index | None":
    try:
        return zoo.criteria(reference)
    except (HubUnavailable, NotCached):
        # A commit can be in the cache where the index of criteria is not.
        return None


def _print_json(checkpoint: "Checkpoint", index: "Index | None", chain: "Sequence[LineageStep]") -> None:
    manifest = checkpoint.manifest
    print_json(
        {
            **identity_values(checkpoint),
            "weights": weights_values(checkpoint),
            "manifest": None if manifest is None else json.loads(manifest.to_json()),
            "lineage": lineage_values(chain),
            "index": None if index is None else json.loads(index.to_json()),
        }
    )


def _print_text(checkpoint: "Checkpoint", index: "Index | None", chain: "Sequence[LineageStep]") -> None:
    pairs = [*identity_pairs(checkpoint), weights_pair(checkpoint)]
    manifest = checkpoint.manifest
    if manifest is None:
        print_pairs([*pairs, ("manifest", "none: the checkpoint does not say what its channels are")])
    else:
        print_pairs([*pairs, *manifest_pairs(manifest, chain)])
        print_table("channels", channel_columns(manifest), channel_rows(manifest))
    if index is not None:
        columns = ("criterion", "also", "state", "date", "commit")
        print_table("checkpoints of this run", columns, criteria_rows(index))
