"""`python -m scripts.bench.peers.starlette PORT KIND [URI DATABASE]`: plain servers on Starlette and uvicorn.

`timer` sends events that it makes itself; `writes` takes merge patches and sends MongoDB's change stream; `rows` and
`bodies` send a log from a position on. uvicorn has its fastest WebSocket protocol, its C parser and uvloop; there is no
compression, and no access log. There is no version, no order between servers, and no bound.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import uvicorn
import uvloop
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from scripts.bench.clients.exactness import SHAPE
from scripts.bench.clients.processes import obey
from scripts.bench.peers import frames
from scripts.bench.peers.process import Listening, Timer

_LOOK = 0.01
_BATCH = 500

Endpoint = Callable[[WebSocket], Awaitable[None]]


@asynccontextmanager
async def _serving(endpoint: Endpoint, port: int, *routes: Route) -> AsyncIterator[None]:
    """Listen while the block runs."""
    config = uvicorn.Config(
        Starlette(routes=[WebSocketRoute("/v1/sync", endpoint), *routes]),
        port=port,
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="error",
        access_log=False,
        backlog=1024,
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(), name="serve")
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(_LOOK)
    try:
        yield
    finally:
        task.cancel()


class _Queues:
    """A task and a queue for each client, so that no client waits for another."""

    def __init__(self, greeting: Callable[[], bytes]) -> None:
        """`greeting` makes a client's first message."""
        self._greeting = greeting
        self._queues: set[asyncio.Queue[str]] = set()

    def put(self, message: bytes) -> None:
        """Send a message to all clients; it is decoded once. Never waits."""
        text = message.decode()
        for queue in self._queues:
            queue.put_nowait(text)

    async def endpoint(self, websocket: WebSocket) -> None:
        """Serve a client, from handshake to close."""
        await websocket.accept()
        await websocket.receive_text()
        queue = asyncio.Queue[str]()
        queue.put_nowait(self._greeting().decode())
        self._queues.add(queue)
        sending = asyncio.create_task(self._send(websocket, queue))
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            return
        finally:
            self._queues.discard(queue)
            sending.cancel()

    async def _send(self, websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
        while True:
            await websocket.send_text(await queue.get())


async def _timer(port: int) -> None:
    queues = _Queues(lambda: frames.live(timer.head))
    timer = Timer(queues.put)
    async with _serving(queues.endpoint, port):
        await obey(timer)


async def _writes(port: int, database: AsyncDatabase[Any]) -> None:
    """A PATCH is one `update_one`, majority and journaled; one change stream, without a look-up, is sent to all."""
    seq, watched = 0, asyncio.Event()
    queues = _Queues(lambda: frames.live(seq))
    docs = database.get_collection(SHAPE, write_concern=WriteConcern("majority", j=True))

    async def patch(request: Request) -> Response:
        number = int(request.path_params["id"].removeprefix("int:"))
        await docs.update_one({"_id": number}, {"$set": orjson.loads(await request.body())})
        return Response(status_code=204)

    async def watch() -> None:
        nonlocal seq
        async with await docs.watch() as stream:
            watched.set()
            async for change in stream:
                seq += 1
                if change["operationType"] == "insert":
                    message = frames.created(seq, change["fullDocument"])
                else:
                    fields = change["updateDescription"]["updatedFields"]
                    message = frames.changed(seq, change["documentKey"]["_id"], fields)
                queues.put(message)

    path = f"/v1/collections/{SHAPE}/documents/{{id}}"
    async with _serving(queues.endpoint, port, Route(path, patch, methods=["PATCH"])):
        watching = asyncio.create_task(watch(), name="watch")
        await watched.wait()
        await obey(Listening())
        watching.cancel()


async def _rows(log: AsyncCollection[Any], after: int, websocket: WebSocket) -> int:
    """Send each event by itself, decoded and encoded as JSON, as one writes it first."""
    seq = after
    async for event in log.find({"_id": {"$gt": after}}).sort("_id"):
        seq = event["_id"]
        await websocket.send_text(frames.created(seq, event["doc"]).decode())
    return seq


async def _bodies(log: AsyncCollection[Any], after: int, websocket: WebSocket) -> int:
    """Join what was stored as JSON, five hundred at a time: the least that reading a log from MongoDB takes."""
    seq = after
    async with log.find({"_id": {"$gt": after}}, {"body": 1}, batch_size=_BATCH).sort("_id") as cursor:
        while found := await cursor.to_list(_BATCH):
            first, seq = found[0]["_id"] - 1, found[-1]["_id"]
            await websocket.send_text(frames.joined(first, seq, [event["body"] for event in found]))
    return seq


async def _replay(port: int, database: AsyncDatabase[Any], kind: str) -> None:
    read = {"rows": _rows, "bodies": _bodies}[kind]

    async def sync(websocket: WebSocket) -> None:
        await websocket.accept()
        vector = orjson.loads(await websocket.receive_text())["vector"]
        try:
            seq = await read(database["log"], int(vector[SHAPE].rpartition(":")[2]), websocket)
            await websocket.send_text(frames.live(seq).decode())
            await websocket.receive_text()
        except WebSocketDisconnect:
            return

    async with _serving(sync, port):
        await obey(Listening())


async def main(port: int, kind: str, *place: str) -> None:
    """Run until the end of the input."""
    if kind == "timer":
        await _timer(port)
        return
    uri, name = place
    async with AsyncMongoClient[Any](uri) as client:
        await (_writes(port, client[name]) if kind == "writes" else _replay(port, client[name], kind))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
