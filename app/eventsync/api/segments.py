"""`GET /v1/sync/segments`: the archived part of the log, as its immutable segment files."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventsync.api import conditions
from eventsync.api.endpoint import AccessLevel, Endpoint
from eventsync.api.responses import IMMUTABLE, JSON, NO_STORE
from eventsync.api.state import Services, services_of
from eventsync.domain.positions import Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import NotFound, Unavailable
from eventsync.server.response_stream import ResponseStream
from eventsync.stores.archive.objects import CONTENT_TYPE
from eventsync.stores.archive.segments import Segment

_CHUNK: Final = 1024 * 1024


async def segment_list(request: Request) -> Response:
    """List the segments of the current log by seq, a page at a time."""
    services = services_of(request)
    log_id = services.sync.source.log()
    max_limit = services.settings.page_documents
    limit = conditions.number(request, "limit", default=max_limit, low=1, high=max_limit)
    tiers = await services.archive.tiers.read(log_id)
    after = conditions.number(request, "after", default=tiers.horizon, low=0, high=2**63 - 1)
    segments: list[Segment] = []
    async with aclosing(services.archive.segments.covering(log_id, Seq(after), tiers.archived_up_to)) as listed:
        async for segment in listed:
            segments.append(segment)
            if len(segments) == limit:
                break
    body: dict[str, Any] = {
        "log": log_id,
        "horizon": tiers.horizon,
        "segments": [_described(item) for item in segments],
    }
    if len(segments) == limit:
        body["next"] = segments[-1].span.last
    return Response(orjson.dumps(body), headers=NO_STORE, media_type=JSON)


def _described(segment: Segment) -> dict[str, Any]:
    span = segment.span
    return {
        "position": _name(segment),
        "first": span.first,
        "last": span.last,
        "bytes": segment.size,
        "raw_bytes": segment.raw,
        "earliest": span.earliest,
        "latest": span.latest,
        "sha256": segment.sha256.hex(),
    }


class SegmentStream:
    """The endpoint of a segment's bytes. One that can't be read completely is cut off, so that clients detect it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        services = services_of(request)
        segment = await _segment(services, Position.parse(request.path_params["position"]))
        tag = f'"{segment.sha256.hex()}"'
        if conditions.unchanged(request, tag):
            await Response(status_code=304, headers={"ETag": tag, "Cache-Control": IMMUTABLE})(scope, receive, send)
            return
        async with aclosing(_pieces(services, segment)) as pieces:
            stream = ResponseStream(scope, receive, send, timeout=services.settings.send_timeout)
            await stream.send_all(_headers(segment, tag), pieces, what="a segment")


async def _segment(services: Services, position: Position) -> Segment:
    """Return the segment whose first event is at a position. Raises `NotFound`."""
    segment = await services.archive.segments.starting(position.log, position.seq)
    tiers = await services.archive.tiers.read(position.log)
    # Segments up to `archived_up_to` stay until the horizon passes them.
    if segment is None or not tiers.horizon < segment.span.last <= tiers.archived_up_to:
        raise NotFound(f"no segment begins with event {position}")
    return segment


def _name(segment: Segment) -> str:
    """Return a segment's name for clients: the position of its first event. Its path is internal."""
    return str(Position(segment.log, segment.span.first))


async def _pieces(services: Services, segment: Segment) -> AsyncGenerator[bytes]:
    for offset in range(0, segment.size, _CHUNK):
        length = min(_CHUNK, segment.size - offset)
        try:
            piece = await services.archive.reader.data(segment, offset, length)
        except Damaged as error:
            raise Unavailable(f"segment {_name(segment)} can't be read").because(error.diagnosis) from error
        if len(piece) != length:
            raise Unavailable(f"segment {_name(segment)} is cut off")
        yield piece


def _headers(segment: Segment, tag: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"content-length", b"%d" % segment.size),
        (b"cache-control", IMMUTABLE.encode()),
        (b"etag", tag.encode()),
    ]


routes = [
    Endpoint(
        "/v1/sync/segments",
        segment_list,
        methods=["GET"],
        access=AccessLevel.OPERATOR,
        name="segments",
        query=("after", "limit"),
    ),
    Endpoint(
        "/v1/sync/segments/{position}",
        SegmentStream(),
        methods=["GET"],
        access=AccessLevel.OPERATOR,
        name="segment",
        is_long=True,
        tagged=True,
    ),
]
