"""`/v1/admin/settings`: the settings of this server process, with their sources, and without secrets."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import JSON, NO_STORE
from eventsync.api.state import services_of
from eventsync.domain.values.extended_json import to_json
from eventsync.settings.listing import listing


async def read(request: Request) -> Response:
    """List the settings in force. Each process has its own: the answer says which one it is of."""
    services = services_of(request)
    # In a thread: the sources are looked up in the configuration file.
    listed = await asyncio.to_thread(listing, services.settings)
    body = {"answered_by": services.reports.process.name, "settings": [asdict(item) for item in listed]}
    return Response(to_json(body), headers=NO_STORE, media_type=JSON)


routes = [
    Endpoint("/v1/admin/settings", read, methods=["GET"], access=AccessLevel.OBSERVER, name="admin_settings"),
]
