"""`eventsync dev`: runs MongoDB, a worker and a server with one command."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from eventsync.cli.options import Collections, Database, Host, MongodbUri, Port
from eventsync.dev import mongod
from eventsync.dev.data_dir import opened
from eventsync.dev.port import check_port
from eventsync.dev.supervisor import Supervisor
from eventsync.dev.terminal import Terminal
from eventsync.settings import DevSettings, load_settings


def dev(
    host: Host = None,
    port: Port = None,
    data_dir: Annotated[
        Path, typer.Option(help="Directory of mongod's data and log.", file_okay=True, metavar="DIRECTORY")
    ] = Path(".eventsync"),
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    collections: Collections = None,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Load and track the demo collection.")] = True,
) -> None:
    """Run MongoDB, a worker and a server until Ctrl-C. The data is kept."""
    options = {"host": host, "port": port, "mongodb_uri": mongodb_uri, "database": database, "collections": collections}
    settings = load_settings(DevSettings, **options)
    # All checks come first, so that nothing is started in vain.
    free = check_port(settings.host, settings.port)
    settings = settings.model_copy(update={"port": free})
    with opened(data_dir) as directory:
        binary = None
        if settings.mongodb_uri is None:
            binary = mongod.find_mongod()
            mongod.check_runs(binary)
        supervisor = Supervisor(settings, directory, Terminal(), binary=binary, demo=demo)
        asyncio.run(supervisor.run())
