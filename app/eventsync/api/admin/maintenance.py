"""`/v1/admin/jobs`: what keeps the log in order, and what it did last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import services_of
from eventsync.domain.values.extended_json import to_json
from eventsync.stores.stores import ARCHIVING, COMPACTING, SNAPSHOTTING

_JOBS: Final = (SNAPSHOTTING, ARCHIVING, COMPACTING)


async def jobs(request: Request) -> Response:
    """List the periodic jobs of the workers: who does each, its last runs, and the next one."""
    stores = services_of(request).stores
    workers = (await stores.stats.processes.running()).of("worker")
    rows: list[dict[str, Any]] = []
    for name in _JOBS:
        lease = await stores.leases.read(name)
        holder = lease.owner if lease is not None and lease.live else None
        known = {each.process.name: each.state.get("jobs", {}).get(name) for each in workers}
        current = known.get(holder or "") or {}
        runs = {kind: _newest(kind, known.values()) for kind in ("succeeded", "worked", "failed")}
        now = {kind: current.get(kind) for kind in ("running_since", "next_at")}
        rows.append({"name": name, "worker": holder, **now, **runs})
    return Response(to_json({"jobs": rows}), headers=NO_STORE, media_type=JSON)


def _newest(kind: str, known: Iterable[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    """Return the newest run of a kind. A job that another worker has taken over has runs of several workers."""
    runs = [run for job in known if job is not None and (run := job.get(kind)) is not None]
    return max(runs, key=lambda run: run["at"], default=None)


routes = [
    Endpoint("/v1/admin/jobs", jobs, methods=["GET"], access=AccessLevel.OBSERVER, name="admin_jobs"),
]
