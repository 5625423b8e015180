"""The command with all its subcommands, and what a person sees of errors, warnings and Ctrl-C."""

import warnings
from typing import Any, Final

import click

from cosemzoo._version import __version__
from cosemzoo.cli.card import card
from cosemzoo.cli.convert import convert
from cosemzoo.cli.demo import demo
from cosemzoo.cli.export import export
from cosemzoo.cli.fetch import fetch
from cosemzoo.cli.hub import hub
from cosemzoo.cli.import_command import import_command
from cosemzoo.cli.output import printable
from cosemzoo.cli.push import push
from cosemzoo.cli.show import show
from cosemzoo.cli.verify import verify
from cosemzoo.cli.yank import yank
from cosemzoo.errors import CosemZooError, CosemZooWarning

# What shells call a command that Ctrl-C ended: 128 + SIGINT.
_INTERRUPTED: Final = 130


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = _Warnings()
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                raise  # click ends quietly where nobody reads any more
            except (CosemZooError, CosemZooWarning, OSError) as error:
                message = "\n".join(map(printable, str(error).split("\n")))
                raise click.ClickException(message) from error
            except KeyboardInterrupt:
                click.echo("Interrupted.", err=True)
                ctx.exit(_INTERRUPTED)


class _Warnings:
    """Shows each warning of cosemzoo once, in one line; others as Python does."""

    def __init__(self) -> None:
        self._others = warnings.showwarning
        self._shown: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        text = " ".join(str(message).split())
        if not issubclass(category, CosemZooWarning):
            self._others(message, category, *where, **more)
        elif text not in self._shown:
            self._shown.add(text)
            click.echo(f"Warning: {printable(text)}", err=True)


_REFERENCES: Final = """\b
References:
  setup04             the best checkpoint of a COSEM run, or of your namespace
  setup04@1820500     an iteration; it never changes
  my-lab/run_1@best   a run of any repository on the Hub
  local:run_1@1000    a run in the local zoo folder
  ./folder            a folder with model.safetensors and config.json

\b
Examples:
  cosemzoo demo                     see it all work, on this machine
  cosemzoo show setup04@best        what a checkpoint is, without its weights
  cosemzoo fetch setup04@1820500    download it, for machines without a network
  cosemzoo import setup04@1820500   take a COSEM run from the bucket of its authors
  cosemzoo push my-lab/run_1@1000 --weights CHECKPOINT --card run_1.md
"""


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_REFERENCES,
)
@click.version_option(__version__, prog_name="cosemzoo", message="%(prog)s %(version)s")
def main() -> None:
    """Start volume-electron-microscopy networks from pretrained runs, by name."""


for _command in (fetch, verify, show, import_command, convert, export, card, push, yank, demo, hub):
    main.add_command(_command)
