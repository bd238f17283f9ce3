"""A task and a queue for each WebSocket client: what one writes so that no client waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from starlette.websockets import WebSocket, WebSocketDisconnect


class Queues:
    """`endpoint` serves a client; `put` gives all of them texts to send."""

    def __init__(self, greeting: Callable[[], bytes]) -> None:
        """`greeting` makes a client's first message."""
        self._greeting = greeting
        self._queues: set[asyncio.Queue[str]] = set()

    def put(self, texts: Iterable[str]) -> None:
        """Never waits."""
        listed = list(texts)
        for queue in self._queues:
            for text in listed:
                queue.put_nowait(text)

    async def endpoint(self, websocket: WebSocket) -> None:
        """From handshake to close."""
        await websocket.accept()
        await websocket.receive_text()
        queue = asyncio.Queue[str]()
        queue.put_nowait(self._greeting().decode())
        self._queues.add(queue)
        sending = asyncio.create_task(_send(websocket, queue))
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            return
        finally:
            self._queues.discard(queue)
            sending.cancel()


async def _send(websocket: WebSocket, queue: asyncio.Queue[str]) -> None:
    while True:
        await websocket.send_text(await queue.get())
