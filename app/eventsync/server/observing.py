"""The record of requests: a count and a time for each route, method and status."""

from __future__ import annotations

import time
from collections import Counter
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventsync.metrics.instruments import Histogram

TEMPLATE: Final = "eventsync.template"
"""The key of the ASGI scope under which the template of the request's path stands, once a route is found."""

NO_ROUTE: Final = "none"
_UNANSWERED: Final = "none"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
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
        method = method if method in _METHODS else _OTHER
        self.answered[route, method, status] += 1
        if seconds is not None:
            key = route, method
            if (histogram := self.seconds.get(key)) is None:
                histogram = self.seconds[key] = Histogram()
            histogram.observe(seconds)


class Observed:
    """ASGI middleware that counts requests. The time of one ends as its answer begins: a stream may last for days."""

    def __init__(self, app: ASGIApp, figures: RequestFigures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, seconds = time.perf_counter(), _UNANSWERED, None

        async def sent(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = str(message["status"]), time.perf_counter() - began
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:
            # Starlette answers it, outside of all middlewares.
            status, seconds = "500", time.perf_counter() - began
            raise
        finally:
            self._figures.count(scope.get(TEMPLATE, NO_ROUTE), scope["method"], status, seconds)
