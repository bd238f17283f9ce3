"""`eventsync serve`, and the processes that other packages add: `eventsync worker`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import typer

from app.cli.options import Collections, Database, Host, MongodbUri, Port
from app.dev.port import check_port
from app.errors import ConfigurationError, Unavailable
from app.logs import configure_logging
from app.main import serve as run_server
from app.settings import Settings, load_settings
from app.stores.deployment import check

log = logging.getLogger(__name__)

GROUP: Final = "eventsync.commands"
"""Entry points `(settings: Settings) -> None` that run until SIGTERM or SIGINT."""


def serve(host: Host = None, port: Port = None, mongodb_uri: MongodbUri = None, database: Database = None) -> None:
    """Serve HTTP, WebSocket and SSE until SIGTERM or Ctrl-C. Where MongoDB is not there yet, wait for it."""
    settings = load_settings(host=host, port=port, mongodb_uri=mongodb_uri, database=database)
    configure_logging(settings.log_level)
    # Found out here, these are one line; found out inside uvicorn, a traceback.
    check_port(settings.host, settings.port)
    try:
        asyncio.run(check(settings, "serve"))
    except Unavailable as error:
        log.warning("%s; serving, and waiting for it", error.message)
    run_server(settings)


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
        settings = load_settings(mongodb_uri=mongodb_uri, database=database, collections=collections)
        configure_logging(settings.log_level)
        _load(entry)(settings)

    return run


def _load(entry: EntryPoint) -> Callable[[Settings], None]:
    try:
        loaded: Callable[[Settings], None] = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the command {entry.name!r} can't be loaded from {entry.value}: {error}") from error
    return loaded
