"""A backup that is restored takes the log back: numbers that clients have would be given out again, for other events.

With a cold copy of a real `mongod`'s data directory: stopped, copied, written on, stopped, replaced by the copy.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.dev import mongod
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.shapes import Shape
from eventsync.mongodb.change_stream import Batch, ChangeStream
from eventsync.mongodb.client import connect
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from eventsync.stores.clients.state_vectors import NumberedPosition, VectorUpdate
from eventsync.stores.stores import Stores
from support.data_directory import data_directory
from support.environment import environment_with
from support.peers.peer import Asked, Link
from support.peers.python import Websockets
from support.replay import caught_up
from support.replay import tracked as tracked_in
from support.systems import running_server, running_worker, tracked
from support.waiting import patience, within

BEFORE, AFTER = 10, 15


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


class Node:
    """A `mongod` on a directory of its own, of which copies are taken and restored while it does not run."""

    def __init__(self, root: Path) -> None:
        self._data, self._backup = root / "data", root / "backup"
        self._log = root / "mongod.log"
        self._data.mkdir()
        self._port = mongod.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = mongod.uri(self._port)

    async def start(self) -> None:
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        command = mongod.command(mongod.find_mongod(), self._data, self._port)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
            )
        mongod.initiate(self._port, timeout=patience(20))

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 60)
            self._process = None

    async def back_up(self) -> None:
        await self.stop()
        await asyncio.to_thread(copy, self._data, self._backup)
        await self.start()

    async def restore(self) -> None:
        await self.stop()
        shutil.rmtree(self._data)
        await asyncio.to_thread(copy, self._backup, self._data)
        await self.start()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    with data_directory(tmp_path / "node") as root:
        made = Node(root)
        await made.start()
        yield made
        await made.stop()


@pytest.fixture
def settings(node: Node) -> Settings:
    return Settings(
        mongodb_uri=node.uri,
        database="app",
        collections=("docs",),
        lease_period=2.0,
        checkpoint_interval=0.1,
        archive_url="none",
    )


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Stores]:
    async with connect(settings, "test") as client:
        yield Stores.of(client, settings)


async def write(settings: Settings, first: int, last: int, said: str) -> LogId:
    """Documents `first` to `last`, and wait until they are in the log."""
    async with connected(settings) as stores:
        await tracked_in(stores, "docs")
        for number in range(first, last + 1):
            await stores.data["docs"].insert_one({"_id": number, "said": said})
        return await caught_up(stores)


async def lived(node: Node, settings: Settings) -> LogId:
    """A log that was backed up at event 10, grew to 15, and is at 10 again. No worker runs."""
    async with running_worker(settings):
        await write(settings, 1, BEFORE, "before")
    await node.back_up()
    async with running_worker(settings):
        log = await write(settings, BEFORE + 1, AFTER, "lost")
    await node.restore()
    return log


async def followed(settings: Settings, old: LogId) -> str:
    """Wait until another log is in force; why it began."""
    async with connected(settings) as stores, within(30):
        while (found := await stores.logs.current()) is None or found.id == old:  # noqa: ASYNC110 - no stream outlives this
            await asyncio.sleep(0.05)
    return found.reason


async def head(settings: Settings, log: LogId) -> Seq:
    async with connected(settings) as stores:
        return await stores.events.head(log)


@pytest.mark.slow
async def test_the_archive_tells_of_it(node: Node, settings: Settings, tmp_path: Path) -> None:
    archived = settings.model_copy(update={"archive_url": str(tmp_path / "archive")})
    old = await lived(node, archived)
    assert await head(settings, old) == BEFORE
    async with running_worker(archived):
        assert f"the archive knows of events up to {AFTER}" in await followed(settings, old)


@pytest.mark.slow
async def test_the_archive_tells_of_it_also_where_the_numbers_have_been_given_out_again(
    node: Node, settings: Settings, tmp_path: Path
) -> None:
    archived = settings.model_copy(update={"archive_url": str(tmp_path / "archive")})
    old = await lived(node, archived)
    async with running_worker(settings):
        assert await write(settings, 100, 120, "other") == old, "without the archive nothing tells"
    async with running_worker(archived):
        assert f"the archive knows event {AFTER} as another one" in await followed(settings, old)


@pytest.mark.slow
async def test_a_client_s_stored_position_tells_of_a_log_that_is_older(node: Node, settings: Settings) -> None:
    old = await lived(node, settings)
    async with connected(settings) as stores:
        vector = {Shape("docs"): NumberedPosition(1, Seq(AFTER), old)}
        await stores.vectors.record([VectorUpdate("someone", "sse", vector)])
    async with running_worker(settings):
        assert f"a client has acknowledged events up to {AFTER}" in await followed(settings, old)


@pytest.mark.slow
async def test_a_worker_that_lived_through_it_tells_of_it(node: Node, settings: Settings) -> None:
    async with running_worker(settings):
        await write(settings, 1, BEFORE, "before")
        await node.back_up()
        old = await write(settings, BEFORE + 1, AFTER, "lost")
        await node.restore()
        assert f"event {AFTER}, which was appended, is not in the log" in await followed(settings, old)


@asynccontextmanager
async def client_at(url: str, position: str) -> AsyncIterator[Link]:
    async with Websockets().open(url, Asked(("docs",), {"docs": position})) as link:
        yield link


async def next_of(link: Link, kind: str) -> dict[str, Any]:
    async with within(40):
        while (received := await link.receive()) is not None:
            if received.message["type"] == kind:
                return received.message
    raise AssertionError(f"no {kind}: {link.ended}")


async def answer_of(url: str, kind: str, vector: dict[str, str]) -> dict[str, Any]:
    """Return what a client gets. It comes again after each error that says when: the new log is served soon."""
    async with within(40):
        while True:
            async with Websockets().open(url, Asked(("docs",), vector)) as link:
                while (received := await link.receive()) is not None:
                    if received.message["type"] == kind:
                        return received.message
                    if received.message["type"] == "error":
                        assert "retry_after" in received.message, received.message
                        await asyncio.sleep(received.message["retry_after"])
                        break


@pytest.mark.slow
@pytest.mark.parametrize("again", [0, 20], ids=["behind", "beyond"])
async def test_a_server_that_lived_through_it_has_a_new_log_begun_and_clients_reset_in_band(
    node: Node, settings: Settings, again: int
) -> None:
    async with running_server(settings) as url:
        async with running_worker(settings):
            await write(settings, 1, BEFORE, "before")
        await node.back_up()
        async with running_worker(settings):
            old = await write(settings, BEFORE + 1, AFTER, "lost")
            await tracked(url, ("docs",))
            async with httpx.AsyncClient(base_url=url, timeout=patience(10)) as client:
                await at(client, f"{old}:{AFTER}")
        async with client_at(url, f"{old}:{AFTER}") as link:
            await next_of(link, "live")
            await node.restore()
            if again:
                # The server may not get to look before the numbers are given out again.
                async with running_worker(settings):
                    await written_again(settings, again)
            async with running_worker(settings):
                reason = await followed(settings, old)
                assert "was a backup restored?" in reason, reason
                assert (await next_of(link, "reset"))["reason"] == "unknown_log"
                snapshot = await next_of(link, "snapshot")
                said = {row["doc"]["said"] for row in snapshot["docs"]}
                assert "lost" not in said


async def written_again(settings: Settings, count: int) -> None:
    async with connected(settings) as stores:
        for number in range(100, 100 + count):
            await stores.data["docs"].insert_one({"_id": number, "said": "again"})


@asynccontextmanager
async def held_feed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncio.Event]:
    """Hold back the stream of the server's feed, which reads next, until the event is set or the block ends."""
    free, reached = asyncio.Event(), asyncio.Event()
    read, streams = ChangeStream.read, list[ChangeStream]()

    async def held(stream: ChangeStream, **options: Any) -> Batch:
        if stream in (streams or [stream]):
            streams[:] = [stream]
            reached.set()
            await free.wait()
        return await read(stream, **options)

    monkeypatch.setattr(ChangeStream, "read", held)
    try:
        async with within(20):
            await reached.wait()
        yield free
    finally:
        free.set()


@pytest.mark.slow
async def test_a_server_that_has_not_noticed_yet_answers_from_no_restored_data(
    node: Node, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots, pages and histories would be of the restored log, and the window's events of the log before it."""
    # A window of one event: all before it is read from the log.
    impatient = settings.model_copy(update={"window_bytes": 1, "send_timeout": 1.0})
    async with running_server(impatient) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        async with running_worker(settings):
            await write(settings, 1, BEFORE, "before")
        await node.back_up()
        async with running_worker(settings):
            old = await write(settings, BEFORE + 1, AFTER, "lost")
            await at(client, f"{old}:{AFTER}")
        page = await client.get("/v1/sync/log", params={"shape": "docs", "position": f"{old}:{BEFORE}"})
        assert len(page.json()["events"]) == AFTER - BEFORE
        async with held_feed(monkeypatch) as free:
            await node.restore()
            async with running_worker(settings):
                await written_again(settings, 20)
                async with connected(settings) as stores:
                    await caught_up(stores)
            for path, query in (
                ("/v1/sync/snapshot", {"shape": "docs"}),
                ("/v1/sync/log", {"shape": "docs", "position": f"{old}:{BEFORE + 1}"}),
                ("/v1/collections/docs/documents/int:100/events", {}),
                ("/v1/collections/docs/documents/int:100", {"position": f"{old}:{AFTER}"}),
            ):
                answer = await client.get(path, params=query)
                assert (answer.status_code, "retry-after" in answer.headers) == (503, True), (path, answer.text)
            async with Websockets().open(url, Asked(("docs",), {})) as link:
                while (received := await link.receive()) is not None:
                    assert received.message["type"] != "snapshot"
                assert link.ended is not None
                assert link.ended.code == 1013
            free.set()
            async with running_worker(settings):
                await followed(settings, old)
                await tracked(url, ("docs",))
                snapshot = await answer_of(url, "snapshot", {})
        assert not snapshot["position"].startswith(old)
        assert len(snapshot["docs"]) == BEFORE + 20


async def at(client: httpx.AsyncClient, position: str) -> None:
    """Wait until the server has read this event."""
    async with within(20):
        while (await client.get("/readyz")).json()["position"] != position:  # noqa: ASYNC110 - no stream tells
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_reset_log_begins_a_new_log_when_no_evidence_remains(
    node: Node, settings: Settings, tmp_path: Path
) -> None:
    """The procedure of docs/guides/backup.md: `reset-log` before servers and workers start."""
    old = await lived(node, settings)
    environment = environment_with(mongodb_uri=node.uri, database="app")
    command = [sys.executable, "-P", "-m", "eventsync", "reset-log", "--yes", "--reason", "a backup was restored"]
    said = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert said.returncode == 0, said.stderr
    assert f"a new log follows {old} as soon as a worker leads" in said.stdout
    async with running_worker(settings), running_server(settings) as url:
        assert await followed(settings, old) == "a backup was restored"
        await tracked(url, ("docs",))
        assert (await answer_of(url, "reset", {"docs": f"{old}:{AFTER}"}))["reason"] == "unknown_log"


@pytest.mark.slow
async def test_a_made_up_position_resets_only_its_client(node: Node, settings: Settings) -> None:
    async with running_worker(settings), running_server(settings) as url:
        log = await write(settings, 1, 5, "before")
        await tracked(url, ("docs",))
        async with client_at(url, f"{log}:5") as honest:
            await next_of(honest, "live")
            async with httpx.AsyncClient(base_url=url, timeout=patience(10)) as client:
                for seq in (6, 999_999_999, 2**63 - 1):
                    async with client_at(url, f"{log}:{seq}") as liar:
                        assert (await next_of(liar, "reset"))["reason"] == "future"
                    page = await client.get("/v1/sync/log", params={"shape": "docs", "position": f"{log}:{seq}"})
                    assert (page.status_code, page.json()["reason"]) == (409, "future")
                    put = await client.put("/v1/state-vectors/liar", json={"vector": {"docs": f"{log}:{seq}"}})
                    assert put.status_code == 409, put.text
            assert await write(settings, 6, 6, "after") == log
            (event,) = (await next_of(honest, "events"))["events"]
            assert event["seq"] == 6
