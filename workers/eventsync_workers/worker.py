"""A worker: takes the sequencing lease when it is free, leads while it holds it, and tries again for ever."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from contextlib import suppress

from pymongo.errors import OperationFailure

from eventsync.concurrency.offload import Offload
from eventsync.concurrency.waiting import backoff, set_within
from eventsync.errors import ConfigurationError, EventsyncError, Malformed, Unavailable
from eventsync.mongodb.client import connect
from eventsync.mongodb.errors import AUTHENTICATION_FAILED, Barred
from eventsync.mongodb.leases import RENEWALS_PER_PERIOD, LeaseStore
from eventsync.settings import Settings
from eventsync.stores.log.events import Fenced
from eventsync.stores.readiness import check, reached
from eventsync.stores.stores import SEQUENCING, Stores
from eventsync_workers.jobs.archiver import Archiver
from eventsync_workers.jobs.compactor import Compactor
from eventsync_workers.jobs.snapshotter import Snapshotter
from eventsync_workers.sequencing.sequencer import Sequencer

logger = logging.getLogger(__name__)

_BACKOFF_CAP = 5.0
_JOBS: tuple[type[Snapshotter | Archiver | Compactor], ...] = (Snapshotter, Archiver, Compactor)
"""What runs beside the sequencer, each under a lease of its own."""


class Worker:
    """The whole process, between start and stop."""

    def __init__(self, settings: Settings, stop: asyncio.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._kept: Sequencer | None = None
        self._name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"

    async def run(self) -> None:
        """Work until `stop`; wait for MongoDB first. Raises `ConfigurationError` for settings that can't work."""
        if not await reached(self._settings, "worker", self._stop):
            return
        async with (
            connect(self._settings, "worker") as requests,
            connect(self._settings, "lease") as renewals,
            Offload.running(self._settings) as offload,
        ):
            stores = Stores.of(requests, self._settings, offload)
            # The lease has a client of its own: a pool that is busy with the log must not cost the leadership.
            leases = Stores.of(renewals, self._settings).leases
            await self._claim_archive(stores)
            jobs = [kind(stores, self._settings, self._name, self._stop) for kind in _JOBS]
            running = [asyncio.create_task(job.run(), name=type(job).__name__) for job in jobs]
            try:
                await self._work(stores, leases)
            finally:
                self._stop.set()
                for job in running:
                    await job

    async def _claim_archive(self, stores: Stores) -> None:
        """Record or compare the archive. Raises `ConfigurationError` where old events are in another one.

        One that does not answer is waited for by the jobs that use it.
        """
        objects = stores.archive.objects
        try:
            current = await stores.logs.current()
            await stores.archive.identity.claim(current.id if current else None)
        except Unavailable as error:
            logger.warning("%s; old events stay where they are until then", error.diagnosis)
        if objects is None:
            logger.info("archive_url names no archive: old events stay in MongoDB until they are no longer kept")
        elif objects.loose:
            logger.warning("%s", objects.loose)

    async def _work(self, stores: Stores, leases: LeaseStore) -> None:
        """Sequence until stopped, whatever fails."""
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await stores.ensure_indexes()
                await self._ask(stores)
                await self._compete(stores, leases)
                failures = 0
            except (Unavailable, Fenced) as error:
                await self._check_rights(error)
                failures = 1 if time.monotonic() - began > 2 * _BACKOFF_CAP else failures + 1
                logger.warning("%s; trying again", error.diagnosis)
                await set_within(self._stop, backoff(failures, first=0.1, cap=_BACKOFF_CAP))

    async def _check_rights(self, error: EventsyncError) -> None:
        """Raise `ConfigurationError`, which names what is missing, where MongoDB refuses the user for good."""
        code = error.__cause__.code if isinstance(error.__cause__, OperationFailure) else None
        if isinstance(error, Barred) or code in AUTHENTICATION_FAILED:
            with suppress(Unavailable):
                await check(self._settings, "worker")

    async def _ask(self, stores: Stores) -> None:
        try:
            await stores.tracking.ask(self._settings.collections)
        except Malformed as error:
            raise ConfigurationError(f"the settings are not valid: collections: {error.message}") from error

    async def _compete(self, stores: Stores, leases: LeaseStore) -> None:
        """Wait for the lease, then lead one term. Returns when stopped or when the lease was lost."""
        period = self._settings.lease_period
        while not self._stop.is_set():
            if await leases.acquire(SEQUENCING, self._name, period):
                logger.info("%s leads", self._name)
                await self._lead_or_give_up(stores, leases)
                return
            await set_within(self._stop, period / 4 * random.uniform(0.8, 1.2))

    async def _sweep(self, stores: Stores) -> None:
        """Remove what earlier leaders have left of large events that they did not come to append."""
        current = await stores.logs.current()
        if current is not None and (swept := await stores.events.sweep(current.id)):
            logger.info("log %s: %d parts that belong to no event are removed", current.id, swept)

    async def _lead_or_give_up(self, stores: Stores, leases: LeaseStore) -> None:
        """Lead; where that fails as it never should, give the lease back and let the error end this process.

        Another worker takes over at once, instead of waiting for the lease to run out.
        """
        try:
            await self._lead(stores, leases)
        except EventsyncError:
            raise  # `_work` knows what to do, and this worker may well go on leading
        except Exception as error:
            logger.critical("%s gives up the lease and ends: %r", self._name, error)
            try:
                await leases.release(SEQUENCING, self._name)
            except Unavailable as unreleased:
                logger.warning("%s; it runs out by itself", unreleased.diagnosis)
            raise

    async def _lead(self, stores: Stores, leases: LeaseStore) -> None:
        held = _Held(self._settings.lease_period)
        over = asyncio.Event()
        failure: Unavailable | Fenced | None = None
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew(leases, held, over), name="renew the sequencing lease")
            try:
                await self._sweep(stores)
                await self._sequencer(stores).lead(lambda: self._stop.is_set() or not held.now())
            except (Unavailable, Fenced) as error:
                failure = error  # raised below: here the group would wrap it
            finally:
                over.set()
        if failure is not None:
            raise failure
        await leases.release(SEQUENCING, self._name)
        logger.info("%s no longer leads", self._name)

    def _sequencer(self, stores: Stores) -> Sequencer:
        """The same one for all terms: it remembers what this process knows to be in the log."""
        if self._kept is None:
            self._kept = Sequencer(stores, self._settings)
        return self._kept

    async def _renew(self, leases: LeaseStore, held: _Held, over: asyncio.Event) -> None:
        """Keep the lease until `over`. A renewal that fails is tried again until the lease has run out."""
        while not await set_within(over, self._settings.lease_period / RENEWALS_PER_PERIOD):
            asked = time.monotonic()
            try:
                if not await leases.acquire(SEQUENCING, self._name, self._settings.lease_period):
                    logger.warning("another worker has taken the lease")
                    held.lose()
                    return
                held.renewed(asked)
            except Unavailable as error:
                logger.warning("%s", error.diagnosis)


class _Held:
    """Whether the lease can still be ours, by this process's own clock: for liveness only, never for safety."""

    def __init__(self, period: float) -> None:
        self._period = period
        self._until = time.monotonic() + period

    def renewed(self, asked: float) -> None:
        self._until = asked + self._period

    def lose(self) -> None:
        self._until = 0.0

    def now(self) -> bool:
        return time.monotonic() < self._until
