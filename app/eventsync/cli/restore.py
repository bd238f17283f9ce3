"""`eventsync restore`: writes a tracked collection's state at a point in time into a new collection."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eventsync.cli.console import NOTES, OUT, print_json, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.domain.points import Point, parse_point
from eventsync.mongodb.privileges import require
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.history.restore import Restore, Restored, RestoreSource
from eventsync.stores.history.time_travel import TimeTravel
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores


def restore(
    collection: Annotated[str, typer.Argument(help="A tracked collection.")],
    at: Annotated[
        str,
        typer.Option("--at", metavar="POINT", help="An instant (`2026-11-23T05:22:46Z`) or a position (`log:seq`)."),
    ],
    into: Annotated[
        str, typer.Option("--into", metavar="NEW", help="Name of the new collection, which must not exist.")
    ],
    as_json: Json = False,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Write a past state of a collection into a new collection.

    The new collection gets its name when it is complete. Indexes, validation and other options are not restored.
    """
    point = parse_point(at, versions=False)
    made = event_loop.run(_restore(load_settings(mongodb_uri=mongodb_uri, database=database), collection, point, into))
    if as_json:
        print_json(
            {
                "collection": collection,
                "into": made.into,
                "position": str(made.position),
                "documents": made.documents,
            }
        )
    else:
        text = f"{made.into}: {made.documents} documents, {collection} as it was at {made.position}"
        OUT.print(printable(text), markup=False, soft_wrap=True)


async def _restore(settings: Settings, collection: str, point: Point, into: str) -> Restored:
    async with connected(settings, "restore") as client:
        await require(client, settings, "restore")
        stores = Stores.of(client, settings)
        position = await TimeTravel(stores).position(collection, point)
        restoring = Restore(stores)
        for name in await restoring.unfinished():
            text = f"{name} belongs to a restore that is running or was just killed"
            NOTES.print(printable(text), style="yellow", markup=False, soft_wrap=True)
        source = await restoring.source(collection, position)
        return await _with_progress(restoring, source, into)


async def _with_progress(restoring: Restore, source: RestoreSource, into: str) -> Restored:
    """Run the restore, with a progress bar on a terminal."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=NOTES, transient=True, disable=not NOTES.is_terminal) as progress:
        # An estimate: some of the log's events may be of other collections.
        events = source.position.seq - source.snapshot.seq
        task = progress.add_task(printable(into), total=source.snapshot.documents + events)
        return await restoring.run(source, into, lambda count: progress.advance(task, count))
