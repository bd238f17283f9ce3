"""`eventsync untrack`: stops the tracking of collections."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsync.cli.console import OUT
from eventsync.cli.options import Database, MongodbUri
from eventsync.errors import NotTracked
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores


def untrack(
    collections: Annotated[list[str], typer.Argument(help="Collections of the database.", metavar="COLLECTION...")],
    mongodb_uri: MongodbUri = None,
    database: Database = None,
) -> None:
    """Stop tracking collections. Their documents and past events stay; their clients get an error."""
    event_loop.run(_untrack(load_settings(mongodb_uri=mongodb_uri, database=database), collections))


async def _untrack(settings: Settings, names: list[str]) -> None:
    async with connected(settings, "untrack") as client:
        tracking = Stores.of(client, settings).tracking
        known = {item.name for item in await tracking.read()}
        if unknown := [name for name in names if name not in known]:
            raise NotTracked(f"not tracked: {', '.join(unknown)}")
        await tracking.forget(names)
    OUT.print(f"no longer tracked: {', '.join(names)}", markup=False)
    if again := sorted(set(names) & set(settings.collections)):
        OUT.print(f"a worker that starts with these settings tracks {', '.join(again)} again", markup=False)
