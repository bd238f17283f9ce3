"""Formats an event for a person: one line about the event, then one for each patch operation.

2026-11-23 16:05:13.123  129  update  42  6 → 7  by anonymous
    replace /status "paid"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from eventsync.cli.console import printable
from eventsync.domain.values.extended_json import to_json

_COLOURS: Final = {
    "create": "green",
    "enter": "green",
    "update": "yellow",
    "replace": "magenta",
    "delete": "red",
    "leave": "red",
}
_OPERATION_COLOURS: Final = {"add": "green", "replace": "yellow", "remove": "red"}
_INDENT: Final = "    "


def lines(event: Mapping[str, Any]) -> Iterator[Text]:
    """Return the lines of one event of the protocol, in colour; `str()` of each is the plain text."""
    op = next((word for word in ("enter", "leave") if event.get(word)), str(event["op"]))
    yield Text.assemble(
        (_local(event["at"]), "dim"),
        f"  {event['seq']}  ",
        (f"{op:<7}", _COLOURS.get(op, "")),
        f" {printable(event['id'])}",
        (f"  {event['base']} → {event['version']}", "dim"),
        f"  {_author(event)}",
        (_transaction(event), "dim"),
    )
    if "doc" in event:
        yield Text(_INDENT + _json(event["doc"]))
    for operation in event.get("patch", ()):
        yield operation_line(operation)


def operation_line(operation: Mapping[str, Any]) -> Text:
    """Return the line of one patch operation, indented and in colour."""
    op = str(operation["op"])
    what = f" {_json(operation['value'])}" if "value" in operation else ""
    source = f" from {printable(operation['from'])}" if "from" in operation else ""
    path = printable(operation["path"]) or "(the document)"
    return Text.assemble(_INDENT, (f"{op:<7}", _OPERATION_COLOURS.get(op, "")), f" {path}{source}{what}")


def _author(event: Mapping[str, Any]) -> str:
    return "external" if event.get("external") else f"by {printable(str(event.get('by')))}"


def _transaction(event: Mapping[str, Any]) -> str:
    transaction = event.get("txn")
    return f"  transaction {transaction['n']}/{transaction['of']}" if transaction else ""


def _json(value: Any) -> str:
    return printable(to_json(value).decode())


def _local(at: str) -> str:
    """Return a time in the reader's time zone."""
    return datetime.fromisoformat(at).astimezone().isoformat(" ", "milliseconds")[:23]
