"""The worst request of each route: the most work that its limits allow. For a test, and a benchmark, of pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson
import websockets
from pymongo.asynchronous.collection import AsyncCollection

from support.waiting import within

SETTINGS: Final[dict[str, Any]] = {
    "collections": ("things",),
    "request_timeout": 600.0,
    "offload_timeout": 600.0,
    "send_timeout": 300.0,
    "pin_ttl": 1000.0,
    "write_deadline": 20.0,
    "transaction_bytes": 20 * 1024 * 1024,
}
"""Nothing is given up because a busy machine is slow. A transaction has room for two of the largest documents."""

DOCUMENTS = "/v1/collections/things/documents"
JSON = {"content-type": "application/json"}
PATCH = {"content-type": "application/json-patch+json"}
EMPTY_LISTS = b"[" + b",".join([b"[]"] * 300_000) + b"]"
"""Nearly the largest body, of the values that are most work for their bytes."""


class UnexpectedError(Exception):
    """An answer is not one of those that a case may get."""


@dataclass
class Client:
    """A client of the server at `url`."""

    http: httpx.AsyncClient
    url: str

    async def ask(self, method: str, path: str, *statuses: int, **options: Any) -> httpx.Response:
        """Return an answer of one of `statuses`; 200 where there are none."""
        answer = await self.http.request(method, path, **options)
        if answer.status_code not in (statuses or (200,)):
            raise UnexpectedError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        return answer


Ask = Callable[[Client], Awaitable[object]]


async def _moves(client: Client) -> None:
    there_and_back = [{"op": "move", "from": "/x", "path": "/z"}, {"op": "move", "from": "/z", "path": "/x"}]
    await client.ask("PATCH", f"{DOCUMENTS}/moved", content=orjson.dumps(there_and_back * 500), headers=PATCH)
    shifts = orjson.dumps([{"op": "add", "path": "/x/0", "value": 1}] * 1000)
    await client.ask("PATCH", f"{DOCUMENTS}/moved", 200, 422, content=shifts, headers=PATCH)


async def _conditions(client: Client) -> None:
    """Send lists of entity tags with as many blanks, or commas, as a head and an operation may have."""
    for text in (f",{' ' * 60_000}x", "," * 60_000, '"",' * 20_000):
        await client.ask("GET", "/healthz", 400, headers={"if-none-match": text})
    for text in (f",{' ' * 1_000_000}x", '"",' * 200_000):
        operation = {"method": "DELETE", "collection": "things", "id": "none", "if_match": text}
        await client.ask("POST", "/v1/transactions", 400, json={"operations": [operation]})
    numbers = {"method": [1] * 300_000, "collection": "things"}
    await client.ask("POST", "/v1/transactions", 400, json={"operations": [numbers]})


async def _replaced(client: Client) -> None:
    for value in (0, 1):
        await _put_fields(client, value)
    await client.ask("PUT", f"{DOCUMENTS}/big", 400, content=b'{"$a":%b}' % EMPTY_LISTS, headers=JSON)


async def _deleted(client: Client) -> None:
    """Delete the document that was replaced."""
    answer = await client.ask("DELETE", f"{DOCUMENTS}/replaced", 200, 404)
    if answer.status_code == 404:
        await _put_fields(client, 0)
        await client.ask("DELETE", f"{DOCUMENTS}/replaced")


async def _put_fields(client: Client, value: int) -> None:
    body = orjson.dumps({f"f{number}": value for number in range(80_000)})
    await client.ask("PUT", f"{DOCUMENTS}/replaced", 200, 201, content=body, headers=JSON)


async def _transaction(client: Client) -> None:
    operations = [
        {"method": "PUT", "collection": "things", "id": f"t{number}", "doc": {"x": [[]] * 2_500}}
        for number in range(100)
    ]
    await client.ask(
        "POST", "/v1/transactions", 200, 409, 503, content=orjson.dumps({"operations": operations}), headers=JSON
    )
    # They are read and decided, one after the other, until they are too large.
    reads = [{"method": "PATCH", "collection": "things", "id": "big", "patch": {"n": 0}}] * 20
    await client.ask(
        "POST", "/v1/transactions", 413, 422, 409, 503, content=orjson.dumps({"operations": reads}), headers=JSON
    )


async def _batch(client: Client) -> None:
    """Send a thousand documents of many values, large ones, and patches of the largest document.

    The first of these changes it. The second is as much work for the server, but no event.
    """
    wide = [{"method": "PUT", "id": f"b{number}", "doc": {"x": [[]] * 300}} for number in range(1000)]
    await client.ask("POST", f"{DOCUMENTS}:batch", content=orjson.dumps({"operations": wide}), headers=JSON)
    large = [{"method": "POST", "doc": {"x": [[]] * 25_000}}] * 10
    reads = [{"method": "PATCH", "id": "big", "patch": {"n": 1}}] * 2
    headers = {"content-type": "application/x-ndjson", "prefer": "return=representation"}
    lines = b"\n".join(map(orjson.dumps, [*large, *reads]))
    await client.ask("POST", f"{DOCUMENTS}:batch", content=lines, headers=headers)


async def _streamed(client: Client, path: str) -> None:
    async with client.http.stream("GET", path) as answer:
        if answer.status_code != 200:
            raise UnexpectedError(f"GET {path}: {answer.status_code}")
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


async def _deleted_vector(client: Client) -> None:
    await _put_vector(client, "client1")
    await client.ask("DELETE", "/v1/state-vectors/client1", 204)


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


async def _past(client: Client) -> None:
    position = (await client.http.get("/readyz")).json()["position"]
    await client.ask("GET", f"{DOCUMENTS}?position={position}&limit=100")


async def _log(client: Client) -> None:
    log = (await client.ask("GET", "/readyz", 200, 503)).json()["position"].partition(":")[0]
    await client.ask("GET", f"/v1/sync/log?shape=things&position={log}:0&limit=1000")


async def _together(client: Client, path: str, count: int = 32) -> None:
    """Ask many times at once; a server that has enough to do may tell some to come back."""
    await asyncio.gather(*(client.ask("GET", path, 200, 503) for _ in range(count)))


async def _snapshot(client: Client) -> None:
    # Until all changes that were made before are in the log, the first snapshot, of no document, is the cheapest.
    async with within(60):
        while len((await client.ask("GET", "/v1/sync/snapshot?shape=things")).content) < 60_000_000:
            continue


async def _logs(client: Client) -> None:
    log = (await client.ask("GET", "/readyz", 200, 503)).json()["position"].partition(":")[0]
    await _together(client, f"/v1/sync/log?shape=things&position={log}:0&limit=1000", 8)


def _get(path: str, *statuses: int) -> Ask:
    return lambda client: client.ask("GET", path, *statuses)


def _send(method: str, path: str, body: bytes, kind: dict[str, str], *statuses: int) -> Ask:
    return lambda client: client.ask(method, path, *statuses, content=body, headers=kind)


LONG_SHAPES: Final = b",".join(b'"things/%0500d"' % number for number in range(100))
"""The most shapes of a ticket, in JSON."""

WORST: Final[dict[tuple[str, str], Ask]] = {
    # In this order, after `grow`; each can be repeated.
    ("GET", "/v1/collections"): _get("/v1/collections"),
    ("GET", DOCUMENTS): _get(f"{DOCUMENTS}?limit=1000"),
    ("POST", DOCUMENTS): _send("POST", DOCUMENTS, b'{"x":%b}' % EMPTY_LISTS, JSON, 201),
    ("GET", f"{DOCUMENTS}/ID"): _get(f"{DOCUMENTS}/big"),
    ("PUT", f"{DOCUMENTS}/ID"): _replaced,
    ("PATCH", f"{DOCUMENTS}/ID"): _moves,
    ("DELETE", f"{DOCUMENTS}/ID"): _deleted,
    ("GET", f"{DOCUMENTS}/ID/events"): _get(f"{DOCUMENTS}/big/events?limit=1000"),
    ("GET", f"{DOCUMENTS}/ID/diff"): _get(f"{DOCUMENTS}/big/diff?from=1&to=2"),
    ("GET", "as it was"): _get(f"{DOCUMENTS}/big?version=2"),
    ("GET", "control characters"): _get(f"{DOCUMENTS}/control"),
    ("GET", "past"): _past,
    ("GET", "listings at a time"): lambda client: _together(client, f"{DOCUMENTS}?limit=1000"),
    ("GET", "documents at a time"): lambda client: _together(client, f"{DOCUMENTS}/wide0"),
    ("GET", "log pages at a time"): _logs,
    ("POST", "/v1/transactions"): _transaction,
    ("POST", f"{DOCUMENTS}:batch"): _batch,
    ("WEBSOCKET", "/v1/sync"): _hello,
    ("GET", "/v1/sync"): _get("/v1/sync", 426),
    ("GET", "/v1/sync/sse"): lambda client: _streamed(client, "/v1/sync/sse?shape=things"),
    ("GET", "/v1/sync/log"): _log,
    # Behind so many events, a snapshot is made of all documents.
    ("GET", "/v1/sync/snapshot"): _snapshot,
    ("GET", "snapshots at a time"): lambda client: _together(client, "/v1/sync/snapshot?shape=things", 2),
    ("GET", "/v1/sync/segments"): _get("/v1/sync/segments?limit=1000"),
    ("GET", "/v1/sync/segments/POSITION"): _get("/v1/sync/segments/k3f9ab2c:1", 404),
    ("GET", "/v1/state-vectors"): _vectors,
    ("GET", "/v1/state-vectors/CLIENT"): _get("/v1/state-vectors/client1"),
    ("PUT", "/v1/state-vectors/CLIENT"): lambda client: _put_vector(client, "client1"),
    ("DELETE", "/v1/state-vectors/CLIENT"): _deleted_vector,
    ("POST", "/v1/tickets"): _send("POST", "/v1/tickets", b'{"shapes":[%b]}' % LONG_SHAPES, JSON, 201),
    ("POST", "/v1/session"): _send("POST", "/v1/session", b"", {}, 200),
    ("DELETE", "/v1/session"): _send("DELETE", "/v1/session", b"", {}, 204),
    ("POST", "/v1/barrier"): _send("POST", "/v1/barrier", b"{}", JSON, 200),
    ("GET", "/healthz"): _get("/healthz"),
    ("GET", "conditions"): _conditions,
    ("GET", "/readyz"): _get("/readyz", 200, 503),
    ("GET", "/metrics"): _get("/metrics"),
    ("GET", "/v1/admin/overview"): _get("/v1/admin/overview?since=0"),
    ("GET", "/v1/admin/clients"): _get("/v1/admin/clients?limit=1000"),
    ("GET", "/v1/admin/clients/ID"): _get("/v1/admin/clients/none", 404),
    ("DELETE", "/v1/admin/clients/ID"): _send("DELETE", "/v1/admin/clients/none", b"", {}, 404),
    ("GET", "/v1/admin/clients/ID/frames"): _get(f"/v1/admin/clients/{'0' * 32}/frames", 404),
    ("GET", "/v1/admin/log"): _get("/v1/admin/log?limit=1000"),
    ("GET", "/v1/admin/jobs"): _get("/v1/admin/jobs"),
    ("GET", "/v1/admin/repairs"): _get("/v1/admin/repairs"),
    ("GET", "/v1/admin/segments"): _get("/v1/admin/segments?limit=1000"),
    ("GET", "/v1/admin/snapshots"): _get("/v1/admin/snapshots?limit=1000"),
    ("GET", "/v1/admin/collections"): _get("/v1/admin/collections"),
    ("PUT", "/v1/admin/collections/things"): _send("PUT", "/v1/admin/collections/things", b"", {}, 202),
    ("DELETE", "/v1/admin/collections/things"): _send("DELETE", "/v1/admin/collections/none", b"", {}, 404),
    ("POST", "/v1/admin/collections/things/snapshots"): _send(
        "POST", "/v1/admin/collections/none/snapshots", b"", {}, 404
    ),
    ("GET", "/v1/admin/collections/things/history"): _get("/v1/admin/collections/things/history"),
    ("POST", "/v1/admin/collections/things/restores"): _send(
        "POST", "/v1/admin/collections/things/restores", b'{"into":"x","at":"%b"}' % (b"0" * 4000), JSON, 400
    ),
    ("POST", "/v1/admin/collections/things/verifications"): _send(
        "POST", "/v1/admin/collections/none/verifications", b"", {}, 404
    ),
    ("POST", "/v1/admin/verifications"): _send("POST", "/v1/admin/verifications", b"", {}, 202),
    ("GET", "/v1/admin/tasks"): _get("/v1/admin/tasks"),
    ("DELETE", "/v1/admin/tasks/ID"): _send("DELETE", "/v1/admin/tasks/none", b"", {}, 404),
    ("GET", "/v1/admin/settings"): _get("/v1/admin/settings"),
    ("GET", "/v1/admin/access"): _get("/v1/admin/access"),
    ("POST", "/v1/admin/access/explain"): _send(
        "POST", "/v1/admin/access/explain", b'{"shape":"things","claims":%b}' % EMPTY_LISTS[:60_000], JSON, 400
    ),
    ("GET", "/"): _get("/"),
    ("GET", "/try"): _get("/try"),
    ("GET", "/docs"): _get("/docs"),
    ("GET", "/assets/NAME"): _get("/assets/client.js"),
    ("GET", "/openapi.json"): _get("/openapi.json"),
}


async def grow(client: Client, things: AsyncCollection[dict[str, Any]]) -> None:
    """Make a document of the most values, one of the most JSON (58 MB, of control characters), and large ones.

    The first has 600,000 lists in 8 MB. With a change, its images are just below MongoDB's limit: above it the worker
    reads the collection, which is dear, and no work of a server. What the API need not make is inserted directly.
    """
    await client.ask("PUT", f"{DOCUMENTS}/big", 201, content=b'{"x":%b}' % EMPTY_LISTS, headers=JSON)
    await things.insert_one({"_id": "control", "x": "\x01" * 9_700_000})
    await things.insert_many([{"_id": f"wide{number}", "x": "x" * 1_000_000} for number in range(16)])
    await things.insert_one({"_id": "moved", "x": [[0]] * 100_000})
    copy = orjson.dumps([{"op": "copy", "from": "/x", "path": "/y"}])
    await client.ask("PATCH", f"{DOCUMENTS}/big", content=copy, headers=PATCH | {"prefer": "return=minimal"})


async def is_grown(client: Client) -> bool:
    """Return True if all events of the large document are in the log."""
    answer = await client.http.get(f"{DOCUMENTS}/big/events?after_version=1")
    return len(answer.json().get("events", ())) == 1
