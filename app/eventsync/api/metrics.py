"""`/metrics`: what Prometheus scrapes. `docs/reference/protocol.md` lists the metrics."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from eventsync.api.endpoint import Endpoint
from eventsync.api.state import services_of
from eventsync.concurrency.held_bytes import HeldBytes
from eventsync.stores.stats.overview import LogOverview, Overview
from eventsync.sync.operating import Behind
from eventsync.sync.service import SyncService


async def metrics(request: Request) -> Response:
    """This server's figures; and MongoDB's, where it answers in time (`eventsync_mongodb_up`)."""
    services = services_of(request)
    registry = CollectorRegistry()
    registry.register(Metrics(services.sync, services.held, await services.operating.overview()))
    headers = {"Cache-Control": "no-store", "Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
    return Response(generate_latest(registry), headers=headers)


class Metrics(Collector):
    """One scrape's worth."""

    def __init__(self, sync: SyncService, held: HeldBytes, overview: Overview | None) -> None:
        self._sync = sync
        self._held = held
        self._overview = overview

    def collect(self) -> Iterator[Gauge | Counter]:
        """Yield the metrics that have a value."""
        yield from _of_server(self._sync, self._held, self._sync.sessions.behind())
        up = float(self._overview is not None)
        yield Gauge("eventsync_mongodb_up", "Whether MongoDB has told the figures of the log.", up)
        if self._overview is not None:
            yield _leases(self._overview)
            yield from _of_records(self._overview)
            if self._overview.log is not None:
                yield from _of_log(self._overview.log)
                yield from _of_snapshots(self._overview, self._overview.log)


def _of_server(sync: SyncService, held: HeldBytes, behind: Behind) -> Iterator[Gauge | Counter]:
    window = sync.window
    yield Gauge("eventsync_connections", "Open WebSocket and SSE connections of this server.", len(sync.sessions))
    waiting = Gauge("eventsync_waiting", "Clients that wait for their turn, by what for.", labels=["for"])
    refused = Counter("eventsync_refused", "Clients told to come back later since the start.", labels=["for"])
    for name, admission in sync.source.admissions.items():
        waiting.add_metric([name], admission.waiting)
        refused.add_metric([name], admission.refused)
    refused.add_metric(["bytes"], held.refused)
    refused.add_metric(["clients"], sync.vectors.refused)
    yield waiting
    yield refused
    yield Gauge("eventsync_held_bytes", "Bytes that the requests under way hold.", held.held)
    yield Gauge("eventsync_feed_live", "Whether this server follows the log.", float(sync.feed.state.live))
    yield Gauge("eventsync_stale", "Whether no worker has read the changes lately.", float(sync.is_stale()))
    yield Gauge("eventsync_window_bytes", "Bytes of the newest events in this server's memory.", window.bytes)
    yield Gauge("eventsync_window_floor", "Events after this seq are in this server's memory.", window.floor)
    yield Gauge("eventsync_window_head", "Newest event in this server's memory, by seq.", window.head)
    yield Gauge("eventsync_oldest_client_lag_events", "Events between the oldest client and the head.", behind.events)
    if behind.oldest is not None:
        yield Gauge("eventsync_oldest_client_seq", "Lowest position among this server's clients.", behind.oldest)


def _leases(overview: Overview) -> Gauge:
    held = Gauge("eventsync_job_held", "Whether a worker holds a job's lease.", labels=["job"])
    for job in overview.leases:
        held.add_metric([job], float(overview.holder(job) is not None))
    return held


def _of_records(overview: Overview) -> Iterator[Gauge]:
    count = Gauge("eventsync_records", "Records that requests leave behind, by what they are.", labels=["of"])
    size = Gauge("eventsync_records_bytes", "Bytes of these records, before compression.", labels=["of"])
    for kind, found in overview.records.items():
        count.add_metric([kind], found.documents)
        size.add_metric([kind], found.bytes)
    yield count
    yield size


def _of_log(found: LogOverview) -> Iterator[Gauge]:
    yield Gauge("eventsync_log_head", "Newest event of the log, by seq.", found.head)
    yield Gauge("eventsync_log_floor", "Events up to this seq have left MongoDB.", found.tiers.archived_up_to)
    yield Gauge("eventsync_log_horizon", "Events up to this seq are not kept any more.", found.tiers.horizon)
    yield Gauge("eventsync_log_squash_floor", "Positions below it get a snapshot.", found.tiers.squash_floor)
    events = Gauge("eventsync_tier_events", "Events of the log, by tier.", labels=["tier"])
    size = Gauge("eventsync_tier_bytes", "Bytes of the log's events, by tier: BSON, or compressed.", labels=["tier"])
    for tier, count, total in (
        ("hot", found.hot.events, found.hot.bytes),
        ("cold", found.cold.events, found.cold.bytes),
    ):
        events.add_metric([tier], count)
        size.add_metric([tier], total)
    yield events
    yield size
    yield Gauge("eventsync_segments", "Segments of the log on object storage.", found.cold.segments)


def _of_snapshots(overview: Overview, found: LogOverview) -> Iterator[Gauge]:
    yield Gauge("eventsync_snapshots", "Stored snapshots of the log.", len(found.snapshots))
    stored = sum(item.bytes for item in found.snapshots)
    yield Gauge("eventsync_snapshots_bytes", "Bytes of the stored snapshots, compressed.", stored)
    age = Gauge("eventsync_snapshot_age_seconds", "Age of a collection's newest snapshot.", labels=["collection"])
    seq = Gauge("eventsync_snapshot_seq", "Position of a collection's newest snapshot.", labels=["collection"])
    for item in found.newest:
        age.add_metric([item.collection], overview.age(item))
        seq.add_metric([item.collection], item.seq)
    yield age
    yield seq


routes = [Endpoint("/metrics", metrics, methods=["GET"])]
