"""A connection that is held for many commands answers and fails as the driver does."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import NetworkTimeout, NotPrimaryError, OperationFailure

from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.mongodb import change_stream
from eventsync.mongodb.change_stream import StreamInterrupted, watch
from eventsync.mongodb.client import Client, time_limit
from eventsync.mongodb.connections import PinnedConnection, pinned
from eventsync.stores.stores import Stores
from support.failpoints import failing
from support.waiting import scaled, within

SLEEP = {"sleep": 1, "millis": 5000, "lock": "none"}
"""A command of MongoDB's for tests."""


async def test_it_answers_as_the_driver_does(client: Client) -> None:
    expected = await client.admin.command("buildInfo")
    async with pinned(client, nullcontext()) as connection:
        for codec in (client.codec_options, RAW_CODEC):
            answer = await connection.command("admin", {"buildInfo": 1}, codec)
            assert answer["versionArray"] == expected["versionArray"]


async def test_a_refused_command_raises_the_drivers_error_and_keeps_the_connection(client: Client) -> None:
    async with pinned(client, nullcontext()) as connection:
        with pytest.raises(OperationFailure) as refused:
            await connection.command("admin", {"noSuchCommand": 1})
        assert refused.value.code == 59
        assert (await connection.command("admin", {"ping": 1}))["ok"] == 1


async def test_a_member_that_is_not_primary_raises_the_drivers_error(mongodb_uri: str, client: Client) -> None:
    async with (
        AsyncMongoClient[dict[str, Any]](mongodb_uri, appname="pinned") as user,
        failing(client, "count", 10107, app="pinned"),
        pinned(user, nullcontext()) as connection,
    ):
        with pytest.raises(NotPrimaryError):
            await connection.command("nobody", {"count": "docs"})


async def test_an_overdue_answer_ends_the_connection_and_the_client_works_on(mongodb_uri: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](mongodb_uri, socketTimeoutMS=500) as impatient:
        async with within(20), pinned(impatient, nullcontext()) as connection:
            with pytest.raises(NetworkTimeout):
                await connection.command("admin", SLEEP)
        assert (await impatient.admin.command("ping"))["ok"] == 1


async def test_the_time_limit_of_the_connections_last_user_does_not_bound_it(mongodb_uri: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](mongodb_uri, maxPoolSize=1) as user:
        with time_limit(0.3):
            await user.admin.command("ping")
        async with within(20), pinned(user, nullcontext()) as connection:
            answer = await connection.command("admin", SLEEP | {"millis": 600})
            assert answer["ok"] == 1


async def test_an_idle_read_ends_before_its_answer_is_overdue(mongodb_uri: str) -> None:
    """With any `mongodb_timeout` and `stream_wait`: a stream that breaks at each idle read follows nothing."""
    overdue = round(1000 * scaled(0.5))
    async with (
        AsyncMongoClient[dict[str, Any]](mongodb_uri, socketTimeoutMS=overdue) as impatient,
        within(20),
        watch(impatient["nobody"], []) as stream,
    ):
        assert not (await stream.read(wait=10 * overdue / 1000, limit=1)).changes


async def test_a_cancelled_command_ends_the_connection_and_the_client_works_on(mongodb_uri: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](mongodb_uri, maxPoolSize=1) as user, within(20):
        async with pinned(user, nullcontext()) as connection:
            asleep = asyncio.create_task(connection.command("admin", SLEEP))
            await asyncio.sleep(0.1)
            asleep.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asleep
        # The only connection of the pool: it must not be the one on which the answer may still come.
        assert (await user.admin.command("buildInfo"))["versionArray"]


async def test_a_stream_ends_once_its_member_is_no_longer_primary(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(change_stream, "_CHECK_INTERVAL", 0.0)
    async with watch(stores.data, []) as stream:
        await stream.read(wait=0.02, limit=10)
        monkeypatch.setattr(PinnedConnection, "is_to_primary", property(lambda _: False))
        with pytest.raises(StreamInterrupted):
            await stream.read(wait=0.02, limit=10)
