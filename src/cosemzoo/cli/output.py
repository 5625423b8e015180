"""What a command prints: pairs and tables for a person, one JSON document for a program."""

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

# Nothing is folded that goes into a pipe: whoever reads it there wants whole lines.
_UNFOLDED: Final = 100_000


def print_json(document: Any) -> None:
    """Print a document of JSON values."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and their values, one pair a line; long words, such as paths, stay whole."""
    pairs = [(name, printable(value)) for name, value in pairs]
    indent = max(len(name) for name, _ in pairs) + 2
    for name, value in pairs:
        lines = textwrap.wrap(
            value, max(1, _width() - indent), break_long_words=False, break_on_hyphens=False
        )
        click.echo(click.style(name.ljust(indent), bold=True) + f"\n{' ' * indent}".join(lines))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table under a title, after an empty line."""
    from rich.console import Console  # noqa: PLC0415 - the help needs no tables
    from rich.table import Column, Table  # noqa: PLC0415

    table = Table(*(Column(name, overflow="fold") for name in columns), box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*map(printable, row))
    console = Console(
        force_terminal=sys.stdout.isatty(), width=_width(), highlight=False, markup=False, emoji=False
    )
    with console.capture() as captured:
        console.print(table)
    click.echo(f"\n{click.style(title, bold=True)}")
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNFOLDED


def printable(text: str) -> str:
    """Give a text whose control characters are spelled out: names from files must not move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
