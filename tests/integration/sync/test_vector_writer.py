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
from eventsync.stores.clients.state_vectors import MAX_BYTES, NumberedPosition, VectorUpdate
from eventsync.stores.stores import Stores
from eventsync.sync.clients.vector_writer import VectorWriter
from support.failpoints import failing
from support.waiting import patience

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


async def test_the_scope_that_was_acknowledged_last_is_queued(stores: Stores) -> None:
    async with running(stores) as writer:
        for seq, scope in ((7, "ffffffff"), (7, "00000000"), (3, "ffffffff"), (2, "ffffffff")):
            position = NumberedPosition(1, Seq(seq), LogId(f"{LOG}.{scope}"))
            writer.note(VectorUpdate("a", "sse", {SHAPE: position}))
        queued = writer.unwritten("a")
    assert queued is not None
    assert queued.vector == {SHAPE: NumberedPosition(1, Seq(3), LogId(f"{LOG}.ffffffff"))}


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


def wide(client_id: str, number: int) -> VectorUpdate:
    """An update of a shape whose name takes 48 KiB as the name of a field."""
    shape = Shape.parse(f"things/{number}-" + "é" * 8000)
    return VectorUpdate(client_id, "sse", {shape: NumberedPosition(1, Seq(number), LOG)})


async def test_refused_update_fails_its_own_watcher_only_and_is_dropped(stores: Stores) -> None:
    # With this position it exceeds what a document may have.
    await stores.log["state_vectors"].insert_one({"_id": "full", "other": "x" * (16 * 1024 * 1024 - 50)})
    async with running(stores) as writer:
        full = asyncio.create_task(writer.store(update("full", 1)))
        await asyncio.gather(writer.store(update("a", 1)), writer.store(update("b", 1)))
        with pytest.raises(Unavailable, match="refuses"):
            await full
        assert writer.unwritten("full") is None
        await writer.store(update("a", 2))
    assert [await stored(stores, name) for name in "ab"] == [2, 1]


async def test_updates_of_one_client_are_merged_up_to_a_bound(stores: Stores) -> None:
    writer = VectorWriter(stores.vectors, interval=3600, max_waiting=10, timeout=patience(1))
    for number in range(30):
        writer.note(wide("a", number))
    merged = writer.unwritten("a")
    assert merged is not None
    assert MAX_BYTES - 50_000 < merged.size <= MAX_BYTES
    assert [item.seq for item in merged.vector.values()] == list(range(29, 29 - len(merged.vector), -1))


async def test_queue_is_bounded_in_bytes(client: Client, stores: Stores, settings: Settings) -> None:
    size = wide("a", 1).size
    async with (
        connect(settings, "vectors") as own,
        running(Stores.of(own, settings), max_waiting_bytes=2 * size) as writer,
    ):
        for _ in range(5):
            writer.note(wide("a", 1))
        writer.note(wide("b", 1))
        writer.note(wide("c", 1))
        writer.note(VectorUpdate("d", "sse"))
        assert [writer.unwritten(name) is not None for name in "abcd"] == [True, True, False, True]
        # Counted again if they are queued again, and no longer once they are stored.
        async with failing(client, "update", _UNAUTHORIZED, app=app_name(settings, "vectors")):
            with pytest.raises(Unavailable):
                await writer.store(VectorUpdate("d", "sse"))
            with pytest.raises(Unavailable, match="clients wait"):
                await writer.store(wide("c", 1))
        await writer.store(VectorUpdate("d", "sse"))
        writer.note(wide("c", 1))
        assert writer.unwritten("c") is not None


async def test_large_updates_are_written_in_several_bulks(settings: Settings, mongodb_uri: str) -> None:
    writes = Writes()
    async with AsyncMongoClient[Any](mongodb_uri, event_listeners=[writes]) as client:
        stores = Stores.of(client, settings)
        large = [wide(str(number // 20), number) for number in range(20 * 10)]
        async with running(stores) as writer:
            for item in large:
                writer.note(item)
        assert sum(writes.sizes) == 10 + len(writes.sizes)
        assert len(writes.sizes) == 2
        assert await stores.vectors.read("9") is not None
