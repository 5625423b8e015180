"""A plan or a report as text for a terminal and as HTML for a notebook."""

from collections.abc import Callable, Iterator, Sequence
from html import escape
from io import StringIO
from shutil import get_terminal_size

from attrs import frozen

from cosemzoo.loading.account import Account, ChannelRow, TensorRow

#: Rows of a table that are shown; a report's `to_dict` has them all.
_SHOWN = 30
_WIDEST = 110


@frozen
class _Table:
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def render_text(account: Account, heading: str) -> str:
    """Give lines and tables for a terminal, without colours."""
    from rich import box  # noqa: PLC0415 - only where a person looks
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Column, Table  # noqa: PLC0415

    text = StringIO()
    console = Console(
        file=text,
        width=min(_WIDEST, get_terminal_size((_WIDEST, 24)).columns),
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
        # In a notebook it would display the text and write none of it to the file.
        force_jupyter=False,
    )
    for line in (heading, *(f"  {line}" for line in _lines(account))):
        console.print(line, soft_wrap=True)
    for table in _tables(account):
        columns = [Column(name, overflow="fold") for name in table.columns]
        drawn = Table(*columns, box=box.SIMPLE, pad_edge=False)
        for row in table.rows[:_SHOWN]:
            drawn.add_row(*map(_printable, row))
        console.print()
        console.print(table.title, soft_wrap=True)
        console.print(drawn)
        if len(table.rows) > _SHOWN:
            console.print(f"… and {len(table.rows) - _SHOWN} more")
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def render_html(account: Account, heading: str) -> str:
    """Give the same as HTML; every name in it is escaped."""
    parts = [f"<p><b>{escape(heading)}</b></p><ul>"]
    parts += [f"<li>{escape(line)}</li>" for line in _lines(account)]
    parts.append("</ul>")
    for table in _tables(account):
        head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
        parts.append(f"<table><caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead><tbody>")
        for row in table.rows[:_SHOWN]:
            parts.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
        parts.append("</tbody></table>")
        if len(table.rows) > _SHOWN:
            parts.append(f"<p>… and {len(table.rows) - _SHOWN} more</p>")
    return "".join(parts)


def _printable(text: str) -> str:
    # Names come from files: they shall not move a terminal's cursor.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _lines(account: Account) -> Iterator[str]:
    if account.generated:
        yield "GENERATED: the weights are made-up numbers in the network's shapes, not a trained network"
    yield f"backbone: {account.coverage}"
    yield f"whole model: {account.model_coverage}"
    if account.source_layout != account.model_layout:
        yield f"names translated: {account.source_layout} → {account.model_layout}"
    if account.input_expected:
        yield f"trained on {account.input_expected}"
    yield from (f"INPUT: {difference}" for difference in account.input_differences)
    if account.prefixes:
        yield f"names changed: {', '.join(map(str, account.prefixes))}"
    if account.assumed:
        yield (
            f"ASSUMED: {len(account.assumed)} head rows are copied by position, because the model's labels "
            "are unknown; say them with new_head=[…]"
        )
    if account.unused_channels:
        yield f"channels of the checkpoint that are not used: {', '.join(account.unused_channels)}"


def _tables(account: Account) -> Iterator[_Table]:
    if account.channels:
        rows = [_channel_cells(row) for row in account.channels]
        yield _Table("channels (new ← old)", ("head", "row", "new", "", "old", "why"), rows)
    remaining: tuple[tuple[str, Sequence[TensorRow], Callable[[TensorRow], str]], ...] = (
        ("missing: the model's own values are kept", account.missing, lambda row: row.reason),
        ("mismatched: the model's own values are kept", account.mismatched, lambda row: row.reason),
        ("adapted to the model's input", account.adapted, lambda row: row.reason),
        ("converted", account.converted, lambda row: f"{row.source_dtype} → {row.dtype}"),
    )
    for title, tensors, what in remaining:
        if tensors:
            cells = [(row.name, str(list(row.shape)), what(row)) for row in tensors]
            yield _Table(f"{title} ({len(tensors)})", ("tensor", "shape", "what"), cells)
    if account.unused:
        cells = [(tensor.name, str(list(tensor.shape)), tensor.reason) for tensor in account.unused]
        yield _Table(
            f"unused: in the checkpoint only ({len(account.unused)})", ("tensor", "shape", "why"), cells
        )


def _channel_cells(row: ChannelRow) -> tuple[str, ...]:
    new = "?" if row.label is None else row.label if row.kind is None else f"{row.label} ({row.kind})"
    old = f"{row.source_label} ({row.source_kind}), row {row.source_row}" if row.source_label else ""
    if row.status == "kept":
        return row.head, str(row.row), new, "kept", "", row.reason
    arrow = "← assumed" if row.status == "assumed" else "←"
    return row.head, str(row.row), new, arrow, old, row.reason
