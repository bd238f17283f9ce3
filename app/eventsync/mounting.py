"""eventsync below a path of another ASGI application, under any ASGI server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote, unquote

from starlette.datastructures import MutableHeaders
from starlette.routing import Router
from starlette.types import Message, Receive, Scope, Send

from eventsync.api.origins import is_address, refuse
from eventsync.api.state import Services
from eventsync.application import HEAD_START, create_app
from eventsync.domain.access.auth import is_loopback
from eventsync.errors import EventsyncError, Unavailable
from eventsync.nodestorage import NodeStorage
from eventsync.process.termination import on_termination
from eventsync.server.uvicorn_server import SAFETY_HEADERS
from eventsync.settings import Settings, load_settings

logger = logging.getLogger(__name__)

_NOT_STARTED: Final = (
    "eventsync.asgi() is mounted but does not run: start it in the lifespan of the host application, "
    "for instance by Starlette(lifespan=sync.lifespan, ...) or FastAPI(lifespan=sync.lifespan)"
)
_EXPOSED: Final = (
    "no [auth] has been applied, and this connection comes from beyond loopback "
    "(EVENTSYNC_ALLOW_UNAUTHENTICATED=true serves everybody)"
)
_LONGEST_ESCAPE: Final = 12
"""Bytes that a character of a path has at most: four in UTF-8, each as `%XX`."""


class MountedApplication:
    """An ASGI application that serves eventsync below a path of a host application.

    The host's lifespan starts and stops it: `lifespan` is an async context manager for that. A request that comes
    before raises `RuntimeError`.
    """

    def __init__(self, settings: Settings) -> None:
        self._application = create_app(settings, on_failure=self._fail, head_start=HEAD_START)
        self._state: Mapping[str, Any] | None = None
        self._failure: EventsyncError | None = None

    @asynccontextmanager
    async def lifespan(self, _host: object = None) -> AsyncIterator[None]:
        """Serve while the block runs; at its end, say goodbye to all sessions and stop.

        Accepts the host application as an argument, so that a host without a lifespan of its own can take this one.

        An ASGI server ends the lifespan only once all responses are complete, which an event stream never is. For that
        reason SIGINT and SIGTERM begin the goodbye already, before the server's own handler for them runs.
        """
        if self._state is not None:
            raise RuntimeError("this eventsync.asgi() application runs already")
        self._failure = None
        async with self._application.router.lifespan_context(self._application) as state:
            self._state = state or {}
            ending = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._drain_at(ending), name="say goodbye to all sessions")
                try:
                    with on_termination(ending.set):
                        yield
                finally:
                    ending.set()
            self._state = None

    async def _drain_at(self, ending: asyncio.Event) -> None:
        await ending.wait()
        await self.drain()

    async def drain(self) -> None:
        """Say goodbye to every session; new ones end at once. Return when all have ended, or after the drain timeout.

        Await it before the server stops, in a host whose server is stopped by something else than a signal.
        """
        await self._services.sync.drain()

    @property
    def storage(self) -> NodeStorage:
        """The versioned storage, for the host's own endpoints. Raises `RuntimeError` outside of the lifespan."""
        return self._services.storage

    @property
    def _services(self) -> Services:
        if self._state is None:
            raise RuntimeError(_NOT_STARTED)
        services: Services = self._state["services"]
        return services

    def _is_exposed(self, scope: Scope) -> bool:
        """Return True for a connection beyond loopback while no `[auth]` has been applied, unless a setting allows it.

        The host application decides where it listens, so that is known only of a connection.
        """
        services = self._services
        if services.access.open_access is None or services.settings.allow_unauthenticated:
            return False
        address = (scope.get("server") or ("", None))[0]
        return is_address(address) and not is_loopback(address)

    def _fail(self, error: EventsyncError) -> None:
        logger.critical("eventsync serves nothing from now on: %s", error.diagnosis)
        self._failure = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # It is mounted nowhere: a server runs it by itself.
            await Router(lifespan=self.lifespan).lifespan(scope, receive, send)
        elif self._state is None:
            raise RuntimeError(_NOT_STARTED)
        elif self._failure is not None:
            await refuse(Unavailable("eventsync has failed here; the log has the reason"), scope, receive, send)
        elif self._is_exposed(scope):
            await refuse(Unavailable(_EXPOSED, retry_after=10.0), scope, receive, send)
        else:
            # The host's own scope stays as it is.
            own = {**scope, **_paths(scope), "state": self._state}
            await self._application(own, receive, send if scope["type"] == "websocket" else _with_safety_headers(send))


def _paths(scope: Scope) -> dict[str, Any]:
    """Return `root_path`, and `path` and `raw_path` that begin with it.

    They do not where a proxy has removed the path that the host application knows as its own root path.
    """
    path, mount = scope["path"], scope.get("root_path", "").rstrip("/")
    inner = mount.removeprefix(scope.get("app_root_path", "").rstrip("/"))
    prefix = next((prefix for prefix in (mount, inner) if _is_below(path, prefix)), "")
    found = {"root_path": mount, "path": mount + path[len(prefix) :]}
    if raw := scope.get("raw_path"):
        found["raw_path"] = quote(mount).encode() + _raw_below(raw, prefix)
    return found


def _is_below(path: str, prefix: str) -> bool:
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in {"", "/"}


def _raw_below(raw: bytes, prefix: str) -> bytes:
    """Return what follows the decoded `prefix` in a percent-encoded path."""
    for end in range(len(prefix), min(len(raw), _LONGEST_ESCAPE * len(prefix)) + 1):
        if raw[end : end + 1] in {b"", b"/"} and unquote(raw[:end].decode("latin-1")) == prefix:
            return raw[end:]
    return raw


def _with_safety_headers(send: Send) -> Send:
    """Add the headers that our own server adds to every answer."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SAFETY_HEADERS:
                headers.setdefault(name, value)
        await send(message)

    return sent


def asgi(settings: Settings | None = None) -> MountedApplication:
    """Make an application that serves eventsync below a path of a Starlette, FastAPI or other ASGI application.

    Without `settings` they are read as `eventsync serve` reads them, from the environment and the configuration file.
    """
    return MountedApplication(load_settings(Settings) if settings is None else settings)
