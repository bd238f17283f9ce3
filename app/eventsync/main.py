"""The server process: an application, a uvicorn server for it, and the signals that end or restart it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

from eventsync.application import HEAD_START, create_app
from eventsync.errors import EventsyncError, Unavailable
from eventsync.logging import configure_logging
from eventsync.process import event_loop
from eventsync.process.garbage_collection import collect_rarely
from eventsync.process.memory import return_free_memory
from eventsync.process.open_files import allow_sockets
from eventsync.reload import Reread, hangups_heard
from eventsync.server.uvicorn_server import Server, server_config
from eventsync.settings import Settings
from eventsync.tracing.process import require as require_tracing


def make_server(settings: Settings, *, head_start: float = 0.0, figures: Path | None = None) -> Server:
    """Make a server. It drains its sessions before it shuts down. `figures`: see `create_app`."""

    async def drain() -> None:
        await app.state.sync.drain()

    async def live() -> None:
        await app.state.sync.feed.followed.wait()

    def fail(reason: EventsyncError) -> None:
        server.failure = reason
        server.should_exit = True

    app = create_app(settings, on_failure=fail, head_start=head_start, figures=figures)
    config = server_config(app, settings)
    app.state.monitoring.limits = config.limits
    server = Server(config, drain, live, ack_timeout=settings.send_timeout)
    return server


def serve(
    settings: Settings,
    sockets: list[socket.socket],
    *,
    reread: Reread,
    on_serving: Callable[[], None] = lambda: None,
    figures: Path | None = None,
) -> None:
    """Run a server on `sockets` until SIGTERM or SIGINT. SIGHUP replaces it by another server in the same process.

    Clients that connect in between wait until the new server accepts. `on_serving` is called once clients can be
    served. `figures` is the directory in which server processes share their metrics. Raises the error that keeps a
    server from starting or running.
    """
    collect_rarely(waited_for=True)
    return_free_memory()
    event_loop.run(_serve_on(settings, sockets, reread, on_serving, figures))


async def _serve_on(
    settings: Settings,
    sockets: list[socket.socket],
    reread: Reread,
    on_serving: Callable[[], None],
    figures: Path | None,
) -> None:
    following: list[Settings] = [settings]

    def restart(new: Settings) -> None:
        following[:] = [new]
        server.should_exit = True

    async with hangups_heard("serve", reread, restart):
        while following:
            current = following.pop()
            configure_logging(current.log_level, current.log_format)
            if current.tracing:
                require_tracing()  # here, where it is one line; the application would raise it in the middle of a start
            allow_sockets(current.max_sockets)
            server = make_server(current, head_start=HEAD_START, figures=figures)
            # The server gets copies: the sockets themselves keep listening between one server and the next.
            await _serve(server, [listener.dup() for listener in sockets], on_serving)
            _check_ended(server)
            if server.ended_by_signal:
                return


def _check_ended(server: Server) -> None:
    if server.failure is not None:
        raise server.failure
    if not server.started:
        raise Unavailable("the server did not start; its log has the reason")


async def _serve(server: Server, sockets: list[socket.socket], on_serving: Callable[[], None]) -> None:
    async def announce() -> None:
        await server.serving()
        on_serving()

    async with asyncio.TaskGroup() as group:
        announcing = group.create_task(announce(), name="announce that clients are served")
        await server.serve(sockets)
        announcing.cancel()
