"""`eventsync serve`: runs one server process, or supervises several."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from eventsync.access.control import may_be_open, require_rules
from eventsync.cli.options import Database, Host, MongodbUri, Port
from eventsync.cli.processes import read
from eventsync.errors import Unavailable
from eventsync.logging import configure_logging
from eventsync.main import serve as run_server
from eventsync.metrics.shared import figures_directory
from eventsync.mongodb.client import connect
from eventsync.process import event_loop
from eventsync.reload import ignore_hangups
from eventsync.server.sockets import listening
from eventsync.server.supervision.server_processes import ServerProcesses, ServerSpec
from eventsync.settings import PREFIX, Settings
from eventsync.stores.readiness import check
from eventsync.stores.stores import Stores

logger = logging.getLogger(__name__)


def serve(
    host: Host = None,
    port: Port = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Number of server processes that share the port.")
    ] = 1,
    listen_fds: Annotated[str | None, typer.Option(hidden=True)] = None,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    figures: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve HTTP, WebSocket and SSE until SIGTERM or Ctrl-C. Wait for MongoDB if it is not available yet.

    With several server processes, this one supervises them. SIGHUP rereads the settings and replaces the processes one
    after another; a single process restarts in place.
    """
    ignore_hangups()
    options = {"host": host, "port": port, "mongodb_uri": mongodb_uri, "database": database}
    reread = partial(read, options)
    settings = reread()
    configure_logging(settings.log_level, settings.log_format)
    if listen_fds is not None:
        sockets = [socket.socket(fileno=int(number)) for number in listen_fds.split(",")]
    else:
        # An error here is one line; inside uvicorn it would be a traceback.
        sockets = listening(settings.host, settings.port, reuse_port=settings.reuse_port)
    with ExitStack() as listeners:
        for listener in sockets:
            listeners.enter_context(listener)
        try:
            event_loop.run(_check(settings))
        except Unavailable as error:
            logger.warning("%s; serving, and waiting for MongoDB", error.diagnosis)
        if workers > 1:
            with figures_directory() as directory:
                asyncio.run(ServerProcesses(_spec(settings, options, sockets, directory), workers).run())
        else:
            on_serving = partial(_report_ready, ready_fd)
            run_server(settings, sockets, reread=reread, on_serving=on_serving, figures=figures)


async def _check(settings: Settings) -> None:
    """Raise `ConfigurationError` for what waiting can't fix, and `Unavailable` if MongoDB can't be used yet."""
    await check(settings, "serve")
    if not may_be_open(settings):
        async with connect(settings, "serve") as client:
            require_rules(settings, (await Stores.of(client, settings).definitions.read()).rules)


def _spec(
    settings: Settings, options: dict[str, Any], sockets: list[socket.socket], figures: Path | None
) -> ServerSpec:
    # -P: a package `app` in the current directory is the user's, not ours.
    command: tuple[str, ...] = (sys.executable, "-P", "-m", "eventsync", "serve")
    if figures is not None:
        command = (*command, "--figures", str(figures))
    # In the environment, because a password in a command line is visible to all users. Each process reads the other
    # settings again.
    given = options | {"host": settings.host, "port": sockets[0].getsockname()[1]}
    texts = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items() if value is not None}
    return ServerSpec(command, os.environ | texts, sockets, settings.drain_timeout, settings.ready_timeout)


def _report_ready(descriptor: int | None) -> None:
    if descriptor is not None:
        # The supervisor has ended: then this process is about to get a signal.
        with suppress(BrokenPipeError):
            os.write(descriptor, b"serving\n")
