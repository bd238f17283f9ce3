"""Deadlines of requests, without a server."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from eventsync.server.deadline import Deadlines

GET: Scope = {"type": "http", "method": "GET", "path": "/", "headers": []}


async def statuses(app: Deadlines) -> list[int]:
    """Return the statuses of the answers to one request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    await app(GET, receive, send)
    return [message["status"] for message in sent if message["type"] == "http.response.start"]


async def test_application_that_is_cancelled_by_the_deadline_is_answered_for() -> None:
    async def waits(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await asyncio.Event().wait()

    assert await statuses(Deadlines(waits, 0.0)) == [503]


async def test_application_that_makes_an_error_of_its_cancellation_is_answered_for() -> None:
    async def catches(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await Response(status_code=500)(scope, receive, send)

    assert await statuses(Deadlines(catches, 0.0)) == [503]


async def test_answer_before_the_deadline_is_the_only_one() -> None:
    app = Deadlines(Response(status_code=204), 60.0)
    assert await statuses(app) == [204]
