"""`/v1/admin/…`: what operators see and do. All of it is for the roles `operator` and `observer` alone."""

from __future__ import annotations

from typing import Final

from starlette.routing import BaseRoute

from eventsync.api.admin import access, clients, collections, log, maintenance, overview, settings

__all__ = ["routes"]

routes: Final[list[BaseRoute]] = [
    *overview.routes,
    *clients.routes,
    *log.routes,
    *maintenance.routes,
    *collections.routes,
    *settings.routes,
    *access.routes,
]
