"""Output of the commands: in colour on a terminal, as plain text elsewhere."""

from __future__ import annotations

from typing import Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eventsync.domain.values.extended_json import to_json

OUT = Console(highlight=False)
"""The result of a command."""

NOTES = Console(highlight=False, stderr=True)
"""Notes for a person, which are no part of the result."""


_UNBOUNDED: Final = 100_000


def printable(text: str) -> str:
    """Return `text` with its control characters escaped, so that it can't control a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    typer.echo(to_json(value))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """Print a table. A terminal folds long cells; elsewhere each row is one line."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    # A width for this call alone would not exceed the console's own, which is 80 without a terminal.
    console = OUT if OUT.is_terminal else Console(highlight=False, width=_UNBOUNDED)
    console.print(table)


def print_line(text: Text) -> None:
    """Print one line. A terminal cuts it off at its width; elsewhere it is complete."""
    terminal = OUT.is_terminal
    OUT.print(text, no_wrap=True, overflow="ellipsis" if terminal else "ignore", soft_wrap=not terminal)
