"""Parsing of conditions, preferences, idempotency keys and query parameters.

Sources: RFC 9110 section 13 (conditions), RFC 7240 (Prefer), draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from starlette.requests import HTTPConnection, Request

from eventsync.api.permissions import Permissions
from eventsync.api.state import services_of
from eventsync.domain.condition import Condition, Tags
from eventsync.errors import Malformed, VersionMismatch
from eventsync.nodestorage import Author, Idempotency

MAX_KEY = 128
"""Maximum length of an idempotency key in characters."""

_PAGE: Final = 100


def of_write(request: Request) -> Condition | None:
    """Return the condition of a write; None without one. Raises `Malformed`."""
    match, none_match = _tags(request, "If-Match"), _tags(request, "If-None-Match")
    return None if match is None and none_match is None else Condition(match, none_match)


def unchanged(request: HTTPConnection, tag: str | None, version: int | None = None) -> bool:
    """Return True if `If-None-Match` matches the current state, whose entity tag is `tag`, or None.

    `If-Match` may name a document's `version` alone. `If-None-Match` may not, because a client would keep an outdated
    state. Raises `VersionMismatch` if `If-Match` does not match, and `Malformed`.

    `If-Modified-Since`, `If-Unmodified-Since`, `If-Range` and `Range` are ignored, as RFC 9110 requires of servers
    without modification dates and ranges.
    """
    tags = set() if tag is None else {tag.strip('"')}
    match, none_match = _tags(request, "If-Match"), _tags(request, "If-None-Match")
    names = tags if version is None else tags | {str(version)}
    if match is not None and not match.any_state and not match.opaque & names:
        raise VersionMismatch(f"If-Match names another state than {tag or 'this'}", current=version, etag=tag)
    return none_match is not None and (none_match.any_state or not none_match.opaque.isdisjoint(tags))


def _tags(request: HTTPConnection, name: str) -> Tags | None:
    lines = request.headers.getlist(name)
    return Tags.parse(lines, name) if lines else None


def wants_minimal(request: Request) -> bool:
    """Return True if the client prefers `return=minimal`."""
    return _prefers(request, "return=minimal")


def wants_representation(request: Request) -> bool:
    """Return True if the client prefers `return=representation`."""
    return _prefers(request, "return=representation")


def _prefers(request: Request, wanted: str) -> bool:
    preferences = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(part.partition(";")[0].replace(" ", "") == wanted for part in preferences)


def authorship(
    request: Request, permissions: Permissions, body: bytes, *collections: str
) -> tuple[Author, Idempotency | None]:
    """Return the author and the idempotency key of a write to these collections. The key is also the operation's id.

    The key's fingerprint covers method, path, condition and body. Raises `Malformed`.
    """
    if (key := request.headers.get("idempotency-key")) is None:
        return permissions.author(collections), None
    described = (
        request.method,
        # The same write, wherever the application is mounted.
        request.url.path.removeprefix(request.scope.get("root_path", "")),
        *(",".join(request.headers.getlist(name)) for name in _FINGERPRINTED),
    )
    idempotency = keyed("Idempotency-Key", key, permissions, *(text.encode() for text in described), body)
    return permissions.author(collections, key), idempotency


def keyed(name: str, key: Any, permissions: Permissions, *described: bytes) -> Idempotency:
    """Return the idempotency `key` of a write that `described` describes. `name` is where it stands.

    It belongs to the principal: nobody else can find what it wrote. Raises `Malformed`.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY or not key.isascii() or not key.isprintable():
        raise Malformed(f"{name} takes 1 to {MAX_KEY} printable ASCII characters")
    digest = hashlib.sha256()
    for part in described:
        digest.update(b"%d:%b" % (len(part), part))
    return Idempotency(key, digest.hexdigest(), permissions.scope)


_FINGERPRINTED = ("content-type", "if-match", "if-none-match")


def page_size(request: Request) -> int:
    """Return the most entries of a page, the query parameter `limit`. Raises `Malformed`."""
    return number(request, "limit", default=_PAGE, low=1, high=services_of(request).settings.page_documents)


def number(request: Request, name: str, *, default: int, low: int, high: int) -> int:
    """Return an integer query parameter, clamped to `high`. Raises `Malformed`, also below `low`."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or int(text) < low:
        raise Malformed(f"{name} takes an integer of at least {low}, not {text[:32]!r}")
    return min(int(text), high)
