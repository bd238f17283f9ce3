"""A connection that was opened too early believes for ever that there are no sessions: it must not be kept."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import ConfigurationError

from eventsync.dev import mongod
from eventsync.mongodb.change_stream import watch
from eventsync.mongodb.errors import knows_no_sessions
from eventsync.nodestorage import Author, Idempotency, NodeStorage, WritePolicy
from eventsync.server.supervision.orphans import die_with_parent
from support.waiting import patience


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Port of a node that is no replica set yet."""
    found = mongod.free_port()
    process = subprocess.Popen(
        mongod.command(mongod.find_mongod(), tmp_path, found),
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
    )
    yield found
    process.terminate()
    process.wait(patience(20))


@pytest.fixture
async def early(port: int) -> AsyncIterator[AsyncMongoClient[dict[str, Any]]]:
    """A client with a connection from before the first election."""
    opened: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient("127.0.0.1", port, directConnection=True)
    async with opened:
        await opened["admin"].command("ping")
        await asyncio.to_thread(mongod.initiate, port)
        yield opened


async def test_a_change_stream_opens_and_replaces_the_connections(early: AsyncMongoClient[dict[str, Any]]) -> None:
    async def find() -> None:
        async with early.start_session() as session:
            await early["db"]["docs"].find_one({}, session=session)

    with pytest.raises(ConfigurationError) as failure:
        await find()
    assert knows_no_sessions(failure.value), "the connection is from before"
    async with watch(early["db"], []) as stream:
        assert stream.token
        await find()


async def test_a_transaction_is_made(early: AsyncMongoClient[dict[str, Any]]) -> None:
    storage = NodeStorage(early["db"], early["db_eventsync"]["operations"], WritePolicy())
    key = Idempotency("k", "f")
    result = await storage.create("docs", {"_id": 1}, author=Author.new("me"), idempotency=key)
    assert (result.version, await early["db"]["docs"].count_documents({})) == (1, 1)
