"""`eventsync diff`: shows the difference between two points of a document's history."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eventsync.cli.console import NOTES, print_json, print_line
from eventsync.cli.event_text import operation_line
from eventsync.cli.options import Database, Document, Json, MongodbUri, Token, Url, check_url, document_shape
from eventsync.cli.readings import ReadDifference
from eventsync.domain.points import Point, parse_point
from eventsync.domain.replay import between
from eventsync.domain.shapes import Shape
from eventsync.errors import NotFound
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores


def diff(
    document: Document,
    start: Annotated[
        str,
        typer.Argument(
            metavar="FROM", help="A version (`6`), a position (`log:seq`) or an instant (`2026-11-23T05:22:46Z`)."
        ),
    ],
    end: Annotated[str | None, typer.Argument(metavar="TO", help="Like FROM.", show_default="now")] = None,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Print the patch from a document's state at FROM to that at TO."""
    shape, points = document_shape(document), (parse_point(start), None if end is None else parse_point(end))
    if url is None:
        reading = _read(load_settings(mongodb_uri=mongodb_uri, database=database), shape, points)
    else:
        from eventsync.cli import remote  # noqa: PLC0415 - it needs an optional package

        check_url(url, mongodb_uri, database)
        reading = remote.difference(url, token, shape, start, end)
    found = event_loop.run(reading)
    if as_json:
        print_json({"id": shape.id, "from": found.before, "to": found.after, "patch": found.patch})
        return
    text = f"{shape}: {_named(found.before)} → {_named(found.after)}"
    NOTES.print(text, style="dim", markup=False, soft_wrap=True)
    for operation in found.patch:
        print_line(operation_line(operation))


async def _read(settings: Settings, shape: Shape, points: tuple[Point, Point | None]) -> ReadDifference:
    async with connected(settings, "diff") as client:
        time_travel = TimeTravel(Stores.of(client, settings))
        before, after = [await time_travel.document(shape, point) for point in points]
    if before.state is None and after.state is None:
        raise NotFound(f"there was no document {shape} at {before.position} nor at {after.position}")
    return ReadDifference(before.tree(), after.tree(), between(before.state, after.state))


def _named(side: dict[str, Any]) -> str:
    state = "absent" if side["version"] is None else f"version {side['version']}"
    return f"{state} at {side['position']}"
