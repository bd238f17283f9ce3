"""Acknowledgements are stored in bulk and soon, also at shutdown and after a failed write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener, CommandStartedEvent

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.settings import Settings
from eventsync.stores.clients.state_vectors import NumberedPosition, VectorUpdate
from eventsync.stores.stores import Stores
from eventsync.sync.clients.vector_writer import VectorWriter
from support.failpoints import failing

LOG = LogId("k3f9ab2c")
SHAPE = Shape("orders")
_UNAUTHORIZED = 13


def update(client_id: str, seq: int, transport: str | None = "sse") -> VectorUpdate:
    return VectorUpdate(client_id, transport, {SHAPE: NumberedPosition(1, Seq(seq), LOG)})


async def stored(stores: Stores, client_id: str) -> int | None:
    found = await stores.vectors.read(client_id)
    return found.vector[SHAPE].seq if found else None


@asynccontextmanager
async def running(stores: Stores, **given: Any) -> AsyncIterator[VectorWriter]:
    """A writer while the block runs; ended in order."""
    writer = VectorWriter(stores.vectors, **{"interval": 3600.0, "max_waiting": 1000, "timeout": 5.0} | given)
    async with asyncio.TaskGroup() as group:
        group.create_task(writer.run())
        try:
            yield writer
        finally:
            writer.close()


class Writes(CommandListener):
    """Counts the statements of each bulk write into `state_vectors`."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command.get("update") == "state_vectors":
            self.sizes.append(len(event.command["updates"]))

    def succeeded(self, event: Any) -> None:
        """Not of interest."""

    def failed(self, event: Any) -> None:
        """Not of interest."""


async def test_writer_merges_updates_into_one_write(settings: Settings, mongodb_uri: str) -> None:
    writes = Writes()
    async with AsyncMongoClient[Any](mongodb_uri, event_listeners=[writes]) as client:
        stores = Stores.of(client, settings)
        async with running(stores) as writer:
            for seq in range(1, 200):
                writer.note(update("a", seq))
                writer.note(update("b", 300 - seq))
            assert writes.sizes == []
        assert (await stored(stores, "a"), await stored(stores, "b")) == (199, 299)
    assert writes.sizes == [3], "one for each client, and what keeps them short"


async def test_close_stores_queued_updates(stores: Stores) -> None:
    async with running(stores) as writer:
        writer.note(update("a", 5))
        assert await stored(stores, "a") is None
        assert writer.unwritten("a") == update("a", 5)
    assert await stored(stores, "a") == 5
    assert writer.unwritten("a") is None


async def test_store_writes_at_once(stores: Stores) -> None:
    async with running(stores) as writer:
        writer.note(update("a", 5))
        await writer.store(update("b", 6, None))
        assert (await stored(stores, "a"), await stored(stores, "b")) == (5, 6)


async def test_writer_retries_after_a_failure(client: Client, stores: Stores, settings: Settings) -> None:
    async with connect(settings, "vectors") as own, running(Stores.of(own, settings)) as writer:
        async with failing(client, "update", _UNAUTHORIZED, app=app_name(settings, "vectors")):
            with pytest.raises(Unavailable):
                await writer.store(update("a", 5))
            writer.note(update("a", 4, None))
            assert writer.unwritten("a") == update("a", 5)
        await writer.store(update("b", 1))
        assert await stored(stores, "a") == 5


async def test_writer_refuses_updates_beyond_the_bound_and_loses_none(stores: Stores) -> None:
    async with running(stores, max_waiting=2) as writer:
        writer.note(update("a", 1))
        writer.note(update("b", 1))
        writer.note(update("c", 1))
        with pytest.raises(Unavailable):
            await writer.store(update("c", 1))
        writer.note(update("a", 2))
    assert [await stored(stores, name) for name in "abc"] == [2, 1, None]


async def test_store_times_out(stores: Stores) -> None:
    writer = VectorWriter(stores.vectors, interval=3600, max_waiting=10, timeout=0.01)
    with pytest.raises(Unavailable, match="not stored after"):
        await writer.store(update("a", 1))
    writer.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await writer.store(update("a", 2))
    await writer.run()
    assert await stored(stores, "a") == 1
