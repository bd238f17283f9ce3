"""The browser's sync client, as the live page runs it, against a real server and a real network that fails."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.replica import to_tree
from support.systems import running_system
from support.tcp_proxy import tcp_proxy
from support.waiting import patience, within
from support.writers import PATCH, ApiWriter, documents_of, write_behind

DRIVER = Path(__file__).with_name("browser_client.mjs")
NODE = ("node", "--experimental-websocket", "--no-warnings")
Said = dict[str, Any]

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


class Browser:
    """The client in a process of its own: tell it what to do, wait for what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[Said] = []

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    async def until(self, wanted: Callable[[Said], bool]) -> Said:
        """The next thing said that is wanted; all are kept in `said`."""
        assert self._process.stdout is not None
        async with within(20):
            while line := await self._process.stdout.readline():
                self.said.append(orjson.loads(line))
                if wanted(self.said[-1]):
                    return self.said[-1]
        raise AssertionError("the client has ended")

    async def status(self, name: str) -> Said:
        return await self.until(lambda said: said.get("status") == name)

    async def documents(self) -> Said:
        self.tell("documents")
        found: Said = (await self.until(lambda said: "documents" in said))["documents"]
        return found


@asynccontextmanager
async def browsing(url: str, transport: str, *shapes: str) -> AsyncIterator[Browser]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *NODE, str(DRIVER), url, transport, *shapes, stdin=pipe, stdout=pipe, limit=2**24
    )
    try:
        yield Browser(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.kill()
        # Reads what is left, so that its pipes are closed here and not by the garbage collector.
        await process.communicate()


async def load(url: str, name: str, documents: list[Said]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        for document in documents:
            (await client.post(f"/v1/collections/{name}/documents", json=document)).raise_for_status()


async def last_write(url: str, name: str) -> int:
    """The seq of a write behind all others."""
    where = f"/v1/collections/{name}/documents/last"
    async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        (await client.put(where, json={"n": 1})).raise_for_status()
        log = (await client.get("/readyz")).json()["position"].split(":")[0]
        query: dict[str, str | int] = {"shape": f"{name}/last", "position": f"{log}:0", "wait": 10}
        page = (await client.get("/v1/sync/log", params=query)).json()
        return int(page["events"][0]["seq"])


def reached(shape: str, seq: int) -> Callable[[Said], bool]:
    """Return True if the client has reached `seq`."""
    return lambda said: shape in said.get("vector", {}) and int(said["vector"][shape].split(":")[1]) >= seq


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_cut_off_again_and_again_it_ends_with_the_collection(
    client: Client, settings: Settings, data_sets: dict[str, list[Said]], transport: str
) -> None:
    name, documents = "theaters", data_sets["theaters"][:30]
    collection = client[settings.database].get_collection(name, codec_options=CODEC)
    async with running_system(settings) as url, tcp_proxy(url) as proxy:
        await load(url, name, documents)
        async with browsing(proxy.url, transport, name) as browser:
            browser.tell("start")
            await browser.status("live")
            for cut in range(3):
                async with asyncio.TaskGroup() as group:
                    group.create_task(ApiWriter(url, name, documents, seed=cut).run(15))
                    group.create_task(write_behind(collection, 8, seed=cut))
                    await browser.until(lambda said: bool(said.get("seqs")))
                    assert proxy.cut() == 1
                await browser.status("live")
            await browser.until(reached(name, await last_write(url, name)))
            held = (await browser.documents())[name]

    stored = await documents_of(collection)
    assert {key: row["doc"] for key, row in held.items()} == to_tree(stored)
    frames = [said for said in browser.said if said.get("kind") in {"events", "snapshot", "squashed"}]
    assert [said["kind"] for said in frames[1:]] == ["events"] * (len(frames) - 1), "refetched"
    seqs = [seq for said in frames[1:] for seq in said["seqs"]]
    # The other collections are quiet, so that nothing of the log is for somebody else.
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs))), "lost, doubled or out of order"
    assert any(said["replayed"] for said in frames[1:])


async def test_killed_and_resumed_by_hand_on_the_other_transport(settings: Settings) -> None:
    shapes = ("accounts", "theaters/main")
    async with running_system(settings) as url, browsing(url, "websocket", *shapes) as browser:
        await load(url, "accounts", [{"_id": "a", "n": 1, "at": {"$date": "2026-11-23T05:22:46.405Z"}}])
        browser.tell("start")
        await browser.status("live")
        browser.tell("stop")
        before = (await browser.status("stopped"))["vector"]
        count = len(browser.said)
        async with httpx.AsyncClient(base_url=f"{url}/v1/collections", timeout=patience(20)) as http:
            for number in range(5):
                patch = [{"op": "replace", "path": "/n", "value": number}]
                (await http.patch("/accounts/documents/a", json=patch, headers=PATCH)).raise_for_status()
            await http.put("/theaters/documents/main", json={"seats": 2**60})
            await http.put("/theaters/documents/other", json={})
        browser.tell("sse")
        browser.tell("start")
        live = await browser.status("live")
        assert live["transport"] == "sse"
        await browser.until(reached("accounts", await last_write(url, "accounts")))
        held = await browser.documents()
        missed = httpx.QueryParams(shape="accounts", position=before["accounts"])
        async with httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
            page = (await http.get("/v1/sync/log", params=missed)).json()
    since = [said for said in browser.said[count:] if said.get("shape") == "accounts" and said["seqs"]]
    assert {said["kind"] for said in since} == {"events"}
    assert [seq for said in since for seq in said["seqs"]] == [event["seq"] for event in page["events"]]
    assert len(page["events"]) >= 6
    assert held["accounts"]["a"]["doc"] == {"_id": "a", "n": 4, "at": {"$date": "2026-11-23T05:22:46.405Z"}}
    assert held["theaters/main"] == {
        "main": {"version": 1, "doc": {"_id": "main", "seats": {"$numberLong": str(2**60)}}}
    }
    assert before.keys() == set(shapes)


@pytest.mark.parametrize("transport", ["websocket", "sse", "auto"])
async def test_a_client_with_nothing_but_refused_shapes_has_failed(settings: Settings, transport: str) -> None:
    async with running_system(settings) as url, browsing(url, transport, "untracked", "untracked/1") as browser:
        browser.tell("start")
        failed = await browser.status("failed")
        assert failed["reason"]
        assert failed["vector"] == {}
    assert not any(said.get("status") == "live" for said in browser.said)


async def test_a_shape_that_is_not_served_is_reported_and_not_asked_again(settings: Settings) -> None:
    async with (
        running_system(settings) as url,
        tcp_proxy(url) as proxy,
        browsing(proxy.url, "websocket", "theaters", "untracked") as browser,
    ):
        browser.tell("start")
        refused = (await browser.until(lambda said: "refused" in said))["refused"]
        assert (refused["code"], refused["shape"]) == ("not_tracked", "untracked")
        await browser.status("live")
        proxy.cut()
        await browser.status("live")
    assert sum("refused" in said for said in browser.said) == 1


# --- servers that misbehave -------------------------------------------------------------------------------------

WELCOME = {"type": "welcome", "session": "s", "client_id": "c", "protocol": 1, "heartbeat": 25, "vector": {}}
SNAPSHOT = {"type": "snapshot", "shape": "a", "position": "aaaaaaaa:5", "part": 0, "last": True, "docs": []}
LIVE = {"type": "live", "shape": "a", "position": "aaaaaaaa:5"}
HOLE = {"type": "events", "shape": "a", "from": "aaaaaaaa:7", "to": "aaaaaaaa:8", "events": []}


@asynccontextmanager
async def scripted(*scripts: list[Said | int]) -> AsyncIterator[tuple[str, list[Said]]]:
    """A server that sends one script to each connection, where a number is a close code. Gives the hellos it gets."""
    hellos: list[Said] = []

    async def handle(socket: ServerConnection) -> None:
        hellos.append(orjson.loads(await socket.recv()))
        for step in scripts[min(len(hellos), len(scripts)) - 1]:
            if isinstance(step, int):
                await socket.close(step, "as scripted")
            else:
                await socket.send(orjson.dumps(step).decode())
        await socket.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("eventsync.v1")]) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}", hellos


@pytest.mark.parametrize("code", [4400, 4401, 4403, 4413, 4429])
async def test_after_a_final_close_it_does_not_come_back(code: int) -> None:
    async with scripted([WELCOME, SNAPSHOT, LIVE, code]) as (url, hellos), browsing(url, "websocket", "a") as browser:
        browser.tell("start")
        failed = await browser.status("failed")
        assert failed["reason"] == "as scripted"
        browser.tell("documents")  # a round trip: nothing was scheduled before its answer
        await browser.until(lambda said: "documents" in said)
        assert browser.said[-2] == failed
        assert len(hellos) == 1


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013, 4408, 4503])
async def test_after_any_other_close_it_comes_back_with_its_vector(code: int) -> None:
    server = scripted([WELCOME, SNAPSHOT, LIVE, code], [WELCOME, LIVE])
    async with server as (url, hellos), browsing(url, "websocket", "a") as browser:
        browser.tell("start")
        await browser.status("live")
        assert 0 <= (await browser.status("waiting"))["delay"] <= 250
        await browser.status("live")
    assert [hello["vector"] for hello in hellos] == [{}, {"a": "aaaaaaaa:5"}]
    assert hellos[1]["shapes"] == ["a"]


async def test_at_a_hole_it_asks_again_from_its_own_position() -> None:
    server = scripted([WELCOME, SNAPSHOT, LIVE, HOLE], [WELCOME, LIVE])
    async with server as (url, hellos), browsing(url, "websocket", "a") as browser:
        browser.tell("start")
        await browser.status("live")
        assert "does not continue" in (await browser.status("waiting"))["reason"]
        await browser.status("live")
    assert [hello["vector"] for hello in hellos] == [{}, {"a": "aaaaaaaa:5"}]


async def test_failures_make_it_wait_longer_but_never_less_than_the_server_asks() -> None:
    busy: list[Said | int] = [{"type": "error", "code": "unavailable", "message": "later", "retry_after": 0.4}, 1013]
    async with scripted(busy, [WELCOME, SNAPSHOT, LIVE]) as (url, _), browsing(url, "websocket", "a") as browser:
        browser.tell("start")
        assert (await browser.status("waiting"))["delay"] >= 400
        await browser.status("live")


async def test_a_shape_that_can_not_be_served_yet_is_asked_for_again_on_the_same_connection() -> None:
    later: Said = {"type": "error", "code": "unavailable", "message": "later", "shape": "a", "retry_after": 0.3}
    before: tuple[Said, ...] = (WELCOME, later)
    after: tuple[Said, ...] = (SNAPSHOT, LIVE)
    subscribed: list[Said] = []

    async def handle(socket: ServerConnection) -> None:
        await socket.recv()
        for message in before:
            await socket.send(orjson.dumps(message).decode())
        subscribed.append(orjson.loads(await socket.recv()))
        for message in after:
            await socket.send(orjson.dumps(message).decode())
        await socket.wait_closed()

    async with serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("eventsync.v1")]) as server:
        url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with browsing(url, "websocket", "a") as browser:
            browser.tell("start")
            assert (await browser.until(lambda said: "refused" in said))["refused"]["retry_after"] == 0.3
            await browser.status("live")
    assert subscribed == [{"type": "subscribe", "shape": "a"}]


async def test_a_silent_server_is_left() -> None:
    quick = WELCOME | {"heartbeat": 0.1}
    async with scripted([quick, SNAPSHOT, LIVE]) as (url, hellos), browsing(url, "websocket", "a") as browser:
        browser.tell("start")
        await browser.status("live")
        assert "silent" in (await browser.status("waiting"))["reason"]
        await browser.status("live")
        assert len(hellos) == 2
