"""uvicorn, with what a sync server needs besides: sessions are drained before the shutdown.

uvicorn waits at shutdown until every response is complete, which an event stream never is.
"""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from eventsync.errors import EventsyncError
from eventsync.server.acceptor import Acceptor
from eventsync.server.http_protocol import HttpProtocol
from eventsync.server.limits import Config, ConnectionLimits, tune
from eventsync.server.sockets import BACKLOG, listening
from eventsync.server.websocket_protocol import WebSocketProtocol
from eventsync.settings import Settings

logger = logging.getLogger(__name__)

SAFETY_HEADERS: Final = (("X-Content-Type-Options", "nosniff"), ("Cross-Origin-Resource-Policy", "same-origin"))
"""Headers of every answer: no browser takes one for a script, or gives it to another site's page but by CORS."""

_MESSAGE_MARGIN: Final = 4
"""uvicorn cuts messages of this many times our limit itself (1009); below, the client gets our own close code."""


class Server(uvicorn.Server):
    """A uvicorn server that says goodbye to its clients before it waits for them."""

    def __init__(
        self,
        config: Config,
        drain: Callable[[], Awaitable[None]],
        live: Callable[[], Awaitable[object]],
        *,
        patience: float,
    ) -> None:
        """`drain` says goodbye, and takes `timeout_graceful_shutdown` at most; `live` waits for the log.

        `patience`: how long what is sent may go unacknowledged, in seconds.
        """
        super().__init__(config)
        self._options = config
        self._patience = patience
        self._acceptors: list[Acceptor] = []
        self._url = ""
        self._drain = drain
        self._live = live
        self.ready = asyncio.Event()
        """Set once the server listens; never, where it could not start."""
        self.failure: EventsyncError | None = None
        """Why the server has to stop, if it does by itself."""
        self.told_to_end = False
        """Whether a signal has told the process to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Shut down in order; at once, where SIGINT comes again.

        uvicorn's own raises the signal again afterwards: a clean stop would end with exit code 143.
        """
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self.told_to_end = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        listeners = listening(self.config.host, self.config.port) if sockets is None else sockets
        self._url = _url(listeners[0])
        # Without any: uvicorn is not to accept by itself.
        await super().startup(sockets=[])
        if not self.started:
            return
        for listener in listeners:
            tune(listener, self._patience)
            listener.listen(BACKLOG)
            self._acceptors.append(Acceptor(listener, self._protocol))
        logger.info("listening on %s", self.url)
        self.ready.set()

    def _protocol(self) -> asyncio.Protocol:
        return HttpProtocol(
            config=self._options,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )

    async def serving(self) -> None:
        """Wait until clients can be served: the server listens, and follows the log."""
        await self.ready.wait()
        await self._live()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - they are accepted from
        for acceptor in self._acceptors:
            acceptor.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + (self.config.timeout_graceful_shutdown or 0)
        # One bound for the goodbye and for what is still being answered; uvicorn's own stands behind it.
        cutting = loop.call_at(end, self._cut_all)
        await self._drain()
        self.config.timeout_graceful_shutdown = 1 + max(0, math.ceil(end - loop.time()))
        await super().shutdown()
        cutting.cancel()

    def _cut_all(self) -> None:
        if self.server_state.connections:
            logger.warning("%d connections are cut: they did not end in time", len(self.server_state.connections))
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @property
    def url(self) -> str:
        """Where the server listens, once it has started."""
        return self._url


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_config(app: ASGIApp, settings: Settings) -> Config:
    """uvicorn's options for this application."""
    return Config(
        app,
        limits=ConnectionLimits.of(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=_MESSAGE_MARGIN * settings.message_bytes,
        # A bomb of 194 KB unpacks to 200 MB, and a compressor costs every connection 30 KiB.
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=settings.heartbeat,
        timeout_keep_alive=round(settings.keep_alive),
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(settings.trusted_proxies),
        # On all that goes out: also what the protocols answer by themselves, before the application hears of it.
        headers=list(SAFETY_HEADERS),
    )
