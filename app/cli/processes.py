"""`eventsync serve`, and the processes that other packages add: `eventsync worker`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Final

import typer

from app import event_loop
from app.cli.options import Collections, Database, Host, MongodbUri, Port
from app.errors import ConfigurationError, Unavailable
from app.listening import listening
from app.logs import configure_logging
from app.main import serve as run_server
from app.reloading import Reread, ignore_hangups
from app.settings import PREFIX, Settings, load_settings
from app.stores.deployment import check
from app.stores.objects import Objects
from app.supervision.server_processes import ServerPlan, ServerProcesses

log = logging.getLogger(__name__)

GROUP: Final = "eventsync.commands"
"""Entry points `(settings: Settings, reread: Reread) -> None` that run until SIGTERM or SIGINT.

At SIGHUP they start again, in place, with the settings that `reread` returns.
"""


def serve(
    host: Host = None,
    port: Port = None,
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Server processes that share the port.")
    ] = 1,
    listen_fds: Annotated[str | None, typer.Option(hidden=True)] = None,
    ready_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve HTTP, WebSocket and SSE until SIGTERM or Ctrl-C. Where MongoDB is not there yet, wait for it.

    Several processes are kept running by this one; SIGHUP replaces them, one after the other, with the settings as they
    are then. One alone starts again in place.
    """
    ignore_hangups()
    options = {"host": host, "port": port, "mongodb_uri": mongodb_uri, "database": database}
    reread = partial(_read, options)
    settings = reread()
    configure_logging(settings.log_level)
    if listen_fds is not None:
        sockets = [socket.socket(fileno=int(number)) for number in listen_fds.split(",")]
    else:
        # Found out here, what is wrong is one line; found out inside uvicorn, a traceback.
        sockets = listening(settings.host, settings.port, reuse_port=settings.reuse_port)
    with ExitStack() as listeners:
        for listener in sockets:
            listeners.enter_context(listener)
        try:
            event_loop.run(check(settings, "serve"))
        except Unavailable as error:
            log.warning("%s; serving, and waiting for it", error.diagnosis)
        if workers > 1:
            asyncio.run(ServerProcesses(_plan(settings, options, sockets), workers).run())
        else:
            run_server(settings, sockets, reread=reread, on_serving=partial(_tell, ready_fd))


def _read(options: dict[str, Any]) -> Settings:
    """Read the settings, and refuse at once what only a store would refuse later."""
    settings = load_settings(Settings, **options)
    Objects.of(settings.archive_url)
    return settings


def _plan(settings: Settings, options: dict[str, Any], sockets: list[socket.socket]) -> ServerPlan:
    # -P: a package `app` in the current directory is the user's, not ours.
    command = (sys.executable, "-P", "-m", "app", "serve")
    # By environment, where a URI's password is not on view. Whatever is not given is read again by each process.
    given = options | {"host": settings.host, "port": sockets[0].getsockname()[1]}
    texts = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items() if value is not None}
    return ServerPlan(command, os.environ | texts, sockets, settings.drain_timeout, settings.ready_timeout)


def _tell(descriptor: int | None) -> None:
    if descriptor is not None:
        # Nobody is there any more: then this process is told to end, too.
        with suppress(BrokenPipeError):
            os.write(descriptor, b"serving\n")


def add_to(commands: typer.Typer) -> None:
    """Add `serve`, and a command for each entry point, which is imported only when it is run."""
    commands.command("serve")(serve)
    for entry in entry_points(group=GROUP):
        commands.command(entry.name, help=_help(entry))(_command(entry))


def _help(entry: EntryPoint) -> str:
    what = "Turn committed changes into events" if entry.name == "worker" else f"Run {entry.value}"
    return f"{what} until SIGTERM or Ctrl-C."


def _command(entry: EntryPoint) -> Callable[..., None]:
    def run(mongodb_uri: MongodbUri = None, database: Database = None, collections: Collections = None) -> None:
        ignore_hangups()
        reread = partial(_read, {"mongodb_uri": mongodb_uri, "database": database, "collections": collections})
        settings = reread()
        configure_logging(settings.log_level)
        _load(entry)(settings, reread)

    return run


def _load(entry: EntryPoint) -> Callable[[Settings, Reread], None]:
    try:
        loaded: Callable[[Settings, Reread], None] = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the command {entry.name!r} can't be loaded from {entry.value}: {error}") from error
    return loaded
