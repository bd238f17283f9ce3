"""No request holds up the event loop, whatever it asks for: each route is asked for the worst that it allows.

A pause is the CPU time that the loop's thread spends between two ticks of a timer: what a busy machine takes away does
not count. The bound is in proportion to what a fixed computation takes here.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import pytest
import uvloop
import websockets

from app.garbage import collect_rarely
from app.main import ROUTES
from app.settings import Settings
from support.systems import running_server, running_worker, tracked
from support.waiting import eventually, patience

pytestmark = pytest.mark.anyio

PAUSE = 0.05
"""Most seconds of CPU between two ticks, on the machine that this was measured on."""

REFERENCE = 0.012
"""Seconds of CPU that `_reference` takes there."""

DOCUMENTS = "/v1/collections/things/documents"
JSON = {"content-type": "application/json"}
PATCH = {"content-type": "application/json-patch+json"}
EMPTY_LISTS = b"[" + b",".join([b"[]"] * 300_000) + b"]"
"""Nearly the largest body, of the values that are most work for their bytes."""


def _reference() -> float:
    began = time.thread_time()
    sum(number * number for number in range(300_000))
    return time.thread_time() - began


@dataclass
class Loop:
    """A server on an event loop in a thread of its own, and the longest pause of that loop since `longest` was set."""

    settings: Settings
    url: str = ""
    longest: float = 0.0
    _started: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with running_server(self.settings) as self.url:
            self._seen = time.thread_time()
            self._tick()
            self._started.set()
            await self._stop.wait()

    def _tick(self) -> None:
        now = time.thread_time()
        self.longest = max(self.longest, now - self._seen)
        self._seen = now
        self._loop.call_later(0.001, self._tick)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        thread = threading.Thread(target=self.run)
        collected = gc.get_threshold()
        collect_rarely(waited_for=True)  # as a server process does
        thread.start()
        try:
            await asyncio.to_thread(self._started.wait)
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            await asyncio.to_thread(thread.join)
            gc.unfreeze()
            gc.set_threshold(*collected)


@dataclass
class Client:
    """What the worst cases use."""

    http: httpx.AsyncClient
    url: str

    async def ask(self, method: str, path: str, *statuses: int, **options: Any) -> httpx.Response:
        answer = await self.http.request(method, path, **options)
        assert answer.status_code in (statuses or (200,)), (method, path, answer.status_code, answer.text[:300])
        return answer


Ask = Callable[[Client], Awaitable[object]]


async def _moves(client: Client) -> None:
    there_and_back = [{"op": "move", "from": "/x", "path": "/z"}, {"op": "move", "from": "/z", "path": "/x"}]
    await client.ask("PATCH", f"{DOCUMENTS}/moved", content=orjson.dumps(there_and_back * 500), headers=PATCH)
    shifts = orjson.dumps([{"op": "add", "path": "/x/0", "value": 1}] * 1000)
    await client.ask("PATCH", f"{DOCUMENTS}/moved", 200, 422, content=shifts, headers=PATCH)


async def _replaced(client: Client) -> None:
    for value in (0, 1):
        body = orjson.dumps({f"f{number}": value for number in range(80_000)})
        await client.ask("PUT", f"{DOCUMENTS}/replaced", 200, 201, content=body, headers=JSON)
    await client.ask("PUT", f"{DOCUMENTS}/big", 400, content=b'{"$a":%b}' % EMPTY_LISTS, headers=JSON)


async def _transaction(client: Client) -> None:
    operations = [
        {"method": "PUT", "collection": "things", "id": f"t{number}", "doc": {"x": [[]] * 2_500}}
        for number in range(100)
    ]
    await client.ask(
        "POST", "/v1/transactions", 200, 409, 503, content=orjson.dumps({"operations": operations}), headers=JSON
    )
    reads = [{"method": "PATCH", "collection": "things", "id": "big", "patch": {"n": number}} for number in range(20)]
    await client.ask(
        "POST", "/v1/transactions", 422, 409, 503, content=orjson.dumps({"operations": reads}), headers=JSON
    )


async def _streamed(client: Client, path: str) -> None:
    async with client.http.stream("GET", path) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if '"live"' in line:
                return


async def _vectors(client: Client) -> None:
    for number in range(10):
        await _put_vector(client, f"client{number}")
    await client.ask("GET", "/v1/state-vectors?limit=1000")


async def _put_vector(client: Client, name: str) -> None:
    position = (await client.ask("GET", "/readyz", 200, 503)).json()["position"]
    vector = {f"things/{name}-{number}": position for number in range(100)}
    await client.ask("PUT", f"/v1/state-vectors/{name}", json={"vector": vector})


async def _hello(client: Client) -> None:
    position = (await client.ask("GET", "/readyz", 200, 503)).json()["position"]
    shapes = [f"things/{number:0500}" for number in range(99)] + ["things"]
    hello = {"type": "hello", "shapes": shapes, "vector": {"things": position.partition(":")[0] + ":0"}}
    url = client.url.replace("http", "ws") + "/v1/sync"
    async with websockets.connect(url, subprotocols=["eventsync.v1"], max_size=None) as socket:  # type: ignore[list-item]
        await socket.send(orjson.dumps(hello).decode())
        lives = 0
        while lives < len(shapes):
            lives += orjson.loads(await socket.recv())["type"] == "live"


async def _log(client: Client) -> None:
    log = (await client.ask("GET", "/readyz", 200, 503)).json()["position"].partition(":")[0]
    await client.ask("GET", f"/v1/sync/log?shape=things&position={log}:0&limit=1000")


def _get(path: str, *statuses: int) -> Ask:
    return lambda client: client.ask("GET", path, *statuses)


def _send(method: str, path: str, body: bytes, kind: dict[str, str], *statuses: int) -> Ask:
    return lambda client: client.ask(method, path, *statuses, content=body, headers=kind)


WORST: dict[tuple[str, str], Ask] = {
    ("GET", "/v1/collections"): _get("/v1/collections"),
    ("GET", DOCUMENTS): _get(f"{DOCUMENTS}?limit=1000"),
    ("POST", DOCUMENTS): _send("POST", DOCUMENTS, b'{"x":%b}' % EMPTY_LISTS, JSON, 201),
    ("GET", f"{DOCUMENTS}/ID"): _get(f"{DOCUMENTS}/big"),
    ("PUT", f"{DOCUMENTS}/ID"): _replaced,
    ("PATCH", f"{DOCUMENTS}/ID"): _moves,
    ("DELETE", f"{DOCUMENTS}/ID"): lambda client: client.ask("DELETE", f"{DOCUMENTS}/replaced"),
    ("GET", f"{DOCUMENTS}/ID/events"): _get(f"{DOCUMENTS}/big/events?limit=1000"),
    ("GET", f"{DOCUMENTS}/ID/diff"): _get(f"{DOCUMENTS}/big/diff?from=1&to=3"),
    ("GET", "as it was"): _get(f"{DOCUMENTS}/big?version=2"),
    ("POST", "/v1/transactions"): _transaction,
    ("WEBSOCKET", "/v1/sync"): _hello,
    ("GET", "/v1/sync"): _get("/v1/sync", 426),
    ("GET", "/v1/sync/sse"): lambda client: _streamed(client, "/v1/sync/sse?shape=things"),
    ("GET", "/v1/sync/log"): _log,
    ("GET", "/v1/sync/snapshot"): _get("/v1/sync/snapshot?shape=things"),
    ("GET", "/v1/sync/segments"): _get("/v1/sync/segments?limit=1000"),
    ("GET", "/v1/sync/segments/POSITION"): _get("/v1/sync/segments/k3f9ab2c:1", 404),
    ("GET", "/v1/state-vectors"): _vectors,
    ("GET", "/v1/state-vectors/CLIENT"): _get("/v1/state-vectors/client1"),
    ("PUT", "/v1/state-vectors/CLIENT"): lambda client: _put_vector(client, "client1"),
    ("DELETE", "/v1/state-vectors/CLIENT"): lambda client: client.ask("DELETE", "/v1/state-vectors/client1", 204),
    ("GET", "/healthz"): _get("/healthz"),
    ("GET", "/readyz"): _get("/readyz", 200, 503),
    ("GET", "/metrics"): _get("/metrics"),
    ("GET", "/"): _get("/"),
    ("GET", "/docs"): _get("/docs"),
    ("GET", "/assets/NAME"): _get("/assets/client.js"),
    ("GET", "/openapi.json"): _get("/openapi.json"),
}


def _routes() -> set[tuple[str, str]]:
    names = {
        "{collection}": "things",
        "{id}": "ID",
        "{position}": "POSITION",
        "{client_id}": "CLIENT",
        "{name}": "NAME",
    }
    found: set[tuple[str, str]] = set()
    for route in ROUTES:
        path = str(getattr(route, "path"))  # noqa: B009 - routes of several kinds
        for name, stand_in in names.items():
            path = path.replace(name, stand_in)
        methods = getattr(route, "methods", None) or ({"GET"} if hasattr(route, "methods") else {"WEBSOCKET"})
        found |= {(method, path) for method in methods - {"HEAD"}}
    return found


def test_every_route_has_a_worst_case() -> None:
    assert set(WORST) - {("GET", "as it was")} == _routes()


async def _grow(client: Client) -> None:
    """A document of 12 MiB, made of a million lists."""
    await client.ask("PUT", f"{DOCUMENTS}/big", 201, content=b'{"x":%b}' % EMPTY_LISTS, headers=JSON)
    for number in range(2):
        copy = orjson.dumps([{"op": "copy", "from": "/x", "path": f"/x{number}"}])
        headers = PATCH | {"prefer": "return=minimal"}
        await client.ask("PATCH", f"{DOCUMENTS}/big", content=copy, headers=headers)
    moved = orjson.dumps({"x": [[0]] * 100_000})
    await client.ask("PUT", f"{DOCUMENTS}/moved", 201, content=moved, headers=JSON)


async def test_no_route_holds_up_the_loop(settings: Settings) -> None:
    slow = {"collections": ("things",), "request_timeout": 600.0, "offload_timeout": 600.0, "send_timeout": 300.0}
    loop = Loop(settings.model_copy(update=slow | {"pin_ttl": 1000.0, "write_deadline": 20.0}))
    pauses: dict[str, float] = {}
    async with (
        running_worker(loop.settings),
        loop.running(),
        httpx.AsyncClient(base_url=loop.url, timeout=patience(600)) as http,
    ):
        await tracked(loop.url, ["things"])
        client = Client(http, loop.url)
        loop.longest = 0.0
        await _grow(client)
        pauses["growing"] = loop.longest

        async def sequenced() -> bool:
            return len((await http.get(f"{DOCUMENTS}/big/events?after_version=2")).json().get("events", ())) == 1

        await eventually(sequenced)
        for (method, path), ask in WORST.items():
            loop.longest = 0.0
            await ask(client)
            pauses[f"{method} {path}"] = loop.longest
    slower = max(1.0, min(_reference() for _ in range(5)) / REFERENCE)
    report = "\n".join(f"{pause * 1000:7.1f} ms  {name}" for name, pause in sorted(pauses.items(), key=lambda x: -x[1]))
    assert max(pauses.values()) <= PAUSE * slower, report
