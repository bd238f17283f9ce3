"""One running system for all contract tests of a pytest process; each test uses ids of its own."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.histories import based
from support.replay import current_log
from support.ruled import Ruled, ruled_system
from support.systems import running_system, tracked
from support.waiting import patience, time_limits

COLLECTION = "things"


@dataclass(frozen=True)
class Served:
    """The system under test: its URL, its settings, and the collection behind it."""

    url: str
    settings: Settings
    collection: AsyncCollection[dict[str, Any]]


@pytest.fixture(scope="package")
async def served(mongodb_uri: str, client: Client) -> AsyncIterator[Served]:
    name = f"contract_{secrets.token_hex(6)}"
    limits: Any = time_limits(hello_timeout=2.0, send_timeout=1.0, body_timeout=2.0)
    settings = Settings(
        mongodb_uri=mongodb_uri,
        database=name,
        collections=(COLLECTION, "others"),
        checkpoint_interval=1.0,
        body_bytes=64 * 1024,
        document_bytes=256 * 1024,
        patch_operations=50,
        transaction_operations=5,
        batch_operations=50,
        batch_concurrency=8,
        message_bytes=4096,
        heartbeat=1.0,
        max_shapes=5,
        report_interval=0.25,
        allowed_origins=("https://app.example",),
        **limits,
    )
    async with running_system(settings) as url:
        await tracked(url, settings.collections)
        stores = Stores.of(client, settings)
        for each in settings.collections:
            await based(stores, await current_log(stores), each)
        yield Served(url, settings, client[name].get_collection(COLLECTION, codec_options=CODEC))
    await client.drop_database(name)
    await client.drop_database(settings.log_db)


@pytest.fixture
async def api(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the HTTP API, relative to the documents of the collection."""
    base = f"{served.url}/v1/collections/{COLLECTION}/documents"
    async with httpx.AsyncClient(base_url=base, timeout=patience(15)) as opened:
        yield opened


@pytest.fixture
async def root(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the server, relative to its root."""
    async with httpx.AsyncClient(base_url=served.url, timeout=patience(15)) as opened:
        yield opened


_numbers = itertools.count()


@pytest.fixture
def new_id() -> Callable[[], str]:
    """Ids that no other test uses."""
    return lambda: f"id-{next(_numbers)}-{secrets.token_hex(4)}"


# --- under rules ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="package")
async def ruled(mongodb_uri: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ruled]:
    name = f"doors_{secrets.token_hex(6)}"
    limits: Any = time_limits(hello_timeout=2.0, send_timeout=1.0, body_timeout=2.0)
    settings = Settings(
        mongodb_uri=mongodb_uri,
        database=name,
        collections=("things", "open", "closed"),
        checkpoint_interval=1.0,
        document_bytes=256 * 1024,
        offload_above=16 * 1024,
        report_interval=0.25,
        access_log=True,
        **limits,
    )
    await client[name]["things"].create_index("owner")
    await client[name]["things"].create_index("public")
    await client[name]["things"].create_index("code", unique=True, sparse=True)
    await client[name]["things"].create_index("secret", unique=True, sparse=True)
    async with ruled_system(settings, tmp_path_factory.mktemp("ruled")) as system:
        yield system
    await client.drop_database(name)
    await client.drop_database(settings.log_db)


@pytest.fixture
async def ada(ruled: Ruled) -> AsyncIterator[httpx.AsyncClient]:
    async with ruled.client("ada") as opened:
        yield opened


@pytest.fixture
async def bob(ruled: Ruled) -> AsyncIterator[httpx.AsyncClient]:
    async with ruled.client("bob") as opened:
        yield opened


@pytest.fixture
async def operator(ruled: Ruled) -> AsyncIterator[httpx.AsyncClient]:
    async with ruled.client("root", roles=["ops"]) as opened:
        yield opened


@pytest.fixture
async def nobody(ruled: Ruled) -> AsyncIterator[httpx.AsyncClient]:
    async with ruled.client(None) as opened:
        yield opened


@pytest.fixture
def things(ruled: Ruled, client: Client) -> AsyncCollection[dict[str, Any]]:
    return client[ruled.settings.database].get_collection("things", codec_options=CODEC)
