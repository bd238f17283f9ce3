"""`eventsync import` as a process, into a database and through a server, also one that is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.objectid import ObjectId
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.environment import command_environment
from support.ruled import ruled_system
from support.systems import events_of, running_system
from support.waiting import within

pytestmark = pytest.mark.slow

CANONICAL = b'{"_id":{"$oid":"59a47286cfa9a3a73e51e72c"},"n":{"$numberLong":"5"},"d":{"$numberDecimal":"1.50"}}'
RELAXED = b'{"_id":"b","n":5,"at":{"$date":"2026-11-23T05:22:46.405Z"}}'


@dataclass(frozen=True)
class System:
    """A running system, and how the command line finds it."""

    url: str
    collection: AsyncCollection[dict[str, Any]]
    environment: dict[str, str]
    directory: Path

    async def start(self, *words: str, collection: str = "orders") -> asyncio.subprocess.Process:
        """Start `eventsync import`."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "eventsync", "import", *words, "--collection", collection),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.directory,
        )

    async def run(self, *words: str, text: bytes = b"", collection: str = "orders") -> tuple[int | None, str, str]:
        """Import, and return the exit code and the output."""
        process = await self.start(*words, collection=collection)
        async with within(60):
            out, err = await process.communicate(text)
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def system(settings: Settings, client: Client, tmp_path: Path) -> AsyncIterator[System]:
    async with running_system(settings.model_copy(update={"collections": ("orders",)})) as url:
        collection = client[settings.database].get_collection("orders", codec_options=CODEC)
        yield System(url, collection, command_environment(settings), tmp_path)


@pytest.fixture(params=["database", "server"])
def target(request: pytest.FixtureRequest) -> Callable[[System], list[str]]:
    """The options of an import into the database itself, and through the server."""
    return lambda system: [] if request.param == "database" else ["--url", system.url]


async def test_exported_documents_keep_their_types(system: System, target: Callable[[System], list[str]]) -> None:
    (system.directory / "export.json").write_bytes(b"[" + CANONICAL + b",\n" + RELAXED + b"]\n")
    code, out, err = await system.run("export.json", *target(system))
    assert (code, out, err) == (0, "orders: 2 documents inserted, 0 failed\n", "")
    first = await system.collection.find_one({"_id": ObjectId("59a47286cfa9a3a73e51e72c")})
    second = await system.collection.find_one({"_id": "b"})
    assert first is not None
    assert second is not None
    assert (type(first["n"]), type(second["n"])) == (Int64, int)
    assert (first["d"], second["at"].year) == (Decimal128("1.50"), 2026)
    (event,) = await events_of(system.url, "orders/b", 1)
    assert (event["op"], event["version"], event["by"]) == ("create", 1, "anonymous")
    assert not list(system.directory.glob("*.progress*"))


async def test_documents_that_fail_are_listed_by_line(system: System, target: Callable[[System], list[str]]) -> None:
    lines = b"\n".join([RELAXED, b"{", RELAXED, b'{"_id":"c","$bad":1}', b'{"n":1}'])
    code, out, err = await system.run("-", *target(system), "--json", text=lines)
    assert code == 1
    assert orjson.loads(out) == {"collection": "orders", "mode": "insert", "written": 2, "failed": 3}
    listed = [line.partition(": ")[::2] for line in err.splitlines()]
    assert [line for line, _ in listed] == ["line 2", "line 3", "line 4"]
    assert "conflict: orders/b can't be" in listed[1][1]
    assert "malformed: " in listed[2][1]
    assert await system.collection.count_documents({}) == 2


@pytest.mark.parametrize("mode", ["upsert", "merge", "delete"])
async def test_modes_write_over_what_exists(system: System, target: Callable[[System], list[str]], mode: str) -> None:
    await system.run("-", text=RELAXED)
    changed = b'{"_id":"b","n":6}\n{"_id":"new","n":7}\n'
    code, out, err = await system.run("-", "--mode", mode, *target(system), text=changed)
    assert (code, err) == (0, ""), err
    found = {item["_id"]: item async for item in system.collection.find({}, {"_sync": 0, "at": 0})}
    if mode == "delete":
        assert (out, found) == ("orders: 1 documents deleted, 0 failed\n", {})
        return
    assert found == {"b": {"_id": "b", "n": 6}, "new": {"_id": "new", "n": 7}}
    assert await system.collection.count_documents({"at": {"$exists": True}}) == (mode == "merge")


async def test_killed_import_is_resumed_without_a_loss_or_a_double(
    system: System, target: Callable[[System], list[str]]
) -> None:
    """Half of the documents have no id: a second write would make a second document."""
    count = 6000
    documents = [{"n": n, "text": "x" * 50} if n % 2 else {"_id": f"id{n}", "n": n} for n in range(count)]
    (system.directory / "many.ndjson").write_bytes(b"\n".join(map(orjson.dumps, documents)))
    process = await system.start("many.ndjson", *target(system))
    async with within(60):
        while await system.collection.estimated_document_count() < 300:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)
    process.kill()
    await process.communicate()
    assert (system.directory / "many.ndjson.progress").stat().st_mode & 0o777 == 0o600
    refused = await system.run("many.ndjson", *target(system))
    assert refused[0] == 2
    assert "--resume continues it" in refused[2]
    code, out, _ = await system.run("many.ndjson", *target(system), "--resume")
    assert (code, out) == (0, f"orders: {count:,} documents inserted, 0 failed\n")
    assert await system.collection.count_documents({}) == count
    assert len(await system.collection.distinct("n")) == count
    assert not await system.collection.count_documents({"_sync.v": {"$ne": 1}})
    assert not list(system.directory.glob("*.progress*"))


async def test_pipe_is_imported_without_progress(system: System) -> None:
    pipe = system.directory / "pipe"
    os.mkfifo(pipe)
    made, _ = await asyncio.gather(system.run("pipe"), asyncio.to_thread(pipe.write_bytes, RELAXED))
    assert made == (0, "orders: 1 documents inserted, 0 failed\n", "")
    refused, _ = await asyncio.gather(system.run("pipe", "--resume"), asyncio.to_thread(pipe.write_bytes, b""))
    assert (refused[0], refused[2]) == (2, "eventsync: pipe can't be resumed: it can be read only once\n")
    assert not list(system.directory.glob("*.progress*"))


async def test_import_that_cannot_begin_names_the_reason(system: System) -> None:
    code, _, err = await system.run("missing.ndjson")
    assert (code, err) == (2, "eventsync: missing.ndjson can't be read: No such file or directory\n")
    code, _, err = await system.run("-", "--url", "localhost:8000", text=RELAXED)
    assert code == 2
    assert "--url takes the URL of a server" in err
    (system.directory / "one.ndjson").write_bytes(RELAXED)
    code, _, err = await system.run("one.ndjson", "--url", system.url, collection="nowhere")
    assert code == 2
    assert "the collection 'nowhere' is not tracked" in err


async def test_import_through_a_server_with_rules_needs_a_credential(
    settings: Settings, client: Client, tmp_path: Path
) -> None:
    things = client[settings.database].get_collection("things", codec_options=CODEC)
    async with ruled_system(settings.model_copy(update={"collections": ("things",)}), tmp_path) as ruled:
        system = System(ruled.url, things, command_environment(settings), tmp_path)
        words = ("-", "--url", ruled.url)
        lines = b'{"_id":"a","owner":"ada"}\n{"_id":"b","owner":"bob"}\n'
        code, out, err = await system.run(*words, text=lines, collection="things")
        assert (code, out) == (1, "")
        assert "a credential is needed here" in err
        assert "EVENTSYNC_TOKEN" in err
        code, _, err = await system.run(*words, "--token", "caf\u00e9", text=lines, collection="things")
        assert (code, "--token has characters" in err) == (2, True)
        code, out, err = await system.run(*words, "--token", ruled.token("ada"), text=lines, collection="things")
        assert (code, out) == (1, "things: 1 documents inserted, 1 failed\n")
        assert err.startswith("line 2: forbidden: ")
        assert [item["_id"] async for item in things.find()] == ["a"]
