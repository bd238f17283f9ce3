"""Fixtures of all tests: a real replica set, and a database of its own in it for each test.

The replica set is the one of `EVENTSYNC_TEST_MONGODB_URI`; else a container, where a Docker daemon answers and has the
image (variables: `support.mongodb_container`); else the embedded `mongod`. Each xdist worker has its own; each test
that asks has its own databases, dropped afterwards.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import secrets
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pymongo import AsyncMongoClient, MongoClient

from eventsync.dev import mongod
from eventsync.mongodb.client import Client, connect
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support import mongodb_container
from support.data_directory import data_directory, sweep
from support.waiting import STREAM_WAIT, patience, scaled, time_limits

logger = logging.getLogger(__name__)

# No example has a time limit: a busy machine would miss it, whichever tests are selected. `scripts/test` asks for the
# quick profile, except with `--all`.
for profile, examples in (("quick", 20), ("eventsync", 60)):
    hypothesis.settings.register_profile(
        profile, deadline=None, max_examples=examples, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
hypothesis.settings.load_profile("eventsync")

pytest_plugins = ["support.task_runner", "support.tls"]

_FOR_TESTS = ("--setParameter", "ttlMonitorSleepSecs=1")
"""Documents expire at once, and not only once a minute."""


_ORDER = ("chaos", "e2e", "integration", "conformance", "contract", "property", "unit")
"""The directories of the tests, those with the longest tests first.

So a run does not end with one long test and idle processors. The systems of the conformance and contract tests live
from their first test to the end of the run: they come late, and do not idle beside all others.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {Path(__file__).parent / name: number for number, name in enumerate(_ORDER)}
    items.sort(key=lambda item: min((rank[folder] for folder in item.path.parents if folder in rank), default=0))


def pytest_collection_finish() -> None:
    """Exclude all modules and tests from collection: a scan of them takes 0.2 s, and there are dozens in a run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def mongodb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if given := os.environ.get("EVENTSYNC_TEST_MONGODB_URI"):
        yield given
        return
    with ExitStack() as stack:
        yield _contained(stack) or stack.enter_context(_embedded(tmp_path_factory.mktemp("mongod")))


def _contained(stack: ExitStack) -> str | None:
    """Return the URI of a MongoDB in a container; None where none can be had."""
    if not mongodb_container.docker_answers():
        return None
    from docker.errors import DockerException  # only there with testcontainers, and slow to import

    try:
        return stack.enter_context(mongodb_container.running((*_FOR_TESTS, "--setParameter", "enableTestCommands=1")))
    except DockerException as error:
        logger.warning("the embedded mongod is used instead of a container: %s", error)
        return None


@contextmanager
def _embedded(directory: Path) -> Iterator[str]:
    binary = mongod.find_mongod()
    mongod.check_runs(binary)
    port = mongod.free_port()
    sweep()
    with (directory / "mongod.log").open("wb") as log, data_directory(directory / "data") as data:
        process = subprocess.Popen(
            [*mongod.command(binary, data, port), *_FOR_TESTS],
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
        )
        try:
            mongod.initiate(port, timeout=patience(30))
            _flush_rarely(mongod.uri(port))
            yield mongod.uri(port)
        finally:
            process.terminate()
            process.wait(patience(30))


def _flush_rarely(uri: str) -> None:
    """Have an idle `mongod` flush its journal 40 times a second and not 200, for which it takes 4.5 % of a processor.

    The writes of the system and of the tests are journaled at once, so they wait for no such flush.
    """
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command({"setParameter": 1, "journalCommitInterval": 25})


@pytest.fixture(scope="session")
async def client(mongodb_uri: str) -> AsyncIterator[Client]:
    """One client for a whole run, with the options of production."""
    limits: Any = time_limits(mongodb_timeout=30.0)
    async with connect(Settings(mongodb_uri=mongodb_uri, **limits), "test") as opened:
        yield opened


@pytest.fixture
async def short_transactions(client: Client) -> AsyncIterator[None]:
    """End transactions early: a server that is killed in the middle of one leaves its documents locked until then."""
    parameter = "transactionLifetimeLimitSeconds"
    before = (await client["admin"].command({"getParameter": 1, parameter: 1}))[parameter]
    await client["admin"].command({"setParameter": 1, parameter: math.ceil(scaled(2))})
    yield
    await client["admin"].command({"setParameter": 1, parameter: before})


@pytest.fixture
async def database_name(client: AsyncMongoClient[Any]) -> AsyncIterator[str]:
    """A name that only this test uses; `<name>` and `<name>_eventsync` are dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    await client.drop_database(name)
    await client.drop_database(f"{name}_eventsync")


@pytest.fixture
def settings(mongodb_uri: str, database_name: str) -> Settings:
    """Settings for this test's database, with waits that suit a test."""
    limits: Any = time_limits(lease_period=2.0)
    return Settings(
        mongodb_uri=mongodb_uri,
        database=database_name,
        checkpoint_interval=0.25,
        stream_wait=STREAM_WAIT,
        # A shape without news hears of its position by the heartbeat only.
        heartbeat=scaled(0.5),
        **limits,
    )


@pytest.fixture
def stores(client: Client, settings: Settings) -> Stores:
    return Stores.of(client, settings)
