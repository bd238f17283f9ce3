"""A worker: waits for the sequencing lease, leads while it holds it, and retries after any failure."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress

from pymongo.errors import OperationFailure

from eventsync.concurrency.offload import Offload
from eventsync.concurrency.waiting import backoff, set_within
from eventsync.errors import ConfigurationError, EventsyncError, Malformed, Unavailable
from eventsync.logging import Alarms
from eventsync.mongodb.client import connect, connect_pinned
from eventsync.mongodb.errors import AUTHENTICATION_FAILED, Barred
from eventsync.mongodb.leases import RENEWALS_PER_PERIOD, LeaseStore
from eventsync.settings import Settings
from eventsync.stores.log.logs import Fenced
from eventsync.stores.readiness import check, wait_for_mongodb
from eventsync.stores.stats.processes import Process, ProcessStore
from eventsync.stores.stores import SEQUENCING, Stores
from eventsync_workers.jobs.archiver import Archiver
from eventsync_workers.jobs.compactor import Compactor
from eventsync_workers.jobs.snapshotter import Snapshotter
from eventsync_workers.monitoring.figures import WorkerFigures
from eventsync_workers.sequencing.sequencer import Sequencer

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)

_BACKOFF_CAP = 5.0
_JOBS: tuple[type[Snapshotter | Archiver | Compactor], ...] = (Snapshotter, Archiver, Compactor)
"""The jobs beside the sequencer, each under a lease of its own."""


class Worker:
    """A worker process, from start to stop."""

    def __init__(
        self,
        settings: Settings,
        stop: asyncio.Event,
        figures: WorkerFigures | None = None,
        on_stores: Callable[[Stores | None], None] = lambda _: None,
    ) -> None:
        """Count into `figures`. `on_stores` gets the stores while they can be used, and None at the end."""
        self._figures = figures or WorkerFigures()
        self._on_stores = on_stores
        self._settings = settings
        self._stop = stop
        self._sequencer: Sequencer
        """The same one for all terms: it remembers what this process knows to be in the log."""
        self._has_requested = False
        self._process = Process.new("worker")
        self._name = self._process.name

    async def run(self) -> None:
        """Wait for MongoDB, then work until `stop`.

        Raises `ConfigurationError` for settings that can't work, and `IncompatibleFormat`.
        """
        self._figures.state = "waiting"
        if not await wait_for_mongodb(self._settings, "worker", self._stop):
            return
        async with (
            connect(self._settings, "worker") as requests,
            connect(self._settings, "lease") as renewals,
            connect_pinned(self._settings, "worker") as appending,
            Offload.running(self._settings, for_requests=False) as offload,
        ):
            stores = Stores.of(requests, self._settings, offload)
            # A client of its own for the lease: a connection pool that is busy with the log must not delay a renewal.
            leases = LeaseStore(renewals[self._settings.log_db])
            self._sequencer = Sequencer(stores, self._settings, appending, self._figures.sequencing)
            await self._claim_archive(stores)
            jobs = [kind(stores, self._settings, self._name, self._stop) for kind in _JOBS]
            for job in jobs:
                job.figures = self._figures.of_job(job.name)
            self._on_stores(stores)
            running = [asyncio.create_task(job.run(), name=type(job).__name__) for job in jobs]
            running.append(asyncio.create_task(self._watch_formats(stores), name="versions of the stored formats"))
            running.append(asyncio.create_task(self._announce(stores.stats.processes), name="announce this worker"))
            try:
                await self._work(stores, leases)
            finally:
                self._on_stores(None)
                self._stop.set()
                for task in running:
                    # Stopped, not cancelled: a cancelled command makes the driver close its connection.
                    await task

    async def _watch_formats(self, stores: Stores) -> None:
        """Stop the worker, and raise `IncompatibleFormat`, once what is stored has a format that it does not know."""
        try:
            await stores.formats.watch(self._stop)
        finally:
            self._stop.set()

    async def _announce(self, processes: ProcessStore) -> None:
        """Keep the record of this process: servers show the standbys, the lag, and the last runs of the jobs."""

        async def renew() -> None:
            sequencing = self._figures.sequencing
            lag = {"events": sequencing.lag_events, "seconds": sequencing.lag_seconds}
            await processes.renew(self._process, {"jobs": self._figures.jobs_tree(), "lag": lag})

        await processes.keep(self._process, renew, self._stop)

    async def _claim_archive(self, stores: Stores) -> None:
        """Record the archive, or compare it with the recorded one. Raises `ConfigurationError` if it is another one.

        If the archive does not answer, the jobs that use it wait for it.
        """
        objects = stores.archive.objects
        try:
            current = await stores.logs.current()
            await stores.archive.identity.claim(current.id if current else None)
        except Unavailable as error:
            logger.warning("%s; old events stay in MongoDB until the archive answers", error.diagnosis)
        if objects is None:
            logger.info("archive_url names no archive: old events stay in MongoDB until they are no longer kept")
        elif objects.loose:
            logger.warning("%s", objects.loose)

    async def _work(self, stores: Stores, leases: LeaseStore) -> None:
        """Sequence until `stop`, and retry after any failure."""
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await stores.ensure_indexes()
                await self._request_collections(stores)
                await self._compete(stores, leases)
                failures = 0
            except ConfigurationError:
                raise
            except EventsyncError as error:
                self._figures.state = "waiting"
                await self._check_rights(error)
                # A term that has lasted was no failure in a row: the next attempt comes soon.
                failures = 1 if time.monotonic() - began > 2 * _BACKOFF_CAP else failures + 1
                logger.warning("%s; trying again", error.diagnosis)
                await set_within(self._stop, backoff(failures, first=0.1, cap=_BACKOFF_CAP))

    async def _check_rights(self, error: EventsyncError) -> None:
        """Raise `ConfigurationError`, which names the missing privilege, if MongoDB refuses the user permanently."""
        code = error.__cause__.code if isinstance(error.__cause__, OperationFailure) else None
        if isinstance(error, Barred) or code in AUTHENTICATION_FAILED:
            with suppress(Unavailable):
                await check(self._settings, "worker")

    async def _request_collections(self, stores: Stores) -> None:
        """Request the collections of the settings, once: later failures must not undo what an operator asked for."""
        if self._has_requested:
            return
        try:
            await stores.tracking.ask_if_new(self._settings.collections)
        except Malformed as error:
            raise ConfigurationError(f"the settings are not valid: collections: {error.message}") from error
        self._has_requested = True

    async def _compete(self, stores: Stores, leases: LeaseStore) -> None:
        """Wait for the lease, then lead one term. Return when stopped or when the lease is lost."""
        period = self._settings.lease_period
        while not self._stop.is_set():
            is_free = await leases.acquire(SEQUENCING, self._name, period)
            self._figures.state = "leading" if is_free else "standby"
            if is_free:
                logger.info("%s leads", self._name)
                self._figures.terms += 1
                try:
                    await self._lead_or_release(stores, leases)
                finally:
                    self._figures.state = "standby"
                return
            self._figures.sequencing.stand_by()
            # At random, so that workers that wait do not all ask at the same moment.
            await set_within(self._stop, period / 4 * random.uniform(0.8, 1.2))

    async def _sweep(self, stores: Stores) -> None:
        """Remove parts of large events that earlier leaders have stored without appending the events."""
        current = await stores.logs.current()
        if current is not None and (swept := await stores.events.sweep(current.id)):
            logger.info("log %s: %d parts without an event are removed", current.id, swept)

    async def _lead_or_release(self, stores: Stores, leases: LeaseStore) -> None:
        """Lead. After an unexpected error release the lease and raise the error. A bug ends this process.

        Another worker takes over at once instead of waiting for the lease to expire.
        """
        try:
            await self._lead(stores, leases)
        except (Unavailable, Fenced):
            raise  # `_work` handles it, and this worker may continue to lead.
        except Exception as error:
            if isinstance(error, EventsyncError):
                _alarms.log(f"an unexpected error ends the term: {error.code}: {error.diagnosis}")
            else:
                logger.critical("%s releases the lease and ends: %r", self._name, error)
            try:
                await leases.release(SEQUENCING, self._name)
            except Unavailable as unreleased:
                logger.warning("%s; it will expire", unreleased.diagnosis)
            raise

    async def _lead(self, stores: Stores, leases: LeaseStore) -> None:
        held = _HeldLease(self._settings.lease_period)
        over = asyncio.Event()
        failure: EventsyncError | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew(leases, held, over), name="renew the sequencing lease")
            try:
                await self._sweep(stores)
                await self._sequencer.lead(lambda: self._stop.is_set() or not held.is_valid)
            except EventsyncError as error:
                failure = error  # Raised below: here the group would wrap it.
            finally:
                over.set()
        if failure is not None:
            raise failure
        await leases.release(SEQUENCING, self._name)
        logger.info("%s no longer leads", self._name)

    async def _renew(self, leases: LeaseStore, held: _HeldLease, over: asyncio.Event) -> None:
        """Renew the lease until `over`. Retry a failed renewal until the lease has expired."""
        while not await set_within(over, self._settings.lease_period / RENEWALS_PER_PERIOD):
            asked = time.monotonic()
            try:
                if not await leases.acquire(SEQUENCING, self._name, self._settings.lease_period):
                    logger.warning("another worker has taken the lease")
                    held.lose()
                    return
                # Counted from the request, because MongoDB may have begun the period at any time since.
                held.renewed(asked)
            except Unavailable as error:
                logger.warning("%s", error.diagnosis)


class _HeldLease:
    """The lease by this process's own clock: for liveness only, never for safety."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._until = time.monotonic() + period

    def renewed(self, asked: float) -> None:
        self._until = asked + self._period

    def lose(self) -> None:
        self._until = 0.0

    @property
    def is_valid(self) -> bool:
        return time.monotonic() < self._until
