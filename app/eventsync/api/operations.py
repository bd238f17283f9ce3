"""`/healthz`, `/readyz` and `/metrics`. `docs/reference/metrics.md` lists the metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from eventsync.api.authentication import is_operator
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import Services, services_of
from eventsync.stores.log.definitions import ShapeCounts
from eventsync.stores.stats.overview import LogOverview, Overview
from eventsync.sync.clients.lag import ServerLag
from eventsync.sync.service import SyncService


async def healthz(_request: Request) -> Response:
    """Respond 200 while the process lives."""
    return Response(b'{"status":"ok"}', headers=NO_STORE, media_type=JSON)


async def readyz(request: Request) -> Response:
    """Respond 200 if this server can serve, else 503, with the same body; `detail` is the worst problem.

    With rules, only operators see more than the status. A missing leader does not make a server unready: it would be so
    for all servers, and they can still serve.
    """
    health = await services_of(request).sync.health()
    body = asdict(health) if await is_operator(request) else {"status": health.status}
    return Response(orjson.dumps(body), 503 if health.status == "not_ready" else 200, NO_STORE, JSON)


async def metrics(request: Request) -> Response:
    """Respond with the metrics of this server, and those of MongoDB if it answers in time."""
    services = services_of(request)
    registry = CollectorRegistry()
    registry.register(Metrics(services, await services.overview.read()))
    headers = {**NO_STORE, "Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
    return Response(generate_latest(registry), headers=headers)


class Metrics(Collector):
    """The metrics of one scrape."""

    def __init__(self, services: Services, overview: Overview | None) -> None:
        self._services = services
        self._overview = overview

    def collect(self) -> Iterator[Gauge | Counter]:
        """Yield the metrics that have a value."""
        yield from _of_requests(self._services)
        yield from _of_server(self._services.sync, self._services.sync.sessions.lag())
        yield from _of_shapes(self._services.sync.definitions.counts())
        up = float(self._overview is not None)
        yield Gauge("eventsync_mongodb_up", "1 if MongoDB has returned the overview of the log in time.", up)
        if self._overview is not None:
            yield _leases(self._overview)
            yield from _of_records(self._overview)
            if self._overview.log is not None:
                yield from _of_log(self._overview.log)
                yield from _of_snapshots(self._overview, self._overview.log)


def _of_requests(services: Services) -> Iterator[Gauge | Counter]:
    sync, writes = services.sync, services.writes
    waiting = Gauge("eventsync_waiting", "Clients that wait for admission, by kind.", labels=["for"])
    refused = Counter("eventsync_refused", "Clients refused with a retry delay since the start.", labels=["for"])
    for name, admission in sync.source.admissions.items():
        waiting.add_metric([name], admission.waiting)
        refused.add_metric([name], admission.refused)
    refused.add_metric(["bytes"], services.held.refused)
    refused.add_metric(["clients"], sync.vectors.refused)
    refused.add_metric(["writes"], writes.refused)
    refused.add_metric(["principals"], services.budgets.refused)
    refused.add_metric(["tokens"], services.access.authenticator.wrong_signatures.refused)
    yield waiting
    yield refused
    denied = Counter("eventsync_access_refused", "Requests refused by access rules, by reason.", labels=["reason"])
    for reason, count in sorted(services.access.refusals.counts.items()):
        denied.add_metric([reason], count)
    yield denied
    yield Gauge("eventsync_held_bytes", "Bytes held by requests under way.", services.held.held)
    yield Gauge("eventsync_writes_waiting", "Writes of documents in progress.", writes.waiting)
    yield Gauge("eventsync_write_delay_seconds", "Expected delay of a new write.", writes.delay)


def _of_server(sync: SyncService, lag: ServerLag) -> Iterator[Gauge | Counter]:
    window = sync.window
    yield Gauge("eventsync_connections", "Open WebSocket and SSE connections of this server.", len(sync.sessions))
    yield Gauge("eventsync_feed_live", "1 if this server follows the log.", float(sync.feed.state.live))
    yield Gauge("eventsync_stale", "1 if no worker makes progress.", float(sync.is_stale()))
    yield Gauge("eventsync_window_bytes", "Bytes of the newest events in this server's memory.", window.bytes)
    yield Gauge("eventsync_window_floor", "Events after this seq are in this server's memory.", window.floor)
    yield Gauge("eventsync_window_head", "Newest event in this server's memory, by seq.", window.head)
    yield Gauge("eventsync_oldest_client_lag_events", "Events between the oldest client and the head.", lag.events)
    if lag.oldest is not None:
        yield Gauge("eventsync_oldest_client_seq", "Lowest position among this server's clients.", lag.oldest)


def _of_shapes(shapes: ShapeCounts) -> Iterator[Gauge]:
    declared = Gauge("eventsync_shapes", "Declared shapes, by state.", labels=["state"])
    for state in ("active", "waiting", "refused"):
        declared.add_metric([state], getattr(shapes, state))
    yield declared
    yield Gauge("eventsync_shape_activation_delay_seconds", "Longest wait of a declared shape.", shapes.waited)


def _leases(overview: Overview) -> Gauge:
    held = Gauge("eventsync_job_held", "1 if a worker holds the lease of the job.", labels=["job"])
    for job in overview.leases:
        held.add_metric([job], float(overview.holder(job) is not None))
    return held


def _of_records(overview: Overview) -> Iterator[Gauge]:
    count = Gauge("eventsync_records", "Records that requests leave behind, by kind.", labels=["of"])
    size = Gauge("eventsync_records_bytes", "Bytes of these records, before compression.", labels=["of"])
    for kind, usage in overview.records.items():
        count.add_metric([kind], usage.documents)
        size.add_metric([kind], usage.bytes)
    yield count
    yield size


def _of_log(log: LogOverview) -> Iterator[Gauge | Counter]:
    yield Gauge("eventsync_log_head", "Newest event of the log, by seq.", log.head)
    yield Gauge("eventsync_log_floor", "Events up to this seq have left MongoDB.", log.tiers.archived_up_to)
    yield Gauge("eventsync_log_horizon", "Events up to this seq are no longer retained.", log.tiers.horizon)
    yield Gauge("eventsync_log_squash_floor", "Positions below it get a snapshot.", log.tiers.squash_floor)
    events = Gauge("eventsync_tier_events", "Events of the log, by tier.", labels=["tier"])
    size = Gauge("eventsync_tier_bytes", "Bytes of the log's events, by tier: BSON, or compressed.", labels=["tier"])
    for tier, count, total in (
        ("hot", log.hot.events, log.hot.bytes),
        ("cold", log.cold.events, log.cold.bytes),
    ):
        events.add_metric([tier], count)
        size.add_metric([tier], total)
    yield events
    yield size
    yield Gauge(
        "eventsync_journal_delay_seconds",
        "Delay of changes whose writers do not wait for the journal, while a worker flushes it; else 0.",
        log.journal_delay or 0.0,
    )
    unrouted = Counter("eventsync_unrouted_events", "Events of a document in no shape.", labels=["collection"])
    for collection, count in sorted(log.unrouted.items()):
        unrouted.add_metric([collection], count)
    yield unrouted
    yield Gauge("eventsync_segments", "Segments of the log on object storage.", log.cold.segments)


def _of_snapshots(overview: Overview, log: LogOverview) -> Iterator[Gauge]:
    yield Gauge("eventsync_snapshots", "Stored snapshots of the log.", len(log.snapshots))
    stored = sum(item.bytes for item in log.snapshots)
    yield Gauge("eventsync_snapshots_bytes", "Bytes of the stored snapshots, compressed.", stored)
    age = Gauge("eventsync_snapshot_age_seconds", "Age of a collection's newest snapshot.", labels=["collection"])
    seq = Gauge("eventsync_snapshot_seq", "Position of a collection's newest snapshot.", labels=["collection"])
    for item in log.newest:
        age.add_metric([item.collection], overview.age(item))
        seq.add_metric([item.collection], item.seq)
    yield age
    yield seq


routes = [
    Endpoint("/healthz", healthz, methods=["GET"], access=AccessLevel.PUBLIC),
    Endpoint("/readyz", readyz, methods=["GET"], access=AccessLevel.PUBLIC),
    Endpoint("/metrics", metrics, methods=["GET"], access=AccessLevel.OPERATOR),
]
