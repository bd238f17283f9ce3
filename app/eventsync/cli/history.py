"""`eventsync history`: prints the events of a document."""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import Annotated

import orjson
import typer

from eventsync.cli.console import NOTES, print_json, print_line
from eventsync.cli.event_text import lines
from eventsync.cli.options import Database, Document, Json, MongodbUri, Token, Url, check_url, document_shape
from eventsync.cli.readings import ReadHistory
from eventsync.domain.positions import Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import NotFound
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores


def history(
    document: Document,
    limit: Annotated[int, typer.Option(help="Maximum number of events; the newest ones are shown.", min=1)] = 20,
    as_json: Json = False,
    url: Url = None,
    token: Token = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Print the events of a document, with time, author and changes.

    With --json, print one event a line, with its position.
    """
    shape = document_shape(document)
    if url is None:
        reading = _read(load_settings(mongodb_uri=mongodb_uri, database=database), shape, limit)
    else:
        from eventsync.cli import remote  # noqa: PLC0415 - it needs an optional package

        check_url(url, mongodb_uri, database)
        reading = remote.history(url, token, shape, limit)
    read = event_loop.run(reading)
    for event in read.events:
        if as_json:
            print_json(event | {"position": str(Position(read.log, event["seq"]))})
        else:
            for line in lines(event):
                print_line(line)
    _note(shape, read)


def _note(shape: Shape, read: ReadHistory) -> None:
    text = f"{shape} in log {read.log}: {len(read.events)} of {read.count} events"
    text += f"; events up to {read.log}:{read.first} are not kept" if read.first else ""
    NOTES.print(text, style="dim", markup=False, soft_wrap=True)


async def _read(settings: Settings, shape: Shape, limit: int) -> ReadHistory:
    async with connected(settings, "history") as client:
        stores = Stores.of(client, settings)
        time_travel = TimeTravel(stores)
        retained, newest, count = await time_travel.retained(shape.collection), deque[bytes](maxlen=limit), 0
        head = await time_travel.head(retained.log)
        first = Seq(max(retained.tracked, retained.horizon))
        async with aclosing(stores.events.read(retained.log, first, head, shape=shape)) as events:
            async for event in events:
                newest.append(event.body)
                count += 1
        if not count and (await time_travel.document(shape, None)).state is None:
            raise NotFound(f"the document {shape} is not known")
    return ReadHistory(retained.log, first, [orjson.loads(body) for body in newest], count)
