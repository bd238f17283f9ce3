"""`python -m scripts.bench.peers.twin PORT URI DATABASE`: the naive server's better twin, one change stream for all.

Each change is encoded once, and put into a queue per client; no client waits for another. There is still no position,
no bound, and a looked-up document.
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
    queues: set[asyncio.Queue[str]] = set()
    client: AsyncMongoClient[Any] = AsyncMongoClient(uri)

    async def send(websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
        while True:
            await websocket.send_text(await queue.get())

    async def sync(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        queue = asyncio.Queue[str]()
        queue.put_nowait(frames.live(0).decode())
        queues.add(queue)
        sending = asyncio.create_task(send(websocket, queue))
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            return
        finally:
            queues.discard(queue)
            sending.cancel()

    async def watch() -> None:
        seq = 0
        async with await client[database][SHAPE].watch(full_document="updateLookup") as stream:
            async for change in stream:
                seq += 1
                text = frames.created(seq, change["fullDocument"]).decode()
                for queue in queues:
                    queue.put_nowait(text)

    async with client, serving(sync, port):
        watching = asyncio.create_task(watch())
        await told_to_end()
        watching.cancel()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
