"""`python -m scripts.bench.peers.naive PORT URI DATABASE`: the server of an afternoon, a change stream per client.

What most begin with. No position, so nothing after a disconnect; a looked-up document, so not what the change made of
it; and each client costs MongoDB a cursor, a connection, and every change again.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from pymongo import AsyncMongoClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from scripts.bench.crowd.client import SHAPE
from scripts.bench.peers import frames
from scripts.bench.peers.starlette_server import serving, told_to_end


async def main(port: int, uri: str, database: str) -> None:
    """Until the end of the input."""
    client: AsyncMongoClient[Any] = AsyncMongoClient(uri, maxPoolSize=0)
    docs = client[database][SHAPE]

    async def follow(websocket: WebSocket) -> None:
        async with await docs.watch(full_document="updateLookup") as stream:
            await websocket.send_text(frames.live(0).decode())
            seq = 0
            async for change in stream:
                seq += 1
                await websocket.send_text(frames.created(seq, change["fullDocument"]).decode())

    async def sync(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        following = asyncio.create_task(follow(websocket))
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            return
        finally:
            following.cancel()

    async with client, serving(sync, port):
        await told_to_end()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
