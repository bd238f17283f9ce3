"""The record of requests: a count and a time for each route, method and status, the access log, and their spans."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventsync.logging import ACCESS_LOG, CONTEXT, FIELDS, LogContext, trace_of
from eventsync.metrics.instruments import Histogram
from eventsync.tracing.process import current

access_log = logging.getLogger(ACCESS_LOG)

REQUEST_ID: Final = b"x-request-id"
"""The header of answers to failures (5xx) with the id that the server's log has of the request."""

TEMPLATE: Final = "eventsync.template"
"""The key of the ASGI scope under which the template of the request's path stands, once a route is found."""

NO_ROUTE: Final = "none"
_UNANSWERED: Final = "none"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods without a span: a read is no part of a write's trace, and a stream may last for days."""

_OTHER: Final = "other"
"""The label of all other methods: a client may send any word."""


class RequestFigures:
    """The requests that a server process has answered."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str, str]] = Counter()
        """By route, method and status."""
        self.seconds: dict[tuple[str, str], Histogram] = {}
        """The time until the answer began, by route and method."""

    def count(self, route: str, method: str, status: str, seconds: float | None) -> None:
        """Count an answer that began after so many seconds; None if there was none."""
        method = _known(method)
        self.answered[route, method, status] += 1
        if seconds is not None:
            key = route, method
            if (histogram := self.seconds.get(key)) is None:
                histogram = self.seconds[key] = Histogram()
            histogram.observe(seconds)


class Observed:
    """ASGI middleware that counts requests, gives each an id for the log, and writes the access log if that is wanted.

    In a process that traces, each request that may write gets a span, and the log names it by the id of its trace. The
    time that is counted ends as the answer begins: a stream may last for days.
    """

    def __init__(self, app: ASGIApp, figures: RequestFigures, *, log: bool = False) -> None:
        self._app = app
        self._figures = figures
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, seconds = time.perf_counter(), _UNANSWERED, None
        tracing = None if scope["method"] in _READS else current()
        span = None if tracing is None else tracing.request(scope, _known(scope["method"]))
        context = _context(scope) if span is None or span.trace_id is None else LogContext(span.trace_id)
        token = CONTEXT.set(context)

        async def sent(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = str(message["status"]), time.perf_counter() - began
                if message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    # With it an operator finds the lines of a failure that a client reports.
                    message["headers"] = [*message["headers"], (REQUEST_ID, context.request.encode())]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            # Starlette answers it, outside of all middlewares.
            status, seconds = "500", time.perf_counter() - began
            raise
        finally:
            route = scope.get(TEMPLATE, NO_ROUTE)
            self._figures.count(route, scope["method"], status, seconds)
            if self._log:
                _log_access(scope, scope["method"], route, status, time.perf_counter() - began)
            CONTEXT.reset(token)
            if span is not None:
                span.answered(route, _known(scope["method"]), status)


@contextmanager
def websocket_observed(scope: Scope, path: str, *, log: bool) -> Iterator[None]:
    """Give a WebSocket an id for the log while the block runs, and log its end if that is wanted."""
    began = time.perf_counter()
    token = CONTEXT.set(_context(scope))
    try:
        yield
    finally:
        if log:
            _log_access(scope, "WEBSOCKET", path, "closed", time.perf_counter() - began)
        CONTEXT.reset(token)


def _context(scope: Scope) -> LogContext:
    found = next((value for name, value in scope["headers"] if name == b"traceparent"), None)
    return LogContext(None if found is None else trace_of(found))


def _known(method: str) -> str:
    return method if method in _METHODS else _OTHER


def _log_access(scope: Scope, method: str, route: str, status: str, seconds: float) -> None:
    # No path and no query: ids, filters and tickets are not for everybody who reads a log.
    client = scope["client"][0] if scope.get("client") else ""
    method = method if method in _METHODS or method == "WEBSOCKET" else _OTHER
    fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 6), "client": client}
    access_log.info(
        "%s %s %s in %.1f ms, for %s", method, route, status, 1000 * seconds, client, extra={FIELDS: fields}
    )
