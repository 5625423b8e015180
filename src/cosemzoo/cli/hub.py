"""`cosemzoo hub serve`: a small Hub on this machine."""

from pathlib import Path
from typing import Final

import click

_EXAMPLES: Final = """\b
Example:
  cosemzoo hub serve --root ~/hub --port 8765
and in another terminal:
  export HF_ENDPOINT=http://127.0.0.1:8765 HF_HUB_DISABLE_XET=1
  hf upload my-lab/run_1 ./folder
  cosemzoo show my-lab/run_1
"""


@click.group()
def hub() -> None:
    """Run a small Hub on this machine."""


@hub.command(epilog=_EXAMPLES)
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    required=True,
    help="The folder that holds its repositories; made if missing.",
)
@click.option(
    "--host",
    type=click.Choice(["127.0.0.1", "localhost", "::1"]),
    default="127.0.0.1",
    show_default=True,
    help="Which address of this machine; others cannot reach it.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="The port.  [default: any that is free]"
)
def serve(root: Path, host: str, port: int) -> None:
    """Serve a folder as a Hub until Ctrl-C.

    It prints the line that points huggingface_hub, `hf` and cosemzoo to it. Uploads by path also need
    HF_HUB_DISABLE_XET=1. Needs the extra `localhub`.
    """
    require_localhub()
    from cosemzoo.localhub import RootInUseError  # noqa: PLC0415 - an extra, and not for the help
    from cosemzoo.localhub import serve as serve_hub  # noqa: PLC0415

    try:
        serve_hub(root, host, port, None, _announce)
    except RootInUseError as error:
        raise click.ClickException(str(error)) from error


def require_localhub() -> None:
    """Say it in one line where the extra is missing.

    Raises
    ------
    click.ClickException
        With the command that installs it.
    """
    try:
        import cosemzoo.localhub  # noqa: F401, PLC0415 - an extra, and not for the help
    except ImportError as error:
        raise click.ClickException(str(error)) from error


def _announce(endpoint: str) -> None:
    click.echo(f"export HF_ENDPOINT={endpoint}")
    click.echo("Serving until Ctrl-C; that line points others to it.", err=True)
