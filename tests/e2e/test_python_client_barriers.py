"""Barriers of the Python client: what any server has acknowledged is in its shapes, without a heartbeat."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from eventsync.dev.mongod import free_port
from eventsync.settings import Settings
from eventsync_client import AsyncClient, BarrierTimeout, Client, Sqlite, SyncFailed
from eventsync_client.positions import Position
from eventsync_client.replica import Update
from support.systems import running_server, running_system
from support.waiting import patience, within


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """No heartbeat comes while a test runs."""
    return settings.model_copy(update={"heartbeat": 3600.0})


async def test_barrier_has_what_another_server_has_acknowledged(settings: Settings) -> None:
    """Nothing happens in two of the shapes."""
    async with (
        running_system(settings) as url,
        running_server(settings) as other,
        AsyncClient(url, transport="websocket") as client,
        AsyncClient(other) as writing,
        within(60),
    ):
        shapes = [client.shape(text) for text in ("accounts", "theaters", "accounts/nobody")]
        for shape in shapes:
            await shape.live()
        for number in range(5):
            written = await writing.collection("accounts").insert({"n": number})
            await client.barrier(timeout=patience(20))
            assert shapes[0].documents[written.id]["n"] == number
        # One that is followed only now, several at a time, and the client without a loop.
        client.shape("customers")
        await asyncio.gather(*(client.barrier(timeout=patience(20)) for _ in range(5)))
        assert client.shape("customers").position is not None
        assert await asyncio.to_thread(held_without_a_loop, url) == shapes[0].documents.keys()


def held_without_a_loop(url: str) -> set[str]:
    """Return the ids that a barrier finds."""
    with Client(url) as client:
        accounts = client.shape("accounts")
        client.barrier(timeout=patience(20))
        return {*accounts.documents}


async def test_barrier_without_a_worker_fails_in_time(settings: Settings) -> None:
    async with running_server(settings) as url, AsyncClient(url) as client, within(30):
        with pytest.raises(BarrierTimeout, match="names no barrier"):
            await client.barrier(timeout=0.2)
        client.shape("accounts")
        with pytest.raises(TimeoutError):
            await client.barrier(timeout=0.2)


async def test_barrier_of_another_log_is_asked_for_again_and_a_failure_ends_it(tmp_path: Path) -> None:
    with closing(Sqlite(tmp_path / "docs.db")) as kept:
        kept.open()
        kept.apply(Update("docs", "old:5", clear=True))
    store = Sqlite(tmp_path / "docs.db")
    async with AsyncClient(f"http://127.0.0.1:{free_port()}", store=store) as client, within(30):
        shape = client.shape("docs")
        while shape.position is None:
            await client.moved()
        assert not await client._have_reached([shape], Position("new", 3))
        assert await client._have_reached([shape], Position("old", 5))
        client.core.fail("no more")
        with pytest.raises(SyncFailed, match="no more"):
            await client._have_reached([shape], Position("old", 6))
