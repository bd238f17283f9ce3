"""Time travel over HTTP: a document at a point of its history, and the difference of two points."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api import conditions
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.paths import segment
from eventsync.api.permissions import Permissions
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
from eventsync.nodestorage import Visible
from eventsync.stores.history.time_travel import Reading

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


async def read_at(request: Request, shape: Shape, point: Point, visible: Visible | None) -> Response:
    """Respond with the document at a point, and a position with the same state."""
    await require_readable(request, shape, visible)
    time_travel = services_of(request).time_travel
    reading = await time_travel.document(shape, point, visible)
    if reading.encoded is None:
        raise _nothing(shape, reading, visible=visible)
    version = reading.encoded[0]
    body, digest = await time_travel.document_json(shape, reading)
    headers = {"ETag": entity_tag(version, digest), "Cache-Control": _caching(point)}
    if conditions.unchanged(request, headers["ETag"], version):
        return Response(status_code=304, headers=headers)
    need(len(body))
    return Response(body, headers=headers, media_type=JSON)


async def difference(request: Request) -> Response:
    """Respond with the patch from the document at one point to the document at another."""
    shape, visible = _target(request)
    start, end = _given(request, "from"), _given(request, "to")
    if start is None:
        raise Malformed("from takes the point to begin with: a version, a position or an instant")
    await require_readable(request, shape, visible)
    time_travel = services_of(request).time_travel
    before = await time_travel.document(shape, start, visible)
    after = await time_travel.document(shape, end, visible)
    if before.encoded is None and after.encoded is None:
        raise _nothing(shape, before, after, visible=visible)
    patch = await time_travel.difference_json(shape, before, after)
    body = {"id": shape.id, "from": before.tree(), "to": after.tree(), "patch": JsonText(patch)}
    caching = _caching(start) if _caching(start) == _caching(end) else _caching(None)
    encoded = to_json(body)
    need(len(encoded))
    headers = {"ETag": f'"{hashlib.blake2b(encoded, digest_size=16).hexdigest()}"', "Cache-Control": caching}
    if conditions.unchanged(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(encoded, headers=headers, media_type=JSON)


async def require_readable(request: Request, shape: Shape, visible: Visible | None) -> None:
    """Raise `NotFound` for a document that its reader may not read now, as for one that does not exist.

    So whoever loses a document loses its past, too, and nobody learns of the past of one that he may not read.
    """
    if visible is not None and shape.id is not None:
        value = parse_id(shape.id)
        if await services_of(request).storage.get(shape.collection, value, visible.guard) is None:
            raise no_document(shape.collection, value)


def no_document(collection: str, value: Any) -> NotFound:
    """Return the error for a document that does not exist, or that its reader may not read: the same for both."""
    return NotFound(f"there is no document {collection}/{format_id(value)}")


def _nothing(shape: Shape, *readings: Reading, visible: Visible | None) -> NotFound:
    """Return the error where there was no document. The position of a change that is not shown is not told."""
    where = "there" if visible is not None else " nor ".join(f"at {reading.position}" for reading in readings)
    return NotFound(f"there was no document {shape} {where}")


def _given(request: Request, name: str) -> Point | None:
    text = request.query_params.get(name)
    return None if text is None else parse_point(text)


def _target(request: Request) -> tuple[Shape, Visible | None]:
    collection = segment(request, "collection")
    visible = Permissions(request).visible(collection)
    return Shape(collection, format_id(parse_id(segment(request, "id")))), visible


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
