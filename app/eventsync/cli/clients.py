"""`eventsync clients`: lists the open sessions of all servers, and closes one. It asks a server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from eventsync.cli.administration import ask
from eventsync.cli.console import NOTES, OUT, print_json, print_table
from eventsync.cli.options import Json, Token


def clients(
    url: Annotated[str, typer.Option("--url", help="Ask this server.", metavar="URL")] = "http://127.0.0.1:8000",
    token: Token = None,
    sub: Annotated[str | None, typer.Option(help="Only of this principal.", show_default=False)] = None,
    shape: Annotated[str | None, typer.Option(help="Only those that follow this shape.", show_default=False)] = None,
    disconnect: Annotated[
        str | None,
        typer.Option(help="Close the session with this id. Its client resumes.", metavar="ID", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the open sessions of all servers, or close one.

    Each has its principal, shapes and lag. With --json, print one session a line.
    """
    if disconnect is not None:
        ask(url, token, f"/v1/admin/clients/{quote(disconnect, safe='')}", "DELETE")
        OUT.print(f"closed: {disconnect}", markup=False)
        return
    answers = list(_pages(url, token, {"sub": sub, "shape": shape}))
    found = [session for answer in answers for session in answer["clients"]]
    if as_json:
        for session in found:
            print_json(session)
    elif found:
        columns = ["session", "client", "principal", "transport", "since", "lag", "shapes", "server"]
        print_table(columns, [_row(session) for session in found])
    else:
        OUT.print("no sessions are open", markup=False)
    if not answers[-1]["complete"]:
        missing = [
            f"{each['server']}: {each['listed']} of {each['connections']}"
            for each in answers[-1]["servers"]
            if each["listed"] < each["connections"]
        ]
        NOTES.print(f"not all sessions are listed ({', '.join(missing)})", style="yellow", markup=False, soft_wrap=True)


def _pages(url: str, token: str | None, wanted: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        query = {name: text for name, text in wanted.items() if text is not None} | ({"after": after} if after else {})
        answer = ask(url, token, f"/v1/admin/clients?{urlencode(query)}")
        yield answer
        if (after := answer.get("next", "")) == "":
            return


def _row(session: dict[str, Any]) -> list[str]:
    since = datetime.fromtimestamp(session["since"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    shapes = [f"{item['shape']} at {item['position'] or '-'}" for item in session["shapes"]]
    more = session["more_shapes"]
    return [
        session["id"],
        session["client_id"] or "-",
        session["sub"],
        session["transport"],
        since,
        str(session["lag_events"]),
        ", ".join(shapes) + (f" and {more} more" if more else ""),
        session["server"],
    ]
