"""The metrics of a scrape: this process's figures, those of the other server processes, and those of MongoDB."""

from __future__ import annotations

import asyncio
import time
from enum import StrEnum

from eventsync import __version__
from eventsync.api.state import Services
from eventsync.domain.plan import Answer, ResetReason
from eventsync.metrics import catalogue as metrics
from eventsync.metrics.figures import Figures
from eventsync.metrics.process import put_loop_lag, put_process
from eventsync.stores.stats.overview import LogOverview, Overview


async def scraped(services: Services) -> bytes:
    """Return the text of a scrape."""
    overview, archive = await asyncio.gather(services.overview.read(), services.sync.archive_state())
    shared = services.monitoring.shared
    figures, alive = (own_figures(services), 1) if shared is None else shared.total()
    figures.put(metrics.PROCESSES, alive)
    # Not added up: they are the same on every server.
    figures.put(metrics.MONGODB_UP, overview is not None)
    if archive is not None:
        figures.put(metrics.ARCHIVE_UP, archive.reason is None)
    if overview is not None:
        _put_overview(figures, overview)
        if overview.log is not None:
            _put_log(figures, overview.log)
            _put_snapshots(figures, overview, overview.log)
    return figures.text()


def own_figures(services: Services, *, max_age: float = 0.0) -> Figures:
    """Return the figures of this server process. Nothing is waited for.

    Those that take milliseconds where thousands of clients are connected may be `max_age` seconds old.
    """
    figures, monitoring, now = Figures(), services.monitoring, time.monotonic()
    if monitoring.slow is None or now - monitoring.slow[0] >= max_age:
        monitoring.slow = now, _slow_figures(services)
    figures.add(monitoring.slow[1])
    put_loop_lag(figures, monitoring.lag)
    _put_requests(figures, services)
    _put_writes(figures, services)
    _put_delivery(figures, services)
    return figures


def _slow_figures(services: Services) -> Figures:
    figures, lag = Figures(), services.sync.sessions.lag()
    put_process(figures, __version__)
    figures.put(metrics.OLDEST_LAG, lag.events)
    if lag.oldest is not None:
        figures.put(metrics.OLDEST_SEQ, lag.oldest)
    return figures


def _put_requests(figures: Figures, services: Services) -> None:
    sync, monitoring = services.sync, services.monitoring
    figures.put_all(metrics.REQUESTS, monitoring.requests.answered)
    for (route, method), seconds in monitoring.requests.seconds.items():
        figures.put_histogram(metrics.REQUEST_SECONDS, seconds, route, method)
    if (limits := monitoring.limits) is not None:
        figures.put(metrics.SOCKETS, limits.open)
        figures.put(metrics.SOCKETS_REFUSED, limits.refused)
        figures.put(metrics.SLOW_CLIENTS, limits.slow)
    transports = {"websocket": 0, "sse": 0}
    figures.put_all(metrics.CONNECTIONS, transports | sync.sessions.connected | {"poll": sync.pages.waiting})
    figures.put_all(metrics.SESSIONS, transports | sync.sessions.opened)
    figures.put(metrics.HELD_BYTES, services.held.held)
    refused = {"bytes": services.held.refused, "clients": sync.vectors.refused, "writes": services.writes.refused}
    refused |= {
        "principals": services.budgets.refused,
        "tokens": services.access.authenticator.wrong_signatures.refused,
    }
    for name, admission in sync.source.admissions.items():
        figures.put(metrics.WAITING, admission.waiting, name)
        refused[name] = admission.refused
    figures.put_all(metrics.REFUSED, refused)
    figures.put(metrics.AUTHENTICATIONS, services.access.authenticated)
    figures.put_all(metrics.ACCESS_REFUSED, services.access.refusals.counts)


def _put_writes(figures: Figures, services: Services) -> None:
    writes = services.writes
    figures.put_all(metrics.WRITES, {"ok": 0} | writes.results)
    figures.put_histogram(metrics.WRITE_SECONDS, writes.seconds)
    figures.put(metrics.WRITE_RETRIES, services.storage.retries)
    figures.put(metrics.WRITES_WAITING, writes.waiting)
    figures.put(metrics.WRITE_DELAY, writes.delay)


def _put_delivery(figures: Figures, services: Services) -> None:
    sync = services.sync
    window, shapes = sync.window, sync.definitions.counts()
    sent = window.figures
    figures.put(metrics.PUBLISHED, sent.events)
    figures.put_all(metrics.DELIVERIES, {"direct": sent.direct, "session": sent.sent, "poll": sent.polled})
    figures.put_histogram(metrics.DELIVERY_SECONDS, sent.delay)
    figures.put_all(metrics.ANSWERS, _zero(Answer) | sent.answers)
    figures.put_all(metrics.RESETS, _zero(ResetReason) | sent.resets)
    figures.put(metrics.FEED_LIVE, sync.feed.state.live)
    figures.put(metrics.FEED_INTERRUPTED, sync.feed.state.interruptions)
    figures.put(metrics.STALE, sync.is_stale())
    figures.put(metrics.WINDOW_BYTES, window.bytes)
    figures.put(metrics.WINDOW_FLOOR, window.floor)
    figures.put(metrics.WINDOW_HEAD, window.head)
    figures.put_all(metrics.SHAPES, {state: getattr(shapes, state) for state in ("active", "waiting", "refused")})
    figures.put(metrics.SHAPE_DELAY, shapes.waited)


def _zero(values: type[StrEnum]) -> dict[str, int]:
    """Return 0 for each value: the first step of a counter that was not there before could not be seen."""
    return {value.value: 0 for value in values}


def _put_overview(figures: Figures, overview: Overview) -> None:
    figures.put_all(metrics.JOB_HELD, {job: overview.holder(job) is not None for job in overview.leases})
    for kind, usage in overview.records.items():
        figures.put(metrics.RECORDS, usage.documents, kind)
        figures.put(metrics.RECORDS_BYTES, usage.bytes, kind)


def _put_log(figures: Figures, log: LogOverview) -> None:
    figures.put(metrics.LOG_HEAD, log.head)
    figures.put(metrics.LOG_FLOOR, log.tiers.archived_up_to)
    figures.put(metrics.LOG_HORIZON, log.tiers.horizon)
    figures.put(metrics.SQUASH_FLOOR, log.tiers.squash_floor)
    figures.put_all(metrics.TIER_EVENTS, {"hot": log.hot.events, "cold": log.cold.events})
    figures.put_all(metrics.TIER_BYTES, {"hot": log.hot.bytes, "cold": log.cold.bytes})
    figures.put(metrics.SEGMENTS, log.cold.segments)
    figures.put(metrics.JOURNAL_DELAY, log.journal_delay or 0.0)
    figures.put_all(metrics.UNROUTED, log.unrouted)


def _put_snapshots(figures: Figures, overview: Overview, log: LogOverview) -> None:
    figures.put(metrics.SNAPSHOTS, len(log.snapshots))
    figures.put(metrics.SNAPSHOTS_BYTES, sum(item.bytes for item in log.snapshots))
    figures.put_all(metrics.SNAPSHOT_AGE, {item.collection: overview.age(item) for item in log.newest})
    figures.put_all(metrics.SNAPSHOT_SEQ, {item.collection: item.seq for item in log.newest})
