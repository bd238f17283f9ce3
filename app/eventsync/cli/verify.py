"""`eventsync verify`: proves that the log is complete and replays to exactly the collections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from eventsync.cli.console import NOTES, print_json, printable
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.cli.verify_report import Proof, Report, Wrong
from eventsync.domain.names import not_tracked
from eventsync.domain.positions import Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.mongodb.clocks import cluster_time, wall_time
from eventsync.mongodb.errors import translated
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.history.route_verification import RouteVerification
from eventsync.stores.history.verification import Progress as Advance
from eventsync.stores.history.verification import Verification, VerifiedPoint
from eventsync.stores.log.logs import Log
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores

_STALE: Final = 60.0
"""Age of the newest checkpoint, in seconds, beyond which no worker runs: MongoDB can't be read as of much earlier."""


def verify(
    collections: Annotated[
        list[str] | None, typer.Argument(help="Tracked collections; all of them if none is given.", show_default=False)
    ] = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    as_json: Json = False,
) -> None:
    """Prove that the log gives exactly the collections.

    Stored snapshot and events are compared with each collection, while everything runs. Prove also that events
    carry the routes of their documents, by the active declared shapes. Print the first fault of the log and of each
    collection. Exit code 1 if there is one.
    """
    report = event_loop.run(prove(load_settings(mongodb_uri=mongodb_uri, database=database), collections or []))
    if as_json:
        print_json(report.tree())
    else:
        report.show()
    if not report.whole:
        raise typer.Exit(1)


async def prove(settings: Settings, asked: list[str]) -> Report:
    """Check the log and the named collections, or all. Raises `NotTracked`, `NoBase` and `Unavailable`."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with connected(settings, "verify") as client:
        stores = Stores.of(client, settings)
        log = await stores.logs.require()
        collections = await _collections(stores, log, asked)
        with Progress(*columns, console=NOTES, transient=True, disable=not NOTES.is_terminal) as progress:
            return await _Checks(stores, log, progress).run(collections)


async def _collections(stores: Stores, log: Log, asked: list[str]) -> list[TrackedCollection]:
    active = {item.name: item for item in await stores.tracking.active(log.id)}
    for name in asked:
        if name not in active:
            raise not_tracked(name)
    return [active[name] for name in asked or active]


class _Checks:
    """All checks, one after another, each with a progress bar."""

    def __init__(self, stores: Stores, log: Log, progress: Progress) -> None:
        self._stores = stores
        self._log = log
        self._progress = progress
        self._is_noted = False
        history = stores.history
        self._verification = Verification(history.reader, history.comparison)
        self._routes = RouteVerification(history.state, stores.snapshots.live, stores.definitions, stores.tracking)

    async def run(self, collections: list[TrackedCollection]) -> Report:
        point = await self._point()
        report = Report(point.log, point.head)
        check = self._verification.numbers
        report.wrong = await self._run_text("numbers", lambda advance: check(point, advance), total=point.head)
        for item in collections:
            report.proofs.append(await self._prove(point, item.name, item.tracked_from))
        return report

    async def _prove(self, point: VerifiedPoint, name: str, tracked_from: Seq) -> Proof:
        chains, content = self._verification.chains, self._verification.content
        wrong = await self._run_text(
            f"{name}: versions", lambda advance: chains(point, name, advance, tracked_from=tracked_from)
        )
        if wrong is not None:
            return Proof(name, Position(point.log, point.seq), wrong)
        # A new point: MongoDB can be read at a cluster time for minutes, and the checks before may take as long.
        at = await self._point()

        async def compared(advance: Advance) -> Wrong | None:
            difference = await content(at, name, advance)
            return Wrong.of(name, difference) if difference else None

        with translated(f"{name} can't be counted"):
            count = await self._stores.data[name].estimated_document_count()
        wrong = await self._run(f"{name}: documents", compared, total=2 * count)
        if wrong is None:
            # Behind the documents: a route is made of what the log says of them.
            check, at = self._routes.check, await self._point()
            wrong = await self._run_text(f"{name}: routes", lambda advance: check(at, name, advance), total=count)
        return Proof(name, Position(at.log, at.seq), wrong)

    async def _run_text(
        self, what: str, check: Callable[[Advance], Awaitable[str | None]], *, total: int | None = None
    ) -> Wrong | None:
        async def said(advance: Advance) -> Wrong | None:
            text = await check(advance)
            return Wrong(text) if text else None

        return await self._run(what, said, total=total)

    async def _run(
        self, what: str, check: Callable[[Advance], Awaitable[Wrong | None]], *, total: int | None = None
    ) -> Wrong | None:
        task = self._progress.add_task(printable(what), total=total)
        try:
            wrong = await check(lambda count: self._progress.advance(task, count))
        except Damaged as error:
            wrong = Wrong(error.message)
        self._progress.update(task, total=self._progress.tasks[task].completed)
        return wrong

    async def _point(self) -> VerifiedPoint:
        """Return the newest checkpoint, or the present if no worker has made a checkpoint recently."""
        stores, log = self._stores, self._log.id
        async with stores.log.client.start_session() as session:
            checkpoint = await stores.logs.read_checkpoint(log, session)
            # After the checkpoint: the head is never behind it.
            head = await stores.events.head(log, session)
        if checkpoint is None:
            raise Unavailable("the log has no checkpoint yet: is a worker running?")
        if (age := (await wall_time(stores.data) - checkpoint.at).total_seconds()) < _STALE:
            return VerifiedPoint(log, checkpoint.seq, checkpoint.time, head, settled=head == checkpoint.seq)
        if not self._is_noted:
            self._is_noted = True
            NOTES.print(
                f"no worker has read the changes for {age:.0f} s: comparing with the collections as they are now",
                style="yellow",
                soft_wrap=True,
            )
        return VerifiedPoint(log, head, await cluster_time(stores.data), head, settled=True)
