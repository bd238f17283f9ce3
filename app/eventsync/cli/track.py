"""`eventsync track`: requests that collections be tracked, and waits for the worker."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from eventsync.cli.console import OUT
from eventsync.cli.options import Database, MongodbUri
from eventsync.errors import Unavailable
from eventsync.mongodb.change_stream import watch
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.readiness import connected
from eventsync.stores.stores import SEQUENCING, Stores

_PIPELINE: Final[list[dict[str, Any]]] = [
    {"$match": {"ns.coll": {"$in": ["collections", "logs"]}}},
    {"$project": {"_id": 1}},
]


def track(
    collections: Annotated[list[str], typer.Argument(help="Collections of the database.", metavar="COLLECTION...")],
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    timeout: Annotated[float, typer.Option(help="Maximum wait for a worker to begin, in seconds.", min=0)] = 30.0,
) -> None:
    """Track collections: record and deliver their changes.

    Wait until a worker has begun to sequence them.
    """
    event_loop.run(_track(load_settings(mongodb_uri=mongodb_uri, database=database), collections, timeout))


async def _track(settings: Settings, names: list[str], timeout: float) -> None:
    async with connected(settings, "track") as client:
        stores = Stores.of(client, settings)
        # The stream first: it must not miss an activation.
        async with watch(stores.log, _PIPELINE) as stream:
            await stores.tracking.ask(names)
            OUT.print(f"requested: {', '.join(names)}; waiting for a worker to begin", markup=False)
            deadline = time.monotonic() + timeout
            while missing := await _missing(stores, names):
                if refused := await _refused(stores, missing):
                    raise Unavailable(f"can't be tracked: {'; '.join(refused)}")
                if (left := deadline - time.monotonic()) <= 0:
                    raise Unavailable(await _reason(stores, missing, timeout))
                await stream.read(wait=min(1.0, left), limit=100)
    OUT.print(f"tracked: {', '.join(names)}", markup=False)


async def _missing(stores: Stores, names: list[str]) -> list[str]:
    """Return the names that are not active in the current log."""
    current = await stores.logs.current()
    active = {item.name for item in await stores.tracking.active(current.id)} if current else set[str]()
    return [name for name in names if name not in active]


async def _refused(stores: Stores, names: list[str]) -> list[str]:
    """Return the names that a worker has refused, each with its reason."""
    return [
        f"{item.name}: {item.refused}" for item in await stores.tracking.read() if item.refused and item.name in names
    ]


async def _reason(stores: Stores, missing: list[str], timeout: float) -> str:
    lease = await stores.leases.read(SEQUENCING)
    reason = "its leader has not begun yet" if lease and lease.live else "no worker runs: start `eventsync worker`"
    return f"{', '.join(missing)}: requested, but not tracked after {timeout:g} s; {reason}. The request stands"
