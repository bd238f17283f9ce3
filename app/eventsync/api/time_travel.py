"""Time travel over HTTP: a document as it was, and the difference of two points of its history."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from eventsync.api import conditions
from eventsync.api.bodies import JSON
from eventsync.api.endpoint import Endpoint
from eventsync.api.paths import segment
from eventsync.api.state import services
from eventsync.concurrency.held_bytes import need
from eventsync.domain.entity_tag import entity_tag
from eventsync.domain.ids import format_id, parse_id
from eventsync.domain.points import Point, parse_instant, parse_point, parse_version
from eventsync.domain.positions import Position
from eventsync.domain.shapes import Shape
from eventsync.domain.values.extended_json import JsonText, to_json
from eventsync.errors import Malformed, NotFound

_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_KINDS: Final[Mapping[str, Callable[[str], Point]]] = {
    "version": parse_version,
    "at": parse_instant,
    "position": Position.parse,
}


def named_point(request: Request) -> Point | None:
    """The point of history that the query names, if it does. Raises `Malformed`, also where it names two."""
    given = [(name, text) for name, text in request.query_params.multi_items() if name in _KINDS]
    if len(given) > 1:
        raise Malformed("a document was one thing at one point: give one of version, at and position")
    for name, text in given:
        return _KINDS[name](text)
    return None


async def as_it_was(request: Request, shape: Shape, point: Point) -> Response:
    """The document at that point, and a position at which it was so."""
    past = services(request).past
    reading = await past.document(shape, point)
    if reading.encoded is None:
        raise NotFound(f"there was no document {shape} at {reading.position}")
    version = reading.encoded[0]
    body, digest = await past.document_json(shape, reading)
    headers = {"ETag": entity_tag(version, digest), "Cache-Control": _caching(point)}
    if conditions.unchanged(request, headers["ETag"], version):
        return Response(status_code=304, headers=headers)
    need(len(body))
    return Response(body, headers=headers, media_type=JSON)


async def difference(request: Request) -> Response:
    """The patch that turns the document at one point into the document at another."""
    shape = _target(request)
    start, end = _given(request, "from"), _given(request, "to")
    if start is None:
        raise Malformed("from takes the point to begin with: a version, a position or an instant")
    found = services(request).past
    before, after = await found.document(shape, start), await found.document(shape, end)
    if before.encoded is None and after.encoded is None:
        raise NotFound(f"there was no document {shape} at {before.position} nor at {after.position}")
    patch = await found.difference_json(shape, before, after)
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
    services(request).sync.tracking.require(collection)
    return Shape(collection, format_id(parse_id(segment(request, "id"))))


def _is_final(point: Point | None) -> bool:
    """Whether what was there stays what it is: a version may come again, and now is never over."""
    return point is not None and not isinstance(point, int)


def _caching(point: Point | None) -> str:
    return _IMMUTABLE if _is_final(point) else "no-cache"


routes = [
    Endpoint(
        "/v1/collections/{collection}/documents/{id}/diff",
        difference,
        methods=["GET"],
        query=("from", "to"),
        tagged=True,
    ),
]
