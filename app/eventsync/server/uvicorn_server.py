"""uvicorn's server, with sessions that are drained before its shutdown.

At shutdown uvicorn waits until each response is complete, which an event stream never is.
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
"""Headers of every answer: browsers do not run it as a script, nor show it to another site's page except by CORS."""

_MESSAGE_MARGIN: Final = 4
"""uvicorn itself closes (1009) for messages of this many times our limit. Smaller ones get our own close code."""


class Server(uvicorn.Server):
    """A uvicorn server that drains its sessions before it waits for responses."""

    def __init__(
        self,
        config: Config,
        drain: Callable[[], Awaitable[None]],
        live: Callable[[], Awaitable[object]],
        *,
        ack_timeout: float,
    ) -> None:
        """`drain` drains the sessions within `timeout_graceful_shutdown`. `live` waits until the log is followed.

        Sent data may stay unacknowledged for `ack_timeout` seconds.
        """
        super().__init__(config)
        self._options = config
        self._ack_timeout = ack_timeout
        self._acceptors: list[Acceptor] = []
        self._url = ""
        self._drain = drain
        self._live = live
        self.ready = asyncio.Event()
        """Set once the server listens. It stays unset if the server could not start."""
        self.failure: EventsyncError | None = None
        """The reason why the server stops by itself."""
        self.ended_by_signal = False
        """True once a signal has asked the process to end."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Shut down in order; at once at a second SIGINT.

        uvicorn's own handler raises the signal again afterwards: a clean stop would end with exit code 143.
        """
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        self.ended_by_signal = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        listeners = listening(self.config.host, self.config.port) if sockets is None else sockets
        self._url = _url(listeners[0])
        # Without sockets uvicorn does not accept connections itself.
        await super().startup(sockets=[])
        if not self.started:
            return
        for listener in listeners:
            tune(listener, self._ack_timeout)
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - the acceptors have them
        # Listening ends first, so that no client that is sent away comes back to this server.
        for acceptor in self._acceptors:
            acceptor.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + (self.config.timeout_graceful_shutdown or 0)
        # One limit for the drain and for open requests; uvicorn's own limit is the fallback.
        cutting = loop.call_at(end, self._cut_all)
        await self._drain()
        self.config.timeout_graceful_shutdown = 1 + max(0, math.ceil(end - loop.time()))
        await super().shutdown()
        cutting.cancel()

    def _cut_all(self) -> None:
        if self.server_state.connections:
            logger.warning("%d connections are aborted: they did not end in time", len(self.server_state.connections))
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    @property
    def url(self) -> str:
        """The URL that the server listens at, once it has started."""
        return self._url


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_config(app: ASGIApp, settings: Settings) -> Config:
    """Return uvicorn's options for this application."""
    return Config(
        app,
        limits=ConnectionLimits.of(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=_MESSAGE_MARGIN * settings.message_bytes,
        # A compression bomb of 194 KB unpacks to 200 MB, and a compressor costs each connection 30 KiB.
        ws_per_message_deflate=False,
        ws_ping_interval=settings.heartbeat,
        ws_ping_timeout=settings.pong_timeout,
        timeout_keep_alive=round(settings.keep_alive),
        timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=list(settings.trusted_proxies),
        # On each answer, including those that the protocols give without the application.
        headers=list(SAFETY_HEADERS),
    )
