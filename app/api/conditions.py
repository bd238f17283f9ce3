"""Conditional requests, preferences, idempotency keys and query parameters, as the headers and URLs spell them.

Sources: RFC 9110 section 13 (conditions), RFC 7240 (Prefer), draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
import re

from starlette.requests import HTTPConnection, Request

from app.api.state import services
from app.errors import Malformed
from app.nodestorage import Author, Idempotency

MAX_KEY = 128
"""Longest idempotency key, in characters."""

_ETAG = re.compile(r'"(0|[1-9][0-9]{0,18})"', re.ASCII)


def etag(version: int) -> str:
    """A document version as an entity tag."""
    return f'"{version}"'


def expected_version(request: Request) -> int | None:
    """The version that `If-Match` names, or None without the header. Raises `Malformed`."""
    if (header := request.headers.get("if-match")) is None:
        return None
    return version_of(header)


def version_of(text: object) -> int:
    """The version of an entity tag like `"6"`. Raises `Malformed`."""
    if not isinstance(text, str) or not (match := _ETAG.fullmatch(text.strip())):
        raise Malformed('If-Match takes one version in quotes, as ETag gives it: "6"')
    return int(match[1])


def must_be_absent(request: Request) -> bool:
    """Whether `If-None-Match: *` asks that there be no document. Raises `Malformed` for any other value."""
    if (header := request.headers.get("if-none-match")) is None:
        return False
    if header.strip() != "*":
        raise Malformed("If-None-Match takes only * on a write")
    return True


def has_already(connection: HTTPConnection, tag: str) -> bool:
    """Whether `If-None-Match` says that the client has the representation `tag`."""
    header = connection.headers.get("if-none-match", "")
    # Weak comparison (RFC 9110 section 13.1.2): a cache may have weakened the tag on the way.
    return header.strip() == "*" or tag in (part.strip().removeprefix("W/") for part in header.split(","))


def wants_minimal(request: Request) -> bool:
    """Whether `Prefer: return=minimal` was sent."""
    preferences = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(part.partition(";")[0].replace(" ", "") == "return=minimal" for part in preferences)


def authorship(request: Request, body: bytes) -> tuple[Author, Idempotency | None]:
    """Who writes, and under which idempotency key. The key is also the operation's id.

    The key's fingerprint covers method, path, condition and body. Raises `Malformed`.
    """
    principal = services(request).settings.principal
    if (key := request.headers.get("idempotency-key")) is None:
        return Author.new(principal), None
    if not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise Malformed(f"Idempotency-Key takes 1 to {MAX_KEY} printable ASCII characters")
    digest = hashlib.sha256()
    described = (request.method, request.url.path, *(request.headers.get(name, "") for name in _FINGERPRINTED))
    for part in (*(text.encode() for text in described), body):
        digest.update(b"%d:%b" % (len(part), part))
    return Author(by=principal, op_id=key), Idempotency(key, digest.hexdigest())


_FINGERPRINTED = ("content-type", "if-match", "if-none-match")


def number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    """An integer query parameter; larger than `high` is brought down to it. Raises `Malformed`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or int(text) < low:
        raise Malformed(f"{name} takes an integer of at least {low}, not {text[:32]!r}")
    return min(int(text), high)
