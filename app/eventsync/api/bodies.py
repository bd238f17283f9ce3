"""Request bodies: bounded in size and time, of an accepted media type, parsed strictly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from eventsync.api.responses import JSON
from eventsync.api.state import follow_access, services_of
from eventsync.concurrency.held_bytes import need
from eventsync.concurrency.slices import turn
from eventsync.concurrency.timeouts import Timeout
from eventsync.domain.values.extended_json import JsonText, parse_json
from eventsync.errors import Malformed, TooLarge, UnsupportedMediaType
from eventsync.nodestorage import TEXT_WEIGHT

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Body:
    """A request body, raw and parsed. Large `content` is a `JsonText`, parsed later in a helper process."""

    media_type: str
    raw: bytes
    content: Any


async def read_small(request: Request, limit: int) -> Any:
    """Return the parsed JSON of a body of at most `limit` bytes. Raises what `read_json` raises."""
    _check_type(request, (JSON,))
    raw = await _read(request, limit)
    await turn(TEXT_WEIGHT * len(raw))
    return parse_json(raw)


async def read_json(request: Request, *types: str) -> Body:
    """Return the body, which must be JSON of one of the media types `types`.

    Raises `UnsupportedMediaType`, `TooLarge` and `Malformed`; for a large body, parsing `content` raises the last one.
    """
    media_type, raw = await read_bytes(request, *types)
    is_large = TEXT_WEIGHT * len(raw) > services_of(request).offload.above
    if is_large:
        return Body(media_type, raw, JsonText(raw))
    await turn(TEXT_WEIGHT * len(raw))
    return Body(media_type, raw, parse_json(raw))


async def read_bytes(request: Request, *types: str) -> tuple[str, bytes]:
    """Return the media type, one of `types`, and the bytes of a body that the caller parses.

    Raises `UnsupportedMediaType` and `TooLarge`.
    """
    media_type = _check_type(request, types)
    return media_type, await _read(request, services_of(request).settings.body_bytes)


def _check_type(request: Request, types: tuple[str, ...]) -> str:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in types:
        raise UnsupportedMediaType(f"Content-Type is {media_type or 'missing'}; this takes {' or '.join(types)}")
    return media_type


async def _read(request: Request, limit: int) -> bytes:
    settings = services_of(request).settings
    # The server's HTTP parser has refused a length that is not a number.
    if int(request.headers.get("content-length", "0")) > limit:
        raise _too_large(limit)
    try:
        with Timeout(settings.body_timeout):
            body = await _received(request, limit)
    except TimeoutError as error:
        raise Malformed(f"the body did not arrive within {settings.body_timeout:g} s") from error
    # Of all that a body brings about, something may not be allowed any more.
    follow_access(request)
    return body


async def _received(request: Request, limit: int) -> bytes:
    """Return the body. Without Starlette's `stream`, which would take a tenth of the time of a small body."""
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Malformed("the client went away before its body was complete")
        chunk: bytes = message.get("body", b"")
        if len(body) + len(chunk) > limit:
            raise _too_large(limit)
        need(len(body) + len(chunk))
        if not message.get("more_body"):
            return bytes(body) + chunk if body else chunk
        body += chunk


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes")
