"""MongoDB failing in the middle of a write: which writes are tried again, and which error the caller gets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from pymongo.read_concern import ReadConcern

from eventsync.domain.ids import IdText
from eventsync.domain.stamp import Stamp
from eventsync.domain.values.extended_json import Document
from eventsync.errors import Conflict, TooLarge, Unavailable
from eventsync.mongodb.client import app_name, connect
from eventsync.nodestorage import Author, Create, Idempotency, NodeStorage, WritePolicy, WriteResult
from eventsync.nodestorage.documents import Documents
from eventsync.settings import Settings
from support.failpoints import faults
from support.waiting import eventually, patience, time_limits, within

Break = Callable[..., Awaitable[None]]

TRANSIENT = ["TransientTransactionError"]
UNKNOWN = ["UnknownTransactionCommitResult"]
NOT_REPLICATED = {"code": 64, "errmsg": "waiting for replication timed out"}
INTERRUPTED = {"code": 11601, "errmsg": "operation was interrupted"}


@pytest.fixture
async def storage(mongodb_uri: str, database_name: str) -> AsyncIterator[NodeStorage]:
    async with failing(mongodb_uri, database_name, deadline=patience(10), **time_limits()) as opened:
        yield opened


@pytest.fixture
async def hasty(mongodb_uri: str, database_name: str) -> AsyncIterator[NodeStorage]:
    """The same storage for what fails until its deadline."""
    async with failing(mongodb_uri, database_name, deadline=0.5, mongodb_timeout=2.0) as opened:
        yield opened


@asynccontextmanager
async def failing(uri: str, database: str, deadline: float, **limits: Any) -> AsyncIterator[NodeStorage]:
    """Yield a storage on a client of its own, whose name the failures are limited to."""
    async with connect(Settings(mongodb_uri=uri, **limits), "failing") as client:
        yield NodeStorage(client[database], client[database].operations, WritePolicy(deadline=deadline))


@pytest.fixture
async def breaking(client: Any) -> AsyncIterator[Break]:
    """Make MongoDB fail commands `times` times (None: always)."""

    async def configure(*commands: str, times: int | None = None, **how: Any) -> None:
        await stack.enter_async_context(
            faults(client, commands, app=app_name(Settings(), "failing"), times=times, **how)
        )

    async with AsyncExitStack() as stack:
        yield configure
    # A transaction whose commit never got through stays open for a minute, and keeps its locks.
    await client.admin.command({"killAllSessions": []})


def increment(document: Document) -> Document:
    return {**document, "n": document["n"] + 1}


async def test_a_lost_connection_is_made_up_for_once(storage: NodeStorage, breaking: Break, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    await breaking("update", times=1, closeConnection=True)
    result = await storage.find_one_and_update("orders", 1, increment, author=author)
    assert (result.version, result.document) == (2, {"_id": 1, "n": 2})


async def test_an_unknown_outcome_is_called_that(
    storage: NodeStorage, hasty: NodeStorage, breaking: Break, author: Author
) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    await breaking("update", closeConnection=True)
    with pytest.raises(Unavailable, match=r"orders/int:1 can't be written: the outcome is unknown"):
        await hasty.find_one_and_update("orders", 1, increment, author=author)


async def test_a_write_whose_replication_is_not_confirmed_is_looked_for(
    storage: NodeStorage, breaking: Break, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MongoDB has made it all the same. A read with majority concern finds it, once it is replicated."""
    versions, read = [1], Documents.stamps

    async def replicated(self: Documents, ids: Sequence[Any]) -> dict[IdText, Stamp]:
        found = await read(self, ids)
        while [stamp.version for stamp in found.values()] != versions:
            found = await read(self, ids)
        return found

    monkeypatch.setattr(Documents, "stamps", replicated)
    await breaking("insert", writeConcernError=NOT_REPLICATED)
    assert (await storage.create("orders", {"_id": 1, "n": 1}, author=author)).created
    versions[:] = [4]
    await breaking("update", writeConcernError=NOT_REPLICATED)
    results = await asyncio.gather(
        *(storage.find_one_and_update("orders", 1, increment, author=Author("x", str(n))) for n in range(3))
    )
    assert [(result.version, result.document["n"]) for result in results] == [(2, 2), (3, 3), (4, 4)]


async def test_a_write_is_unknown_if_the_look_for_it_fails_too(
    storage: NodeStorage, hasty: NodeStorage, breaking: Break, author: Author
) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    await breaking("update", "find", closeConnection=True)
    with pytest.raises(Unavailable, match="the outcome is unknown"):
        await hasty.find_one_and_update("orders", 1, increment, author=author)


async def test_writes_before_a_killed_one_of_their_group_are_found(
    storage: NodeStorage, client: Any, database_name: str, author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MongoDB gives up the whole command. What its statements before have made stays."""
    read = Documents.stamps

    async def replicated(self: Documents, ids: Sequence[Any]) -> dict[IdText, Stamp]:
        found = await read(self, ids)
        while found[IdText("a")].version != 2:
            found = await read(self, ids)
        return found

    async def killed() -> bool:
        """Kill the command once it waits for the second document."""
        if await orders.find_one({"_id": "a", "n": 2}) is None:
            return False
        mine = {"ns": orders.full_name, "appName": app_name(Settings(), "failing")}
        for row in (await client.admin.command({"currentOp": 1, **mine}))["inprog"]:
            await client.admin.command({"killOp": 1, "op": row["opid"]})
        return True

    monkeypatch.setattr(Documents, "stamps", replicated)
    orders = client[database_name].orders.with_options(read_concern=ReadConcern("local"))
    for name in "ab":
        await storage.create("orders", {"_id": name, "n": 1}, author=author)
    async with client.start_session() as session, await session.start_transaction():
        await orders.update_one({"_id": "b"}, {"$set": {"n": 9}}, session=session)
        writes = asyncio.gather(
            *(storage.find_one_and_update("orders", name, increment, author=author) for name in "ab"),
            return_exceptions=True,
        )
        await eventually(killed)
        async with within(10):
            first, second = await writes
        await session.abort_transaction()
    assert isinstance(first, WriteResult), first
    assert (first.version, first.document) == (2, {"_id": "a", "n": 2})
    assert isinstance(second, Unavailable)
    assert "the outcome is unknown" in second.message


async def test_a_failing_read_is_unavailable(hasty: NodeStorage, breaking: Break, author: Author) -> None:
    await breaking("find", closeConnection=True)
    with pytest.raises(Unavailable):
        await hasty.get("orders", 1)
    with pytest.raises(Unavailable):
        await hasty.find("orders", after=None, limit=1)


async def test_a_transaction_is_tried_again(storage: NodeStorage, breaking: Break, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    await breaking("insert", times=2, errorCode=112, errorLabels=TRANSIENT)
    key = Idempotency("key", "fingerprint")
    result = await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=key)
    assert (result.version, result.replayed) == (2, False)


async def test_a_commit_is_tried_again(storage: NodeStorage, breaking: Break, author: Author) -> None:
    await breaking("commitTransaction", times=3, errorCode=50, errorLabels=UNKNOWN)
    await storage.transact([Create("orders", {"_id": 1})], author=author)
    await breaking("commitTransaction", times=3, writeConcernError=NOT_REPLICATED)
    await storage.transact([Create("orders", {"_id": 2})], author=author)
    assert len(await storage.find("orders", after=None, limit=5)) == 2


async def test_deletes_whose_commit_is_in_doubt_are_not_made_again(
    storage: NodeStorage, hasty: NodeStorage, breaking: Break, author: Author
) -> None:
    """The driver does not label the interruption of what follows a commit. Made again, they would find nothing."""
    for number in range(4):
        await storage.create("orders", {"_id": number}, author=author)
    await breaking("commitTransaction", times=1, writeConcernError=INTERRUPTED)
    results = await asyncio.gather(*(storage.delete("orders", number, author=author) for number in range(2)))
    assert [result.version for result in results] == [2, 2]
    await breaking("commitTransaction", writeConcernError=INTERRUPTED)
    deletes = (hasty.delete("orders", number, author=author) for number in range(2, 4))
    errors = await asyncio.gather(*deletes, return_exceptions=True)
    assert [(type(error), "is unknown" in str(error)) for error in errors] == [(Unavailable, True)] * 2


async def test_trying_transactions_ends(
    storage: NodeStorage, hasty: NodeStorage, breaking: Break, author: Author
) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    await breaking("findAndModify", errorCode=112, errorLabels=TRANSIENT)
    with pytest.raises(Conflict, match="faster"):
        await hasty.delete("orders", 1, author=author)
    await breaking("findAndModify", errorCode=246, errorLabels=TRANSIENT)
    with pytest.raises(Unavailable, match="nothing was written"):
        await hasty.delete("orders", 1, author=author)
    await breaking("commitTransaction", errorCode=50, errorLabels=UNKNOWN)
    with pytest.raises(Unavailable, match="outcome of the transaction is unknown"):
        await hasty.delete("orders", 1, author=author)


async def test_a_write_whose_commit_stayed_unknown_is_not_made_twice(
    storage: NodeStorage, hasty: NodeStorage, breaking: Break, author: Author
) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    key = Idempotency("key", "fingerprint")
    # The commit is made, and every answer to it says that it may not have been.
    await breaking("commitTransaction", writeConcernError=NOT_REPLICATED)
    with pytest.raises(Unavailable):
        await hasty.find_one_and_update("orders", 1, increment, author=author, idempotency=key)
    await breaking("commitTransaction", times=1, errorCode=50, errorLabels=UNKNOWN)
    result = await storage.find_one_and_update("orders", 1, increment, author=author, idempotency=key)
    assert (result.version, result.replayed) == (2, True)


async def test_a_document_too_large_for_mongodb(storage: NodeStorage, breaking: Break, author: Author) -> None:
    await storage.create("orders", {"_id": 1, "n": 1}, author=author)
    await breaking("update", errorCode=17419)
    with pytest.raises(TooLarge):
        await storage.find_one_and_update("orders", 1, increment, author=author)


async def test_nothing_is_sent_to_a_mongodb_that_is_not_there(mongodb_uri: str, author: Author) -> None:
    settings = Settings(mongodb_uri=re.sub("replicaSet=[^&]+", "replicaSet=another", mongodb_uri), mongodb_timeout=0.2)
    async with connect(settings, "failing") as client:
        storage = NodeStorage(client.app, client.app.operations, WritePolicy(deadline=0.2))
        with pytest.raises(Unavailable, match="nothing was written"):
            await storage.create("orders", {}, author=author)
        with pytest.raises(Unavailable, match="nothing was written"):
            await storage.transact([Create("orders", {})], author=author)
        with pytest.raises(Unavailable):
            await storage.ensure_indexes()
