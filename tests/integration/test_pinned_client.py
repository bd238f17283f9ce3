"""A pinned client on a real MongoDB: its writes travel over pinned connections, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest

from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client, ConnectionReplaced, PinnedClient, connect_pinned
from eventsync.mongodb.errors import translated
from eventsync.settings import Settings
from support.failpoints import failing
from support.tcp_proxy import TcpProxy, tcp_proxy


@asynccontextmanager
async def pinned(settings: Settings) -> AsyncIterator[tuple[PinnedClient, TcpProxy]]:
    """A pinned client behind a proxy."""
    parts = urlsplit(settings.mongodb_uri or "")
    async with tcp_proxy(f"http://{parts.netloc}") as proxy:
        uri = f"mongodb://{urlsplit(proxy.url).netloc}/?directConnection=true"
        async with connect_pinned(settings.model_copy(update={"mongodb_uri": uri}), "worker") as client:
            await client.pin()
            yield client, proxy


async def insert(client: PinnedClient, settings: Settings, number: int) -> None:
    with translated("it can't be written"):
        await client[settings.log_db]["events"].insert_one({"_id": number})


async def written(client: Client, settings: Settings) -> list[int]:
    return [row["_id"] async for row in client[settings.log_db]["events"].find(sort=[("_id", 1)])]


async def test_a_write_does_not_travel_over_a_later_connection(client: Client, settings: Settings) -> None:
    async with pinned(settings) as (writer, proxy):
        await insert(writer, settings, 1)
        proxy.cut()
        for number in (2, 3):
            with pytest.raises(Unavailable):
                await insert(writer, settings, number)
        assert (await writer.admin.command("ping"))["ok"], "MongoDB can be reached"
        with pytest.raises(Unavailable) as refused:
            await insert(writer, settings, 4)
        assert isinstance(refused.value.__cause__, ConnectionReplaced)
        assert await written(client, settings) == [1]
        await writer.pin()
        await insert(writer, settings, 5)
        assert await written(client, settings) == [1, 5]


async def test_a_write_is_not_repeated_by_the_driver(client: Client, settings: Settings) -> None:
    async with (
        pinned(settings) as (writer, _),
        failing(client, "insert", 11600, app=f"eventsync-worker/{settings.database}"),
    ):
        with pytest.raises(Unavailable):
            await insert(writer, settings, 1)
    assert await written(client, settings) == []
