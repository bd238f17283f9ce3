"""`eventsync reset-log`: requests a new log."""

from __future__ import annotations

from typing import Annotated

import typer

from eventsync.cli.console import NOTES, OUT
from eventsync.cli.options import Database, MongodbUri
from eventsync.errors import NotFound
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.readiness import connected
from eventsync.stores.stores import SEQUENCING, Stores


def reset_log(
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    reason: Annotated[str, typer.Option(help="Reason, which `status` will show.")] = "by hand",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Request a new log, whose numbering begins again at 1.

    Every client gets a reset and a snapshot. Safe at any time, with any number of workers and servers. Without a
    worker the request stands until one leads.
    """
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    if not yes:
        typer.confirm(f"Begin a new log for the database {settings.database!r}?", abort=True)
    event_loop.run(_reset(settings, reason))


async def _reset(settings: Settings, reason: str) -> None:
    async with connected(settings, "reset-log") as client:
        stores = Stores.of(client, settings)
        ended = await stores.logs.request_reset(reason)
        if ended is None:
            raise NotFound("there is no log yet: the first worker begins one")
        lease, access = await stores.leases.read(SEQUENCING), await stores.access_in_force()
    OUT.print(f"a new log follows {ended.id} as soon as a worker leads", markup=False)
    NOTES.print(access, markup=False, soft_wrap=True)
    if lease is None or not lease.live:
        NOTES.print("no worker leads now: start `eventsync worker`", style="yellow", soft_wrap=True)
