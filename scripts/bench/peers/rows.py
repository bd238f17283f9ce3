"""`python -m scripts.bench.peers.rows PORT URI DATABASE WAY`: a log's events are read, and sent to who asks for them.

`rows`: each is a document that is decoded, encoded as JSON, and sent by itself, as one writes it first. `bodies`: what
was stored as JSON is only joined and sent, five hundred at a time: the least that reading a log from MongoDB takes.
Clients are expected to have nothing.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson
import uvloop
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from starlette.websockets import WebSocket, WebSocketDisconnect

from scripts.bench.crowd.client import SHAPE
from scripts.bench.peers import frames
from scripts.bench.peers.starlette_server import serving, told_to_end

_BATCH = 500


async def _rows(log: AsyncCollection[Any], after: int, websocket: WebSocket) -> int:
    seq = after
    async for event in log.find({"_id": {"$gt": after}}).sort("_id"):
        seq = event["_id"]
        await websocket.send_text(frames.created(seq, event["doc"]).decode())
    return seq


async def _bodies(log: AsyncCollection[Any], after: int, websocket: WebSocket) -> int:
    seq = after
    cursor = log.find({"_id": {"$gt": after}}, {"body": 1}, batch_size=_BATCH).sort("_id")
    async with cursor:
        while found := await cursor.to_list(_BATCH):
            first, seq = found[0]["_id"] - 1, found[-1]["_id"]
            await websocket.send_text(frames.joined(first, seq, [event["body"] for event in found]))
    return seq


async def main(port: int, uri: str, database: str, way: str) -> None:
    """Until the end of the input."""
    client: AsyncMongoClient[Any] = AsyncMongoClient(uri)
    log, read = client[database]["log"], {"rows": _rows, "bodies": _bodies}[way]

    async def sync(websocket: WebSocket) -> None:
        await websocket.accept()
        vector = orjson.loads(await websocket.receive_text())["vector"]
        after = int(vector[SHAPE].rpartition(":")[2])
        try:
            seq = await read(log, after, websocket)
            await websocket.send_text(frames.live(seq).decode())
            await websocket.receive_text()
        except WebSocketDisconnect:
            return

    async with client, serving(sync, port):
        await told_to_end()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
