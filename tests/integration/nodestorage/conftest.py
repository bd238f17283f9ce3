"""A `NodeStorage` on each of the two drivers that it supports, and a bare view of what it stores."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.nodestorage import Author, NodeStorage, WritePolicy
from eventsync.settings import Settings


@pytest.fixture(params=["pymongo", "motor"])
async def database(
    request: pytest.FixtureRequest, client: Client, mongodb_uri: str, database_name: str
) -> AsyncIterator[Any]:
    """The test's database through PyMongo's async API, and through Motor with its default concerns."""
    if request.param == "pymongo":
        yield client[database_name]
        return
    with warnings.catch_warnings():
        # Motor is retired, and says so.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="motor")
        from motor.motor_asyncio import AsyncIOMotorClient
    motor: Any = AsyncIOMotorClient(mongodb_uri)
    yield motor[database_name]
    motor.close()


@pytest.fixture
def storage(database: Any) -> NodeStorage:
    return NodeStorage(database, database.operations, WritePolicy())


@pytest.fixture
def plain(client: Client, database_name: str, settings: Settings) -> NodeStorage:
    """On PyMongo alone, for what has nothing to do with the driver."""
    database = client[database_name]
    return NodeStorage(database, database.operations, WritePolicy.of(settings))


@pytest.fixture
def outside(client: Client, database_name: str) -> AsyncDatabase[dict[str, Any]]:
    """The database as another program sees it: documents as they are stored, and writes that count no versions."""
    return client[database_name].with_options(codec_options=CODEC)


@pytest.fixture
def author() -> Author:
    return Author("tester", "operation-1")


Stored = Callable[[str, Any], Awaitable[dict[str, Any] | None]]


@pytest.fixture
def stored(outside: AsyncDatabase[dict[str, Any]]) -> Stored:
    """The stored document, `_sync` and all."""

    async def find(collection: str, id: Any) -> dict[str, Any] | None:  # noqa: A002
        return await outside[collection].find_one({"_id": id})

    return find
