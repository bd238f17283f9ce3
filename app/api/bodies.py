"""Request bodies: bounded in size and time, of the announced type, parsed strictly."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from app.api.state import services
from app.domain.values import parse_json
from app.errors import Malformed, TooLarge, UnsupportedMediaType

JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Body:
    """A request body: as it came, and parsed."""

    media_type: str
    raw: bytes
    tree: Any


async def read_json(request: Request, *types: str) -> Body:
    """The body, which must be JSON of one of the media types `types`.

    Raises `UnsupportedMediaType`, `TooLarge` and `Malformed`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in types:
        raise UnsupportedMediaType(f"Content-Type is {media_type or 'missing'}; this takes {' or '.join(types)}")
    raw = await _read(request)
    return Body(media_type, raw, parse_json(raw))


async def _read(request: Request) -> bytes:
    settings = services(request).settings
    limit = settings.body_bytes
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
    except TimeoutError as error:
        raise Malformed(f"the body did not arrive within {settings.body_timeout:g} s") from error
    except ClientDisconnect as error:
        raise Malformed("the client went away before its body was complete") from error
    return bytes(body)
