"""Connections that make no tasks answer, fail and end as the driver's own do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, NetworkTimeout, PyMongoError

from eventsync.mongodb.client import Client, connect, time_limit
from eventsync.mongodb.connections import TasklessConnection
from eventsync.settings import Settings
from support.waiting import eventually, within

SLEEP = {"sleep": 1, "millis": 600_000, "lock": "none"}
"""A command of MongoDB's for tests. It outlasts `connected`, so a test that waited for its answer would fail."""


@asynccontextmanager
async def connected(settings: Settings, **changed: Any) -> AsyncIterator[Client]:
    """A client whose pool has one connection, which has been used."""
    one = settings.model_copy(update={"mongodb_pool_size": 1, **changed})
    async with within(30), connect(one, "test") as client:
        await client.admin.command("ping")
        yield client


def pools(client: Client) -> list[Any]:
    return [server.pool for server in client._topology._servers.values()]


async def test_a_command_makes_no_task(settings: Settings) -> None:
    made: list[str] = []
    asks = asyncio.current_task()

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        if asyncio.current_task() is asks:  # the driver's monitors make theirs
            made.append(getattr(work, "__qualname__", ""))
        return asyncio.Task(work, loop=loop, **options)

    async with connected(settings) as client:
        [pool] = pools(client)
        assert [type(connection) for connection in pool.conns] == [TasklessConnection]
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            await client[settings.database].docs.insert_one({"_id": 1})
            assert await client[settings.database].docs.find_one({"_id": 1}) == {"_id": 1}
        finally:
            loop.set_task_factory(None)
    assert not [name for name in made if "read" in name.lower() or "poll_cancellation" in name or "write" in name]


async def test_an_overdue_answer_raises_the_drivers_error_and_the_client_works_on(settings: Settings) -> None:
    async with connected(settings, mongodb_timeout=0.5) as client:
        with pytest.raises(NetworkTimeout):
            await client.admin.command(SLEEP)
        assert (await client.admin.command("buildInfo"))["versionArray"]


async def test_a_time_limit_ends_a_command(settings: Settings) -> None:
    async with connected(settings) as client:
        with pytest.raises(PyMongoError) as failed, time_limit(0.3):
            await client.admin.command(SLEEP)
        assert failed.value.timeout
        assert (await client.admin.command("buildInfo"))["versionArray"]


async def test_a_cancelled_command_leaves_no_answer_to_the_next_one(settings: Settings) -> None:
    async with connected(settings) as client:
        asleep = asyncio.create_task(client.admin.command(SLEEP))
        await asyncio.sleep(0.1)
        asleep.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asleep
        assert (await client.admin.command("buildInfo"))["versionArray"]


async def test_a_command_ends_when_its_pool_gives_up_the_connection(settings: Settings) -> None:
    async with connected(settings) as client:
        asleep = asyncio.create_task(client.admin.command(SLEEP))
        await asyncio.sleep(0.1)
        for pool in pools(client):
            await pool.reset(interrupt_connections=True)
            await pool.ready()
        with pytest.raises(AutoReconnect):
            await asleep
        assert (await client.admin.command("buildInfo"))["versionArray"]


async def test_no_socket_stays_open_where_connecting_is_cancelled(settings: Settings) -> None:
    """At each step of it. A socket that is left open is a warning, and so fails the test."""
    async with connected(settings) as client:
        [pool] = pools(client)
        before = set(pool.active_contexts)
        for turns in range(60):
            connecting = asyncio.create_task(pool.connect())
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                connection = await connecting
                await connection.close_conn(None)
                pool.active_contexts.discard(connection.cancel_context)
            await eventually(lambda: pool.active_contexts == before, pause=0)
