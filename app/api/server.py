"""uvicorn, with what a sync server needs besides: sessions drained before the shutdown, slow clients put out.

uvicorn waits at shutdown until every response is complete, which an event stream never is; and its `send` waits without
a bound on a client that does not read. Each connection's ASGI scope carries what `evict` needs to end it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.errors import EventsyncError
from app.settings import Settings

log = logging.getLogger(__name__)

_EXTENSION = "eventsync.evict"
_LINGER = 2.0
"""Seconds that an evicted client gets to read what is on its way, before the connection is cut."""

_MESSAGE_MARGIN = 4
"""uvicorn cuts messages of this many times our limit itself (1009); below, the client gets our own close code."""


def evict(scope: Scope, code: int) -> None:
    """End the connection of `scope` now, whatever the client takes or not; `code` is said where it can be."""
    scope["extensions"][_EXTENSION](code)


def _cut(transport: asyncio.Transport) -> None:
    transport.close()
    asyncio.get_running_loop().call_later(_LINGER, transport.abort)


class _Http(HttpToolsProtocol):
    def on_message_begin(self) -> None:
        super().on_message_begin()
        extensions: dict[str, Any] = {_EXTENSION: self._evict}
        self.scope["extensions"] = extensions

    def _evict(self, _code: int) -> None:
        if self.cycle is not None:
            # What the application still sends goes nowhere, and that is no error of it.
            self.cycle.disconnected = True
        _cut(self.transport)


class _WebSocket(WebSocketsSansIOProtocol):
    async def run_asgi(self) -> None:
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[_EXTENSION] = self._evict
        await super().run_asgi()

    def _evict(self, code: int) -> None:
        if not self.close_sent and not self.transport.is_closing():
            self.conn.send_close(code)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        _cut(self.transport)


class Server(uvicorn.Server):
    """A uvicorn server that says goodbye to its clients before it waits for them."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._drain = drain
        self.ready = asyncio.Event()
        """Set once the server listens; never, where it could not start."""
        self.failure: EventsyncError | None = None
        """Why the server has to stop, if it does by itself."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("listening on %s", self.url)
            self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        await self._drain()
        await super().shutdown(sockets)

    @property
    def url(self) -> str:
        """Where the server listens, once it has started."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """uvicorn's options for this application."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=_Http,
        ws=_WebSocket,
        ws_max_size=_MESSAGE_MARGIN * settings.message_bytes,
        # A bomb of 194 KB unpacks to 200 MB, and a compressor costs every connection 30 KiB.
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=settings.heartbeat,
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
        log_config=None,
        access_log=False,
        server_header=False,
    )
