"""What the commands print with: colours where there is a terminal, plain text where there is none."""

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
"""What a person should know besides: never part of the result."""


_UNBOUNDED: Final = 100_000


def printable(text: str) -> str:
    """`text` without what could steer a terminal: control characters are spelled out."""
    return text if text.isprintable() else "".join(char if char.isprintable() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def print_json(value: Any) -> None:
    """One line of JSON."""
    typer.echo(to_json(value))


def print_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table; on a terminal it folds into the width, elsewhere every row stays one line."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    OUT.print(table, width=None if OUT.is_terminal else _UNBOUNDED)


def print_line(text: Text) -> None:
    """One line: a terminal cuts it off where it ends, elsewhere it is whole."""
    terminal = OUT.is_terminal
    OUT.print(text, no_wrap=True, overflow="ellipsis" if terminal else "ignore", soft_wrap=not terminal)
