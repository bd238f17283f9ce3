"""A Starlette application of a WebSocket endpoint and other routes on uvicorn, set up as well as it can be.

uvicorn has its fastest WebSocket protocol, its C parser and uvloop; there is no compression, and no access log.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

_LOOK = 0.01


@asynccontextmanager
async def serving(endpoint: Callable[[WebSocket], Awaitable[None]], port: int, *routes: Route) -> AsyncIterator[None]:
    """It listens while the block runs."""
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


async def told_to_end() -> None:
    """Say that it listens to whoever asks by a line, until the end of the input."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for _ in reader:
        sys.stdout.write("{}\n")
        sys.stdout.flush()
