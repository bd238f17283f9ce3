"""Time travel over HTTP: a document at a point of its history, and the difference of two points."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api import conditions
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import segment
from eventsync.api.responses import IMMUTABLE, JSON
from eventsync.api.state import services_of
from eventsync.concurrency.held_bytes import need
from eventsync.domain.entity_tag import entity_tag
from eventsync.domain.ids import format_id, parse_id
from eventsync.domain.points import Point, parse_instant, parse_point, parse_version
from eventsync.domain.positions import Position
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import JsonText, to_json
from eventsync.errors import Malformed, NotFound

_KINDS: Final[Mapping[str, Callable[[str], Point]]] = {
    "version": parse_version,
    "at": parse_instant,
    "position": Position.parse_in_log,
}


def requested_point(request: Request) -> Point | None:
    """Return the point of history that the query names, or None. Raises `Malformed`, also for two points."""
    given = [(name, text) for name, text in request.query_params.multi_items() if name in _KINDS]
    if len(given) > 1:
        raise Malformed("give at most one of version, at and position")
    for name, text in given:
        return _KINDS[name](text)
    return None


async def read_at(request: Request, shape: Shape, point: Point) -> Response:
    """Respond with the document at a point, and a position with the same state."""
    time_travel = services_of(request).time_travel
    reading = await time_travel.document(shape, point)
    if reading.encoded is None:
        raise NotFound(f"there was no document {shape} at {reading.position}")
    version = reading.encoded[0]
    body, digest = await time_travel.document_json(shape, reading)
    headers = {"ETag": entity_tag(version, digest), "Cache-Control": _caching(point)}
    if conditions.unchanged(request, headers["ETag"], version):
        return Response(status_code=304, headers=headers)
    need(len(body))
    return Response(body, headers=headers, media_type=JSON)


async def difference(request: Request) -> Response:
    """Respond with the patch from the document at one point to the document at another."""
    shape = _target(request)
    start, end = _given(request, "from"), _given(request, "to")
    if start is None:
        raise Malformed("from takes the point to begin with: a version, a position or an instant")
    time_travel = services_of(request).time_travel
    before, after = await time_travel.document(shape, start), await time_travel.document(shape, end)
    if before.encoded is None and after.encoded is None:
        raise NotFound(f"there was no document {shape} at {before.position} nor at {after.position}")
    patch = await time_travel.difference_json(shape, before, after)
    body = {"id": shape.id, "from": before.tree(), "to": after.tree(), "patch": JsonText(patch)}
    caching = _caching(start) if _caching(start) == _caching(end) else _caching(None)
    encoded = to_json(body)
    need(len(encoded))
    headers = {"ETag": f'"{hashlib.blake2b(encoded, digest_size=16).hexdigest()}"', "Cache-Control": caching}
    if conditions.unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(encoded, headers=headers, media_type=JSON)


def _given(request: Request, name: str) -> Point | None:
    text = request.query_params.get(name)
    return None if text is None else parse_point(text)


def _target(request: Request) -> Shape:
    collection = segment(request, "collection")
    services_of(request).sync.tracking.require(collection)
    return Shape(collection, format_id(parse_id(segment(request, "id"))))


def _is_final(point: Point | None) -> bool:
    """Return True if the state at a point can't change. A version may occur again, and the present is not over."""
    return point is not None and not isinstance(point, int)


def _caching(point: Point | None) -> str:
    return IMMUTABLE if _is_final(point) else "no-cache"


routes = [
    Endpoint(
        "/v1/collections/{collection}/documents/{id}/diff",
        difference,
        methods=["GET"],
        access=AccessLevel.PRINCIPAL,
        query=("from", "to"),
        tagged=True,
    ),
]
