"""`GET /v1/sync/segments`: the archived part of the log, as the immutable files that it is kept in."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from eventsync.api import conditions
from eventsync.api.endpoint import Endpoint
from eventsync.api.state import Services, services
from eventsync.domain.positions import Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import NotFound, Unavailable
from eventsync.server.response_stream import ClientDisconnected, ResponseStream
from eventsync.stores.archive.objects import CONTENT_TYPE, IMMUTABLE
from eventsync.stores.archive.segments import Segment

logger = logging.getLogger(__name__)

_CHUNK: Final = 1024 * 1024


async def segment_list(request: Request) -> Response:
    """The segments of the log in force, by seq, a page at a time."""
    found = services(request)
    name = found.sync.source.log()
    most = found.settings.page_documents
    limit = conditions.number(request, "limit", default=most, low=1, high=most)
    tiers = await found.archive.tiers.read(name)
    after = conditions.number(request, "after", default=tiers.horizon, low=0, high=2**63 - 1)
    segments: list[Segment] = []
    async with aclosing(found.archive.segments.covering(name, Seq(after), tiers.archived_up_to)) as listed:
        async for segment in listed:
            segments.append(segment)
            if len(segments) == limit:
                break
    body: dict[str, Any] = {"log": name, "horizon": tiers.horizon, "segments": [_described(item) for item in segments]}
    if len(segments) == limit:
        body["next"] = segments[-1].span.last
    return Response(orjson.dumps(body), headers={"Cache-Control": "no-store"}, media_type="application/json")


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
    """The endpoint of a segment's bytes. What can't be read to its end is cut off: nobody takes it for whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        found = services(request)
        segment = await _segment(found, Position.parse(request.path_params["position"]))
        tag = f'"{segment.sha256.hex()}"'
        if conditions.unchanged(request, tag):
            await Response(status_code=304, headers={"ETag": tag, "Cache-Control": IMMUTABLE})(scope, receive, send)
            return
        async with aclosing(_pieces(found, segment)) as pieces:
            # The first one is read before the status goes out: what fails at once gets a problem document.
            first = await anext(pieces)
            outlet = ResponseStream(scope, receive, send, timeout=found.settings.send_timeout)
            async with outlet.watched(lambda: None):
                await _stream(outlet, _headers(segment, tag), first, pieces)


async def _segment(found: Services, position: Position) -> Segment:
    """The segment that begins with the event at a position. Raises `NotFound`."""
    segment = await found.archive.segments.starting(position.log, position.seq)
    tiers = await found.archive.tiers.read(position.log)
    # Below the floor it is there for good, until the horizon passes.
    if segment is None or not tiers.horizon < segment.span.last <= tiers.archived_up_to:
        raise NotFound(f"no segment begins with event {position}")
    return segment


def _name(segment: Segment) -> str:
    """Return a segment's name for clients, the position of its first event. (Its path is the archive's own.)"""
    return str(Position(segment.log, segment.span.first))


async def _pieces(found: Services, segment: Segment) -> AsyncGenerator[bytes]:
    for offset in range(0, segment.size, _CHUNK):
        length = min(_CHUNK, segment.size - offset)
        try:
            piece = await found.archive.reader.data(segment, offset, length)
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


async def _stream(
    outlet: ResponseStream, headers: list[tuple[bytes, bytes]], first: bytes, rest: AsyncGenerator[bytes]
) -> None:
    try:
        await outlet.start(headers)
        await outlet.write(first)
        async for piece in rest:
            await outlet.write(piece)
        await outlet.end()
    except ClientDisconnected:
        return
    except Unavailable as error:
        logger.warning("a segment breaks off: %s", error.diagnosis)
        outlet.cut()


routes = [
    Endpoint("/v1/sync/segments", segment_list, methods=["GET"], name="segments", query=("after", "limit")),
    Endpoint("/v1/sync/segments/{position}", SegmentStream(), methods=["GET"], name="segment", tagged=True),
]
