"""The one table from error to HTTP status, WebSocket close code and title; problem documents made from it.

Source: https://www.rfc-editor.org/rfc/rfc9457
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Final

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from eventsync import errors
from eventsync.domain.replay import Damaged
from eventsync.logging import Alarms

logger = logging.getLogger(__name__)
_alarms = Alarms(logger)


class Close(IntEnum):
    """WebSocket close codes.

    44xx but 4408: do not reconnect unchanged. Others: reconnect with jitter and the last vector.
    """

    RESTART = 1012
    TRY_LATER = 1013
    INTERNAL = 1011
    BAD_MESSAGE = 4400
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    NO_HELLO = 4408
    TOO_LARGE = 4413
    TOO_MANY = 4429
    SLOW = 4503


@dataclass(frozen=True, slots=True)
class Problem:
    """The answer to an error: HTTP status, close code, title."""

    status: HTTPStatus
    close: Close
    title: str


TABLE: Final[Mapping[type[errors.EventsyncError], Problem]] = {
    errors.Malformed: Problem(HTTPStatus.BAD_REQUEST, Close.BAD_MESSAGE, "The request cannot be understood"),
    errors.InvalidPredicate: Problem(HTTPStatus.BAD_REQUEST, Close.BAD_MESSAGE, "The filter is refused"),
    errors.IndexNeeded: Problem(HTTPStatus.BAD_REQUEST, Close.BAD_MESSAGE, "No index serves the request"),
    errors.Unauthenticated: Problem(HTTPStatus.UNAUTHORIZED, Close.UNAUTHENTICATED, "Not authenticated"),
    errors.Forbidden: Problem(HTTPStatus.FORBIDDEN, Close.FORBIDDEN, "Refused by policy"),
    errors.NotFound: Problem(HTTPStatus.NOT_FOUND, Close.BAD_MESSAGE, "No such document"),
    errors.NotTracked: Problem(HTTPStatus.NOT_FOUND, Close.BAD_MESSAGE, "No such tracked collection"),
    errors.UnknownShape: Problem(HTTPStatus.NOT_FOUND, Close.BAD_MESSAGE, "No such declared shape"),
    errors.Conflict: Problem(HTTPStatus.CONFLICT, Close.TRY_LATER, "The write lost against another"),
    errors.ResetRequired: Problem(HTTPStatus.CONFLICT, Close.TRY_LATER, "The position cannot be continued from"),
    errors.BehindRetention: Problem(HTTPStatus.GONE, Close.BAD_MESSAGE, "Not kept any more"),
    errors.Unreadable: Problem(HTTPStatus.GONE, Close.INTERNAL, "What is stored of it cannot be read"),
    errors.VersionMismatch: Problem(
        HTTPStatus.PRECONDITION_FAILED, Close.TRY_LATER, "The document has another version"
    ),
    errors.TooLarge: Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, Close.TOO_LARGE, "Over a limit"),
    errors.UnsupportedMediaType: Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, Close.BAD_MESSAGE, "The content type is not taken here"
    ),
    errors.PatchFailed: Problem(HTTPStatus.UNPROCESSABLE_ENTITY, Close.BAD_MESSAGE, "The patch does not apply"),
    errors.TooComplex: Problem(HTTPStatus.UNPROCESSABLE_ENTITY, Close.BAD_MESSAGE, "The request takes too much work"),
    errors.RateLimited: Problem(HTTPStatus.TOO_MANY_REQUESTS, Close.TOO_MANY, "Too much at a time"),
    errors.Unavailable: Problem(HTTPStatus.SERVICE_UNAVAILABLE, Close.TRY_LATER, "Not available right now"),
    errors.NotAttempted: Problem(HTTPStatus.SERVICE_UNAVAILABLE, Close.TRY_LATER, "Not attempted"),
    errors.Overloaded: Problem(HTTPStatus.SERVICE_UNAVAILABLE, Close.TRY_LATER, "Too many writes in progress"),
}
"""An error without a row is a bug: 500, 1011."""

_INTERNAL = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, Close.INTERNAL, "Internal error")
MEDIA_TYPE: Final = "application/problem+json"


def problem_of(error: errors.EventsyncError) -> Problem:
    """Return the row of the error's class, or of its nearest base class."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), _INTERNAL)


def close_of(error: errors.EventsyncError) -> Close:
    """Return the close code of the error."""
    if isinstance(error, errors.Unauthenticated) and error.reason == "subject_changed":
        return Close.FORBIDDEN  # the credential is good, but not for this connection
    return problem_of(error).close


def problem_document(status: HTTPStatus, code: str, detail: str, *, title: str | None = None) -> dict[str, Any]:
    """Return the members that all problem documents have. Without a `title`, it is the status's own phrase."""
    return {
        "type": "about:blank",
        "title": title or status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
    }


def respond(error: errors.EventsyncError) -> Response:
    """Return the response to an error: its problem document, the current entity tag, and when to retry."""
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    if (etag := getattr(error, "etag", None)) is not None:
        headers["ETag"] = etag
    if (seconds := retry_after(error)) is not None:
        headers["Retry-After"] = str(seconds)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = challenge(error)
    body = problem_of_error(error)
    return Response(orjson.dumps(body), body["status"], headers, MEDIA_TYPE)


def problem_of_error(error: errors.EventsyncError) -> dict[str, Any]:
    """Return the problem document of an error, with the error's own members."""
    problem, error = problem_of(error), errors.public_error(error)
    body = problem_document(problem.status, error.code, error.message, title=problem.title)
    if isinstance(error, errors.VersionMismatch):
        body["current"] = error.current
    elif isinstance(error, errors.Unauthenticated):
        body["reason"] = error.reason
    elif isinstance(error, errors.ResetRequired):
        known = {"oldest": error.oldest, "head": error.head}
        body |= {"reason": error.reason} | {name: text for name, text in known.items() if text is not None}
    elif isinstance(error, errors.BehindRetention):
        body["since"] = error.since
    elif isinstance(error, errors.Conflict) and error.existing is not None:
        body["existing"] = error.existing
    return body


def challenge(error: errors.Unauthenticated) -> str:
    """Return the value of `WWW-Authenticate` (RFC 6750 section 3): without an error code if there is no credential."""
    return (
        "Bearer"
        if error.reason == "token_missing"
        else f'Bearer error="invalid_token", error_description="{error.reason}"'
    )


def retry_after(error: errors.EventsyncError) -> int | None:
    """Return the seconds after which the same request, or one with a new credential, may succeed; None if never."""
    can_help = error.retryable or isinstance(error, errors.Unauthenticated)
    seconds: float | None = getattr(error, "retry_after", 1.0) if can_help else None
    if seconds is None or getattr(error, "lasting", False):
        return None
    # Whole seconds, as RFC 9110 section 10.2.3 has them.
    return max(1, round(seconds))


async def on_error(request: Request, error: Exception) -> Response:
    """Answer an error that ends a request. Starlette calls this for each of them."""
    if isinstance(error, Damaged):
        _alarms.log(f"what is stored is damaged: {error.diagnosis}")
        error = errors.Unreadable("an event that this takes is missing in the log, or cannot be read")
    if isinstance(error, errors.EventsyncError) and problem_of(error) is not _INTERNAL:
        return respond(error)
    if isinstance(error, HTTPException):
        return _http(request, error)
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return respond(errors.EventsyncError())


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 404 for a path without a route, to a WebSocket as well: Starlette's own answer there is a bare 403."""
    if scope["type"] == "http":
        raise HTTPException(HTTPStatus.NOT_FOUND)
    if "websocket.http.response" not in scope.get("extensions", {}):
        # This server has its own fixed answer to a refused handshake.
        await send({"type": "websocket.close"})
        return
    await _response(HTTPStatus.NOT_FOUND, "no WebSocket is served here; /v1/sync is the one path")(scope, receive, send)


def _http(request: Request, error: HTTPException) -> Response:
    """Return the problem document of an error of the framework: no such path, method not allowed."""
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names the methods of one route, and a path may have several routes (RFC 9110 section 15.5.6).
        headers["Allow"] = ", ".join(sorted(_methods(request)))
    return _response(HTTPStatus(error.status_code), error.detail, headers)


def _response(status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the problem document of a status without an error class."""
    body = problem_document(status, status.name.lower(), detail)
    return Response(orjson.dumps(body), status, headers, MEDIA_TYPE)


def _methods(request: Request) -> set[str]:
    """Return the methods of all routes of the request's path."""
    found: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return found
