"""A shape that can't be read for now, on a connection that follows others too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.sync.live.window import Frame
from eventsync.sync.sessions.session import Identity
from support.logs_by_hand import seen_shape
from support.readers import LOG, A, Server, of, sees
from support.sessions import Client, connected

USERS = Shape("users")


class Unreadable(Server):
    """A server that can't read the events of `users`."""

    async def frame(self, shape: Shape, cursor: Seq) -> Frame:
        if shape.collection == "users":
            raise Unavailable("the read is refused", retry_after=10.0)
        return await super().frame(shape, cursor)


def subscribe(client: Client) -> None:
    client.session.subscribe(USERS, Position(scoped(LOG, seen_shape("users", {A}).scope), Seq(5)))


@asynccontextmanager
async def unreadable(*, transport: str = "websocket", is_following: bool = True) -> AsyncIterator[Client]:
    """A client of `orders`, live, that has just subscribed to `users`, too."""
    server = Unreadable()
    async with connected(sees(A), server=server) as (client, _, _):
        client.session.client = Identity("c", transport)
        assert await client.settle() == ["live"]
        server.continuity.is_following = is_following
        subscribe(client)
        yield client


async def test_unreadable_shape_ends_alone_and_may_be_asked_for_again() -> None:
    async with unreadable() as client:
        for seq in (11, 12):
            assert await client.settle() == ["error"]
            error = client.news[0]
            assert (error["code"], error["shape"], error["retry_after"]) == ("unavailable", "users", 10.0)
            client.server.window.extend([of(A, seq)])
            assert await client.settle() == ["events"]
            subscribe(client)
        assert client.ended is None


@pytest.mark.parametrize(("transport", "is_following"), [("sse", True), ("websocket", False)])
async def test_unreadable_shape_ends_the_session_that_has_to_come_back(transport: str, is_following: bool) -> None:
    async with unreadable(transport=transport, is_following=is_following) as client:
        assert await client.settle() == []
        assert isinstance(client.ended, Unavailable)
