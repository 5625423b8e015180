"""The command: a folder and an environment of its own for the demonstration."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import click

from cosemzoo.cli.hub import require_localhub

_EXAMPLES: Final = """\b
Examples:
  cosemzoo demo
  cosemzoo demo --keep ./demo
"""


@click.command(epilog=_EXAMPLES)
@click.option(
    "--full", is_flag=True, help="In setup04's real size, 940 MB; takes 3 GB each of disk and memory."
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
    metavar="DIR",
    help="Work in DIR, which is empty or not there yet, and leave it.  [default: a temporary folder]",
)
def demo(full: bool, keep: Path | None) -> None:
    """See it all work: publish, plan, verify, load, load again offline.

    A run with the names, labels and layers of COSEM setup04 is published on a Hub that runs for this only.
    Its weights are generated: they predict nothing. Your own cache, tokens and settings are not touched, and
    nothing leaves this machine. Needs the extra `localhub`.
    """
    require_localhub()
    with _folder(keep) as root, _environment_of_its_own(root):
        # Only now: huggingface_hub reads its environment when it is imported.
        from cosemzoo.cli.demo.story import tell  # noqa: PLC0415

        endpoint = tell(root, full=full)
    if keep is not None:
        click.echo(f"\nKept in {keep}. To look into it:\n")
        hub, cache = quote(str(keep / "hub")), quote(str(keep / "cache"))
        click.echo(f"  cosemzoo hub serve --root {hub} --port {urlsplit(endpoint).port}")
        click.echo(f"  cosemzoo show setup04@best --offline --endpoint {endpoint} --cache-dir {cache}")


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with TemporaryDirectory(prefix="cosemzoo-demo-") as name:
            yield Path(name)
        return
    keep.mkdir(parents=True, exist_ok=True)
    if any(keep.iterdir()):
        raise click.BadParameter(f"{keep} is not empty.", param_hint="--keep")
    yield keep


@contextmanager
def _environment_of_its_own(root: Path) -> Iterator[None]:
    before = dict(os.environ)
    for name in before:
        # A proxy cannot reach this machine's own Hub; of some kinds the client cannot even start.
        if name.startswith(("HF_", "HUGGING_FACE_", "COSEMZOO_")) or name.upper().endswith("_PROXY"):
            del os.environ[name]
    os.environ |= {
        "HF_HOME": str(root / "home"),
        "HF_HUB_OFFLINE": "0",
        # The Hub here has no Xet, and the client would say so at every upload.
        "HF_HUB_DISABLE_XET": "1",
        # The client's telemetry would leave the machine.
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "XDG_STATE_HOME": str(root / "state"),
        # Nor one that is set elsewhere than in the environment.
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
