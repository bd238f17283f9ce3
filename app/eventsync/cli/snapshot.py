"""`eventsync snapshot`: requests a stored snapshot of a collection or a document."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from eventsync.cli.console import NOTES, OUT, print_json, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.domain.names import not_tracked
from eventsync.domain.positions import LogId, Position
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.clocks import cluster_time
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.readiness import connected
from eventsync.stores.snapshots.requests import requestable
from eventsync.stores.snapshots.store import StoredSnapshot
from eventsync.stores.stores import SNAPSHOTTING, Stores

_PIPELINE: Final[list[dict[str, Any]]] = [
    {"$match": {"ns.coll": {"$in": ["snapshot_requests", "snapshots"]}}},
    {"$project": {"_id": 1}},
]

_WORKER_TIMEOUT: Final = 10.0
"""Seconds without a worker that makes snapshots after which the request is withdrawn."""


def snapshot(
    shape: Annotated[str, typer.Argument(help="A tracked collection, or COLLECTION/ID.", metavar="SHAPE")],
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    timeout: Annotated[float, typer.Option(help="Maximum wait for the snapshot, in seconds.", min=0)] = 600.0,
    as_json: Json = False,
) -> None:
    """Store a snapshot of a collection or a document, as it is now. Wait until it is stored."""
    settings = load_settings(mongodb_uri=mongodb_uri, database=database)
    wanted = requestable(Shape.parse(shape))
    made = event_loop.run(_snapshot(settings, wanted, timeout))
    position = str(Position(made.log, made.seq))
    if as_json:
        sizes = {"documents": made.documents, "bytes": made.bytes, "raw_bytes": made.raw_bytes}
        print_json({"shape": made.shape, "position": position, "id": made.id, **sizes})
    else:
        text = f"{made.shape} at {position}: {made.documents:,} documents, {made.bytes:,} bytes"
        OUT.print(f"{printable(text)} ({made.raw_bytes:,} before compression)", markup=False, soft_wrap=True)


async def _snapshot(settings: Settings, shape: Shape, timeout: float) -> StoredSnapshot:
    async with connected(settings, "snapshot") as client:
        stores = Stores.of(client, settings)
        log = await _log_of(stores, shape)
        # The user's writes before this moment have an earlier cluster time, and are in the snapshot.
        now = await cluster_time(stores.data)
        # The stream first: it must not miss an answer.
        async with watch(stores.log, _PIPELINE) as stream:
            request = await stores.snapshots.requests.ask(shape, now)
            waiting = _Waiting(stores, log, shape, request, timeout)
            with waiting.progress:
                while (made := await waiting.poll()) is None:
                    await stream.read(wait=1.0, limit=100)
    return made


async def _log_of(stores: Stores, shape: Shape) -> LogId:
    log = await stores.logs.current()
    if log is None or shape.collection not in {item.name for item in await stores.tracking.active(log.id)}:
        raise not_tracked(shape.collection)
    return log.id


class _Waiting:
    """The wait for the answer to one request, with its progress on the terminal."""

    def __init__(self, stores: Stores, log: LogId, shape: Shape, request: str, timeout: float) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            DownloadColumn(),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=NOTES, transient=True, disable=not NOTES.is_terminal)
        self._task = self.progress.add_task(printable(f"{shape}: waiting for the worker"), total=None)
        self._stores = stores
        self._log = log
        self._shape = shape
        self._request = request
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._seen = time.monotonic()

    async def poll(self) -> StoredSnapshot | None:
        """Return the snapshot, or None while it is being made. Raises `Unavailable` if it will not be made in time."""
        request = await self._stores.snapshots.requests.read(self._request)
        if request is None or request.refused:
            raise Unavailable(request.refused if request and request.refused else "the request was removed")
        if request.snapshot is not None:
            return await self._found(request.snapshot)
        await self._check_worker()
        if time.monotonic() >= self._deadline:
            raise Unavailable(f"{self._shape}: no snapshot after {self._timeout:g} s; the request stands")
        unfinished = await self._stores.snapshots.stored.unfinished(self._log, str(self._shape))
        if unfinished is not None:
            text = printable(f"{self._shape}: {unfinished.documents:,} documents")
            self.progress.update(self._task, description=text, completed=unfinished.bytes)
        return None

    async def _found(self, name: str) -> StoredSnapshot:
        made = await self._stores.snapshots.stored.find(name)
        if made is None:
            raise Unavailable(f"snapshot {name} of {self._shape} was made and is already removed")
        return made

    async def _check_worker(self) -> None:
        lease = await self._stores.leases.read(SNAPSHOTTING)
        now = time.monotonic()
        if lease is not None and lease.live:
            self._seen = now
        elif now - self._seen > min(_WORKER_TIMEOUT, self._timeout):
            await self._stores.snapshots.requests.withdraw(self._request)
            raise Unavailable("no worker runs that can make the snapshot: start `eventsync worker`")
