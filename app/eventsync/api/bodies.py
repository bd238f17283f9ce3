"""Request bodies: bounded in size and time, of the announced type, parsed strictly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from eventsync.api.state import services
from eventsync.concurrency.held_bytes import need
from eventsync.concurrency.slices import turn
from eventsync.domain.values.extended_json import JsonText, parse_json
from eventsync.errors import Malformed, TooLarge, UnsupportedMediaType
from eventsync.nodestorage.deciding import TEXT_WEIGHT

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: as it came, and parsed; `content` of a large one is a `JsonText`, to be parsed aside."""

    media_type: str
    raw: bytes
    content: Any


async def read_small(request: Request, most: int) -> Any:
    """The parsed JSON of a body of at most `most` bytes. Raises as `read_json`."""
    _check_type(request, (JSON,))
    raw = await _read(request, most)
    await turn(TEXT_WEIGHT * len(raw))
    return parse_json(raw)


async def read_json(request: Request, *types: str) -> Body:
    """The body, which must be JSON of one of the media types `types`.

    Raises `UnsupportedMediaType`, `TooLarge` and `Malformed`, but for a large body's `content`: who parses it does.
    """
    media_type = _check_type(request, types)
    raw = await _read(request, services(request).settings.body_bytes)
    is_large = TEXT_WEIGHT * len(raw) > services(request).offload.above
    if is_large:
        return Body(media_type, raw, JsonText(raw))
    await turn(TEXT_WEIGHT * len(raw))
    return Body(media_type, raw, parse_json(raw))


def _check_type(request: Request, types: tuple[str, ...]) -> str:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in types:
        raise UnsupportedMediaType(f"Content-Type is {media_type or 'missing'}; this takes {' or '.join(types)}")
    return media_type


async def _read(request: Request, limit: int) -> bytes:
    settings = services(request).settings
    too_large = TooLarge(f"the body is over {limit} bytes")
    # A length that is no number never gets here: the server's parser refuses it.
    if int(request.headers.get("content-length", "0")) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
                need(len(body))
    except TimeoutError as error:
        raise Malformed(f"the body did not arrive within {settings.body_timeout:g} s") from error
    except ClientDisconnect as error:
        raise Malformed("the client went away before its body was complete") from error
    return bytes(body)
