"""Faults that MongoDB itself injects (it takes `--setParameter enableTestCommands=1`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from eventsync.mongodb.client import Client

_NO_SUCH_COMMAND = 59


@asynccontextmanager
async def faults(
    client: Client, commands: Sequence[str], *, app: str, times: int | None = None, **how: Any
) -> AsyncIterator[None]:
    """The next `times` such commands (None: all) of the clients with this `app_name` fail while the block runs.

    `how` is the data of MongoDB's fail point `failCommand`. Skips where MongoDB injects no faults.
    """
    point = {"configureFailPoint": "failCommand"}
    data = {"failCommands": list(commands), "appName": app, **how}
    mode = "alwaysOn" if times is None else {"times": times}
    try:
        await client.admin.command(point | {"mode": mode, "data": data})
    except OperationFailure as error:
        if error.code == _NO_SUCH_COMMAND:
            pytest.skip("this MongoDB injects no faults: start it with --setParameter enableTestCommands=1")
        raise
    try:
        yield
    finally:
        await client.admin.command(point | {"mode": "off"})


def failing(
    client: Client, command: str, code: int, *, app: str, times: int | None = 1, of: str | None = None
) -> AbstractAsyncContextManager[None]:
    """Have commands fail with `code`, as `faults` does. With `of`, only those about this `database.collection`."""
    return faults(client, [command], app=app, times=times, errorCode=code, **({"namespace": of} if of else {}))


def blocking(
    client: Client, commands: Sequence[str], milliseconds: int, *, app: str
) -> AbstractAsyncContextManager[None]:
    """Have MongoDB wait so long before each such command, as `faults` does."""
    return faults(client, commands, app=app, blockConnection=True, blockTimeMS=milliseconds)


@asynccontextmanager
async def keeping(client: Client, seconds: int) -> AsyncIterator[None]:
    """MongoDB keeps history for so long only, while the block runs."""
    name = "minSnapshotHistoryWindowInSeconds"
    before = (await client.admin.command({"getParameter": 1, name: 1}))[name]
    await client.admin.command({"setParameter": 1, name: seconds})
    try:
        yield
    finally:
        await client.admin.command({"setParameter": 1, name: before})


@asynccontextmanager
async def building_no_index(client: Client) -> AsyncIterator[None]:
    """MongoDB begins each build of an index, and completes none while the block runs."""
    name = "hangAfterStartingIndexBuild"
    await client.admin.command({"configureFailPoint": name, "mode": "alwaysOn"})
    try:
        yield
    finally:
        await client.admin.command({"configureFailPoint": name, "mode": "off"})


@asynccontextmanager
async def hanging_inserts(client: Client, namespace: str) -> AsyncIterator[None]:
    """MongoDB carries out no insert into `database.collection` while the block runs, and those that wait after it."""
    point = {"configureFailPoint": "hangDuringBatchInsert"}
    # Its name for the namespace depends on the version.
    data = {"nss": namespace, "namespace": namespace, "shouldCheckForInterrupt": True}
    await client.admin.command(point | {"mode": "alwaysOn", "data": data})
    try:
        yield
    finally:
        await client.admin.command(point | {"mode": "off"})


_UNKNOWN_STAGE = 40324


async def splits(database: AsyncDatabase[Any]) -> bool:
    """Asked of the server itself, and not by its version."""
    pipeline: list[dict[str, Any]] = [{"$changeStream": {}}, {"$changeStreamSplitLargeEvent": {}}]
    try:
        answer = await database.command({"aggregate": 1, "pipeline": pipeline, "cursor": {"batchSize": 0}})
    except OperationFailure as error:
        if error.code != _UNKNOWN_STAGE:
            raise
        return False
    await database.command({"killCursors": "$cmd.aggregate", "cursors": [answer["cursor"]["id"]]})
    return True


async def skip_unless_split(database: AsyncDatabase[Any]) -> None:
    """Skip the test where the server has no `$changeStreamSplitLargeEvent`."""
    if not await splits(database):
        pytest.skip("this MongoDB has no $changeStreamSplitLargeEvent: it takes 6.0.9, 7.0 or newer")
