"""`cosemzoo yank`."""

from typing import TYPE_CHECKING, Final

import click

from cosemzoo.cli.options import json_option, reference_argument, zoo_options
from cosemzoo.cli.output import print_json, print_pairs

if TYPE_CHECKING:
    from cosemzoo.zoo import Zoo

_EXAMPLES: Final = """\b
Examples:
  cosemzoo yank my-lab/run_1@1000 --reason "trained on wrong labels"
  cosemzoo yank my-lab/run_1@1000 --undo
"""


@click.command(epilog=_EXAMPLES)
@reference_argument
@click.option("--reason", metavar="TEXT", help="Why; whoever asks for the checkpoint is told.")
@click.option("--undo", is_flag=True, help="Take the withdrawal back.")
@zoo_options
@json_option
def yank(zoo: "Zoo", reference: str, reason: str | None, undo: bool, as_json: bool) -> None:
    """Withdraw a checkpoint that should not be used.

    Its files stay. It resolves by its iteration or commit only, with a warning that says why; names that
    mean it, such as best, are refused until they are moved.
    """
    from cosemzoo.publishing.withdraw import restore, yank  # noqa: PLC0415 - the help needs no Hub client

    if undo == (reason is not None):
        raise click.UsageError("Give either --reason, or --undo.")
    done = restore(reference, zoo=zoo) if reason is None else yank(reference, reason, zoo=zoo)
    if as_json:
        print_json(
            {
                "reference": done.reference,
                "repository": done.repository,
                "commit": done.release.commit,
                "state": done.release.state,
                "reason": done.release.reason,
                "aliases": list(done.aliases),
                "changed": done.changed,
            }
        )
        return
    state = done.release.state if done.changed else f"{done.release.state}, as before"
    pairs = [("reference", done.reference), ("repository", done.repository), ("state", state)]
    pairs += [("reason", done.release.reason)] if done.release.reason else []
    print_pairs([*pairs, ("commit", done.release.commit)])
    if done.aliases and done.release.state == "yanked":
        names = ", ".join(done.aliases)
        click.echo(
            f"\n{names} still means it, and is refused until it is moved: "
            f"cosemzoo push OTHER_REF --alias {done.aliases[0]} --move-alias"
        )
