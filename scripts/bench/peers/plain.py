"""`python -m scripts.bench.peers.plain PORT`: Starlette on uvicorn, written well: a task and a queue per client.

The message is encoded once for all; no client waits for another; uvicorn has its fastest WebSocket protocol, its C
parser and uvloop, and no compression.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import uvloop
from starlette.websockets import WebSocket, WebSocketDisconnect

from scripts.bench.peers import frames
from scripts.bench.peers.driver import Driver
from scripts.bench.peers.starlette_server import serving


async def main(port: int) -> None:
    """Until the end of the input."""
    queues: set[asyncio.Queue[str]] = set()

    def broadcast(messages: Sequence[bytes]) -> None:
        texts = [message.decode() for message in messages]
        for queue in queues:
            for text in texts:
                queue.put_nowait(text)

    driver = Driver(broadcast)

    async def send(websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
        while True:
            await websocket.send_text(await queue.get())

    async def sync(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()
        queue = asyncio.Queue[str]()
        queue.put_nowait(frames.live(driver.head).decode())
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

    async with serving(sync, port):
        await driver.obey()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
