"""`cosemzoo card`: check the cards of runs, and see what will be pushed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cosemzoo.cli.options import json_option
from cosemzoo.cli.output import print_json, printable
from cosemzoo.errors import InvalidCard, InvalidReference

if TYPE_CHECKING:
    from cosemzoo.publishing.card import RunCard


_CHECK_EXAMPLES: Final = """\b
Examples:
  cosemzoo card check model_cards/setup04.md
  cosemzoo card check model_cards/*.md
  cosemzoo card check my_run.md --json
"""

_RENDER_EXAMPLES: Final = """\b
Examples:
  cosemzoo card render model_cards/setup04.md
  cosemzoo card render my_run.md --repository my-lab/my_run
  cosemzoo card render my_run.md --iteration 1000 --weights model.safetensors --config
"""

_FILE: Final = click.Path(path_type=Path)


@click.group()
def card() -> None:
    """Check the cards of runs, and see what will be pushed."""


@card.command(epilog=_CHECK_EXAMPLES)
@click.argument("cards", metavar="CARD...", nargs=-1, required=True, type=_FILE)
@json_option
@click.pass_context
def check(ctx: click.Context, cards: Sequence[Path], as_json: bool) -> None:
    """Say everything that is wrong with cards, or missing from them.

    Front matter that the Hub does not know, a `cosemzoo` block that no config.json can be made from, a text
    that says otherwise, code that loads another run; a licence, a DOI or a channel that is not there.
    """
    from cosemzoo.publishing.card import check_card  # noqa: PLC0415 - the help needs no Hub client

    found: dict[Path, list[tuple[str, str]]] = {}
    for path in cards:
        try:
            check_card(path)
            found[path] = []
        except InvalidCard as error:
            found[path] = list(error.problems)
    if as_json:
        print_json([_verdict(path, problems) for path, problems in found.items()])
    else:
        for path, problems in found.items():
            click.echo(f"{printable(str(path))}: {_count(problems)}")
            for where, what in problems:
                click.echo(f"  - {printable(f'{where}: {what}')}")
    ctx.exit(1 if any(found.values()) else 0)


@card.command(epilog=_RENDER_EXAMPLES)
@click.argument("path", metavar="CARD", type=_FILE)
@click.option("--iteration", type=click.IntRange(min=0), metavar="N", help="The checkpoint's iteration.")
@click.option(
    "--weights",
    type=_FILE,
    metavar="FILE",
    help="Its weights, as safetensors: config.json is checked with them, and says what they say.",
)
@click.option(
    "--repository", metavar="NAME/REPO", help="Where it will be pushed; its code then loads it there."
)
@click.option("--config", is_flag=True, help="Print config.json as well.")
@json_option
def render(
    *,
    path: Path,
    iteration: int | None,
    weights: Path | None,
    repository: str | None,
    config: bool,
    as_json: bool,
) -> None:
    """Print what will be pushed: README.md, and config.json.

    Without --weights, config.json says what the card says and no more: which tensors are the head's, and what
    else the network is built from, are read off the weights.
    """
    from cosemzoo.publishing.card import read_card  # noqa: PLC0415 - the help needs no Hub client

    _check_repository(repository)
    run = read_card(path)
    manifest = run.manifest(**_of_weights(run, weights), iteration=iteration)
    files = {"README.md": run.render(manifest, repository=repository)}
    if config:
        files["config.json"] = manifest.to_json()
    if as_json:
        contents = {name: json.loads(text) if name == "config.json" else text for name, text in files.items()}
        print_json(contents)
        return
    for name, text in files.items():
        if config:
            click.echo(f"==> {name} <==")
        click.echo(text, nl=not text.endswith("\n"))


def _count(problems: Sequence[object]) -> str:
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "ok"


def _verdict(path: Path, problems: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return {
        "card": str(path),
        "ok": not problems,
        "problems": [{"path": where, "problem": what} for where, what in problems],
    }


def _check_repository(repository: str | None) -> None:
    from cosemzoo.reference import parse_reference  # noqa: PLC0415 - the help needs no records

    if repository is not None:
        try:
            reference = parse_reference(f"hf://{repository}")
        except InvalidReference as error:
            raise click.BadParameter(error.problem, param_hint="--repository") from error
        if reference.criterion is not None:
            raise click.BadParameter("it is namespace/repo, without '@'", param_hint="--repository")


def _of_weights(run: "RunCard", weights: Path | None) -> dict[str, Any]:
    """Give what the weights say of the network."""
    if weights is None:
        return {"shapes": None}
    from cosemzoo.checkpoints.header import read_header  # noqa: PLC0415 - the help needs no records
    from cosemzoo.checkpoints.shards import WeightsTable  # noqa: PLC0415
    from cosemzoo.nets.recognise import recognise  # noqa: PLC0415

    try:
        table = WeightsTable.single(weights.name, read_header(weights))
    except OSError as error:
        reason = f"{weights} cannot be read ({error.strerror}): give a file, such as model.safetensors"
        raise click.BadParameter(reason, param_hint="--weights") from error
    sizes = run.description.input_voxel_size, run.description.output_voxel_size
    # Canonical names alone: the others would be those of another layout.
    stored = {name: tensor.entry.shape for name, tensor in table.tensors.items()}
    network = recognise(stored, input_voxel_size=sizes[0], output_voxel_size=sizes[1])
    return {"shapes": stored, "architecture": network}
