"""The HTTP port of a worker: `/healthz`, `/readyz` and `/metrics`, and nothing else.

Each connection has one request, a few seconds for it, and one answer. The web framework and its server are a server's:
a worker does without their memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

import orjson

from eventsync.errors import ConfigurationError
from eventsync.metrics.figures import CONTENT_TYPE
from eventsync.settings import Settings
from eventsync_workers.monitoring.door import Door
from eventsync_workers.monitoring.figures import WorkerFigures

logger = logging.getLogger(__name__)

_HEAD_BYTES: Final = 16 * 1024
_TIMEOUT: Final = 10.0
"""Seconds for a request and its answer together."""

_MAX_CONNECTIONS: Final = 32
"""Most connections at a time. One more closes the one that has kept us waiting for its request the longest."""

_JSON: Final = "application/json"


class WorkerPort:
    """Answers requests about a worker."""

    def __init__(self, settings: Settings, figures: WorkerFigures) -> None:
        self._settings = settings
        self._figures = figures
        self._open = 0
        self._waiting: dict[asyncio.StreamWriter, None] = {}
        """The connections that have sent no whole request yet, the oldest first."""
        self.door = Door(settings)
        self.port = 0
        """The port that is listened on; 0 while there is none."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listen while the block runs, if the settings say so. Raises `ConfigurationError`."""
        host, port = self._settings.worker_host, self._settings.worker_port
        if port is None:
            yield
            return
        try:
            server = await asyncio.start_server(self._connected, host, port, limit=_HEAD_BYTES)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(f"the worker can't listen on {host} port {port}: {reason}") from error
        self.port = server.sockets[0].getsockname()[1]
        logger.info("the worker's metrics are on http://%s:%d", f"[{host}]" if ":" in host else host, self.port)
        measuring = asyncio.create_task(self._figures.lag.measure(), name="measure the event loop")
        try:
            yield
        finally:
            measuring.cancel()
            self.port = 0
            server.close()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        self._waiting[writer] = None
        # Otherwise a few silent connections would keep out the probes, and a supervisor would end this process.
        if self._open > _MAX_CONNECTIONS:
            next(iter(self._waiting)).transport.abort()
        try:
            async with asyncio.timeout(_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                del self._waiting[writer]
                writer.write(await self._answer(head.decode("latin-1")))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # such a request gets no answer
        finally:
            self._open -= 1
            self._waiting.pop(writer, None)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, head: str) -> bytes:
        line, *lines = head.split("\r\n")
        words = line.split(" ")
        fields = {name.strip().lower(): value.strip() for name, _, value in (text.partition(":") for text in lines)}
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        method, path = words[0], words[1].partition("?")[0]
        if path not in {"/healthz", "/readyz", "/metrics"}:
            return _response(HTTPStatus.NOT_FOUND)
        if method not in {"GET", "HEAD"}:
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, headers="Allow: GET, HEAD\r\n")
        # As at a server's door: no page of another site learns even the status.
        if "origin" in fields:
            return _response(HTTPStatus.FORBIDDEN)
        return await self._known(path, fields.get("authorization"), has_body=method == "GET")

    async def _known(self, path: str, authorization: str | None, *, has_body: bool) -> bytes:
        if path == "/healthz":
            return _response(HTTPStatus.OK, b'{"status":"ok"}', _JSON, has_body=has_body)
        if path == "/readyz":
            state = self._figures.state
            status = HTTPStatus.SERVICE_UNAVAILABLE if state == "waiting" else HTTPStatus.OK
            body = {"status": "not_ready" if state == "waiting" else "ready", "state": state}
            return _response(status, orjson.dumps(body), _JSON, has_body=has_body)
        status = await self.door.check(authorization)
        if status is not HTTPStatus.OK:
            challenge = "WWW-Authenticate: Bearer\r\n" if status is HTTPStatus.UNAUTHORIZED else ""
            return _response(status, headers=challenge)
        return _response(status, self._figures.figures().text(), CONTENT_TYPE, has_body=has_body)


def _response(
    status: HTTPStatus, body: bytes | None = None, media_type: str = "text/plain", *, headers: str = "",
    has_body: bool = True,
) -> bytes:  # fmt: skip
    body = f"{status.value} {status.phrase}\n".encode() if body is None else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{headers}Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
