"""The access that each route of the application states."""

from __future__ import annotations

import pytest
from starlette.routing import BaseRoute

from eventsync.api.endpoint import AccessLevel, Endpoint, WebSocketEndpoint
from eventsync.application import create_app
from eventsync.settings import Settings

PUBLIC = {
    "/healthz",
    "/readyz",
    "/",
    "/try",
    "/docs",
    "/openapi.json",
    "/assets/{name}",
    "GET /v1/sync",
    "DELETE /v1/session",
}
OPERATOR = {
    "/metrics",
    "/v1/sync/segments",
    "/v1/sync/segments/{position}",
    "DELETE /v1/admin/clients/{id}",
    "/v1/admin/collections/{collection}",
    "/v1/admin/collections/{collection}/snapshots",
    "/v1/admin/collections/{collection}/restores",
    "/v1/admin/collections/{collection}/verifications",
    "/v1/admin/verifications",
    "/v1/admin/tasks/{id}",
    "/v1/admin/access/explain",
}
OBSERVER = {
    "GET /v1/state-vectors",
    "/v1/admin/overview",
    "/v1/admin/clients",
    "GET /v1/admin/clients/{id}",
    "/v1/admin/clients/{id}/frames",
    "/v1/admin/collections/{collection}/history",
    "/v1/admin/tasks",
    "/v1/admin/jobs",
    "/v1/admin/repairs",
    "/v1/admin/segments",
    "/v1/admin/snapshots",
    "/v1/admin/log",
    "/v1/admin/collections",
    "/v1/admin/settings",
    "/v1/admin/access",
}


def routes() -> list[BaseRoute]:
    return list(create_app(Settings(mongodb_uri="mongodb://unused")).routes)


def names(route: Endpoint) -> set[str]:
    return {route.path, *(f"{method} {route.path}" for method in route.methods or ())}


def test_every_route_states_who_may_use_it() -> None:
    """A mounted application or a plain route of Starlette would have no check at all."""
    unstated = [route for route in routes() if not isinstance(route, Endpoint | WebSocketEndpoint)]
    assert unstated == []


def test_endpoint_without_a_stated_level_can_not_be_made() -> None:
    with pytest.raises(TypeError, match="access"):
        Endpoint("/new", lambda _: None, methods=["GET"])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="access"):
        WebSocketEndpoint("/new", lambda *_: None)  # type: ignore[call-arg, arg-type]


def test_only_these_routes_are_public_or_for_operators() -> None:
    """All others are for principals. A route that is opened has to be opened here, too."""
    for route in routes():
        assert isinstance(route, Endpoint | WebSocketEndpoint)
        found = names(route) if isinstance(route, Endpoint) else {f"WEBSOCKET {route.path}"}
        if found & PUBLIC:
            assert route.access is AccessLevel.PUBLIC, found
        elif found & OPERATOR:
            assert route.access is AccessLevel.OPERATOR, found
        elif found & OBSERVER:
            assert route.access is AccessLevel.OBSERVER, found
            assert isinstance(route, Endpoint)
            assert (route.methods or set()) <= {"GET", "HEAD"}, found
        else:
            assert route.access is AccessLevel.PRINCIPAL, found
