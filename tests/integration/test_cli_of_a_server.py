"""`tail`, `history` and `diff` with `--url`: real commands, which know no MongoDB, against a real server."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.dev.mongod import free_port
from eventsync.domain.predicates.declarations import read_rules
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from support.environment import command_environment, environment_with
from support.histories import based
from support.program import Result, finished
from support.replay import caught_up, current_log, eventually, tracked
from support.ruled import made, ruled_system
from support.systems import running_server, running_worker
from support.tcp_proxy import tcp_proxy
from support.waiting import patience, within

Run = Callable[..., Awaitable[Result]]

CARDS = """
[shapes.my_cards]
collection = "orders"
where = { board = "$board" }
parameters = { board = { type = "int" } }
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"snapshot_chunk_bytes": 1024})


@pytest.fixture
def of_mongodb(settings: Settings) -> Run:
    """Run a command that reads MongoDB."""
    environment = command_environment(settings)
    return lambda *words: finished(*words, environment=environment, seconds=patience(60))


@pytest.fixture
def elsewhere() -> dict[str, str]:
    """The environment of a command that knows no MongoDB."""
    return environment_with(mongodb_uri="mongodb://127.0.0.1:1/?replicaSet=none") | {"COLUMNS": "200"}


@pytest.fixture
def run(elsewhere: dict[str, str]) -> Run:
    """Run a command that knows no MongoDB."""
    return lambda *words, **more: finished(*words, environment=elsewhere | more, seconds=patience(60))


@pytest.fixture
async def orders(settings: Settings, stores: Stores) -> AsyncIterator[Any]:
    """The tracked collection `orders`, which began when the log had events: `a` has three of its own."""
    async with running_worker(settings):
        await stores.tracking.ask(["others"])
        await tracked(stores, "others")
        await stores.data["others"].insert_many([{"_id": n} for n in range(2)])
        await caught_up(stores)
        documents = stores.data["orders"]
        await documents.insert_one({"_id": "old", "n": 1.5, "board": 7})
        await stores.tracking.ask(["orders"])
        await based(stores, await tracked(stores, "orders"), "orders")
        await documents.insert_one({"_id": "a", "n": 1, "board": 7})
        await documents.update_one({"_id": "a"}, {"$set": {"n": 2}, "$unset": {"board": ""}})
        await documents.delete_one({"_id": "a"})
        await caught_up(stores)
        yield documents


@pytest.fixture
async def url(orders: Any, settings: Settings, stores: Stores) -> AsyncIterator[str]:
    async with running_server(settings) as url:
        await read_up_to(url, stores)
        yield url


async def read_up_to(url: str, stores: Stores) -> None:
    """Wait until the server serves `orders`, and has read all events."""
    log = await current_log(stores)
    head = await stores.events.tail(log)
    wanted = {"shape": "orders", "position": f"{log}:{head.seq if head else 0}"}
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:

        async def has_read() -> bool | None:
            page = await client.get("/v1/sync/log", params={"shape": "orders"})
            return True if page.status_code == 200 and page.json()["to"] == wanted["position"] else None

        await eventually(stores, "logs", has_read)


@pytest.mark.slow
async def test_output_is_that_without_a_url(of_mongodb: Run, run: Run, url: str, stores: Stores) -> None:
    log = await current_log(stores)
    cases = [
        ("history", "orders/a"),
        ("history", "orders/a", "--limit", "1", "--json"),
        ("history", "orders/old"),
        ("history", "orders/nobody"),
        ("history", "nothing/a"),
        ("history", "orders"),
        ("diff", "orders/a", f"{log}:3", f"{log}:4"),
        ("diff", "orders/a", f"{log}:2", f"{log}:3"),
        ("diff", "orders/a", f"{log}:3"),
        ("diff", "orders/a", f"{log}:3", f"{log}:4", "--json"),
        ("diff", "orders/old", f"{log}:3", "--json"),
        ("diff", "orders/a", f"{log}:1"),
        ("diff", "orders/a", "soon"),
        ("diff", "orders/a", f"{log}:99"),
        ("diff", "orders/a", "elsewhere:1"),
        ("diff", "orders/old", "0", "99"),
        ("tail", "orders", "--from", f"{log}:2", "--limit", "3"),
        ("tail", "orders/a", "--from", f"{log}:2", "--limit", "2", "--json"),
        ("tail", "orders", "--from", "zzzzzzzz:7", "--limit", "1"),
        ("tail", "orders", "--from", f"{log}:0", "--limit", "1"),
        ("tail", "nothing"),
        ("tail", "my_cards?board=int:7"),
        ("tail", "orders", "--from", "yesterday"),
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [(words, group.create_task(_both(of_mongodb(*words), run(*words, "--url", url)))) for words in cases]
    results = {words: task.result() for words, task in tasks}
    for words, (here, there) in results.items():
        assert there == here, words
    assert [words for words, (here, _) in results.items() if here.exit_code == 0] == [
        *(cases[number] for number in (0, 1, 2, 6, 7, 8, 9, 10, 16, 17, 18, 19)),
    ]


async def _both(one: Awaitable[Result], other: Awaitable[Result]) -> tuple[Result, Result]:
    return await one, await other


@pytest.mark.slow
async def test_tail_of_a_declared_shape_has_its_scope(
    orders: Any, run: Run, of_mongodb: Run, url: str, stores: Stores
) -> None:
    declared = read_rules(tomllib.loads(CARDS)).definitions.values()
    await stores.definitions.apply([Declaration.of(definition) for definition in declared])
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:

        async def is_served() -> bool | None:
            page = await client.get("/v1/sync/log", params={"shape": "my_cards?board=int:7"})
            return True if page.status_code == 200 else None

        await eventually(stores, "shapes", is_served)
        begin = (await client.get("/v1/sync/log", params={"shape": "my_cards?board=int:7"})).json()["to"]
    plain = f"{begin.partition('.')[0]}:{begin.partition(':')[2]}"
    await orders.insert_one({"_id": "b", "board": 8})
    await orders.update_one({"_id": "b"}, {"$set": {"board": 7}})
    await orders.update_one({"_id": "old"}, {"$set": {"board": 8}})
    words = ("tail", "my_cards?board=int:7", "--from", plain, "--limit", "2")
    there, here = await run(*words, "--url", url), await of_mongodb(*words)
    assert there == here
    assert there.stderr == f"my_cards?board=int:7: events after {begin}\n"
    assert re.findall(r"  (enter|leave)", there.stdout) == ["enter", "leave"]


class Tail:
    """A running `eventsync tail --json`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def started(cls, environment: dict[str, str], directory: Path, *words: str) -> Tail:
        command = (sys.executable, "-P", "-m", "eventsync", "tail", "--json", *words)
        pipe = subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment, cwd=directory)
        )

    async def event(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with within(20):
            event: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return event

    async def killed(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()

    async def note(self) -> str:
        assert self.process.stderr is not None
        async with within(20):
            return (await self.process.stderr.readline()).decode()


@pytest.mark.slow
async def test_tail_continues_after_a_lost_connection(
    orders: Any, stores: Stores, settings: Settings, elsewhere: dict[str, str], tmp_path: Path
) -> None:
    """It begins now, misses nothing while the server is away, and ends without a word."""
    port = free_port()
    async with tcp_proxy(f"http://127.0.0.1:{port}") as proxy, AsyncExitStack() as stack:
        async with running_server(settings, port=port) as url:
            await read_up_to(url, stores)
            tail = await Tail.started(elsewhere, tmp_path, "orders", "--url", proxy.url)
            stack.push_async_callback(tail.killed)
            assert re.fullmatch(r"orders: events after \w+:5\n", await tail.note())
            await orders.insert_one({"_id": "one"})
            assert (await tail.event())["id"] == "one"
            proxy.cut()
            await orders.insert_one({"_id": "two"})
            assert (await tail.event())["id"] == "two"
        assert f"{proxy.url} cannot be reached" in await tail.note()
        await orders.insert_many([{"_id": "three"}, {"_id": "four"}])
        async with running_server(settings, port=port):
            assert [(await tail.event())["id"] for _ in range(2)] == ["three", "four"]
            tail.process.send_signal(signal.SIGINT)
            async with within(20):
                rest, said = await tail.process.communicate()
    assert (tail.process.returncode, rest) == (0, b"")
    assert all(line.endswith("; trying again") for line in said.decode().splitlines()), said


async def test_each_refusal_is_one_line(run: Run, url: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for words in (("tail", "orders"), ("history", "orders/a"), ("diff", "orders/a", "1")):
        async with within(15):
            gone = await run(*words, "--url", nowhere)
        assert (gone.exit_code, gone.stdout) == (1, "")
        assert gone.stderr.startswith(f"eventsync: {nowhere} cannot be reached: ")
        assert gone.stderr.count("\n") == 1
    for given, said in (
        (("--url", "127.0.0.1:8000"), "--url: '127.0.0.1:8000' is no address of a server"),
        (("--url", "http://[::1"), "--url: 'http://[::1' is no address of a server"),
        (("--url", url, "--database", "shop"), "is in place of --mongodb-uri and --database"),
        (("--url", url, "--token", "a\nb"), "--token has characters that no credential has"),
    ):
        refused = await run("history", "orders/a", *given)
        assert (refused.exit_code, refused.stdout) == (2, ""), refused
        assert said in refused.stderr
        assert refused.stderr.count("\n") == 1


@pytest.mark.slow
async def test_another_path_of_a_server_is_refused(run: Run, url: str) -> None:
    for words in (("tail", "orders"), ("history", "orders/a"), ("diff", "orders/a", "1")):
        refused = await run(*words, "--url", f"{url}/v1")
        assert (refused.exit_code, refused.stdout) == (1, "")
        said = f"eventsync: {url}/v1 does not answer as a server of eventsync does: Not Found\n"
        assert refused.stderr == said


async def test_other_servers_are_refused(run: Run) -> None:
    answers = {
        "/v1/sync/log": b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html/>",
        "/v1/collections/orders/documents/a/diff": b"HTTP/1.1 404 \xc2\x9b2J\r\nContent-Length: 0\r\n\r\n",
    }

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode().partition("?")[0]
        writer.write(answers[path])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for words in (("tail", "orders"), ("history", "orders/a"), ("diff", "orders/a", "1")):
            refused = await run(*words, "--url", url)
            assert (refused.exit_code, refused.stdout) == (1, "")
            assert f"{url} does not answer as a server of eventsync does" in refused.stderr, refused
            assert refused.stderr.rstrip("\n").isprintable()


@pytest.mark.slow
async def test_rules_count(settings: Settings, tmp_path: Path, run: Run) -> None:
    guarded = settings.model_copy(update={"collections": ("things", "open", "closed")})
    async with ruled_system(guarded, tmp_path) as ruled:
        async with ruled.client("root", roles=["ops"]) as operator:
            await made(operator, "mine", owner="ada")
            await made(operator, "yours", owner="bob")
        token = ruled.token("ada")
        missing = await run("tail", "things", "--url", ruled.url)
        assert (missing.exit_code, "EVENTSYNC_TOKEN gives one" in missing.stderr) == (1, True), missing
        wrong = await run("history", "things/mine", "--url", ruled.url, "--token", token + "x")
        assert (wrong.exit_code, "the credential is not valid" in wrong.stderr) == (1, True), wrong
        closed = await run("tail", "closed", "--url", ruled.url, EVENTSYNC_TOKEN=token)
        said = "eventsync: closed is not there, or you may not read it\n"
        assert (closed.exit_code, closed.stderr) == (1, said)
        own = await run("history", "things/mine", "--json", "--url", ruled.url, EVENTSYNC_TOKEN=token)
        assert (own.exit_code, json.loads(own.stdout)["op"]) == (0, "create"), own
        assert "secret" not in own.stdout
        other = await run("history", "things/yours", "--url", ruled.url, EVENTSYNC_TOKEN=token)
        assert (other.exit_code, other.stdout) == (1, ""), other
