"""The record of requests, over applications that do nothing but answer."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from eventsync.logging import CONTEXT, FIELDS
from eventsync.server.observing import TEMPLATE, Observed, RequestFigures

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
logger = logging.getLogger("eventsync.test")


async def answering(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer the status that the path names, on the route `/{status}`."""
    scope[TEMPLATE] = "/{status}"
    context = CONTEXT.get()
    assert context is not None
    logger.info("in %s", context.request)
    await send({"type": "http.response.start", "status": int(scope["path"][1:]), "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def failing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError("a bug")


async def leaving(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """The client has gone before it was answered."""


async def get(app: Any, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, headers=headers)


async def test_answers_are_counted_by_route_method_and_status() -> None:
    figures = RequestFigures()
    app = Observed(answering, figures)
    for path in ("/200", "/200", "/404"):
        await get(app, path)
    assert figures.answered == {("/{status}", "GET", "200"): 2, ("/{status}", "GET", "404"): 1}
    assert sum(figures.seconds["/{status}", "GET"].counts) == 3


async def test_failures_and_absences_are_counted_too() -> None:
    figures = RequestFigures()
    with pytest.raises(RuntimeError):
        await get(Observed(failing, figures), "/")
    with pytest.raises(AssertionError):  # httpx misses an answer
        await get(Observed(leaving, figures), "/")
    assert figures.answered == {("none", "GET", "500"): 1, ("none", "GET", "none"): 1}
    assert sum(figures.seconds["none", "GET"].counts) == 1


async def test_a_failure_has_the_id_that_the_log_has(caplog: pytest.LogCaptureFixture) -> None:
    app = Observed(answering, RequestFigures())
    with caplog.at_level(logging.INFO, "eventsync.test"):
        own = await get(app, "/503")
        given = await get(app, "/503", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        good = await get(app, "/200")
    assert given.headers["x-request-id"] == TRACE
    assert [line.getMessage() for line in caplog.records[:2]] == [f"in {own.headers['x-request-id']}", f"in {TRACE}"]
    assert "x-request-id" not in good.headers
    assert CONTEXT.get() is None


async def test_the_access_log_has_no_path(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "eventsync.requests"):
        await get(Observed(answering, RequestFigures(), log=True), "/200?ticket=secret")
        await get(Observed(answering, RequestFigures()), "/404")
    [line] = caplog.records
    assert line.getMessage().startswith("GET /{status} 200 in ")
    fields = getattr(line, FIELDS)
    assert fields.pop("seconds") >= 0
    assert fields == {"method": "GET", "route": "/{status}", "status": "200", "client": "127.0.0.1"}
