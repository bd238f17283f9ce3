"""`eventsync migrate`: raises the recorded versions of the stored formats to those of this version of eventsync."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eventsync import __version__
from eventsync.cli.console import OUT, print_json, print_table
from eventsync.cli.options import Database, Json, MongodbUri
from eventsync.process import event_loop
from eventsync.settings import Settings, load_settings
from eventsync.stores.formats import FORMATS, FormatStore, Step
from eventsync.stores.readiness import connected


def migrate(
    mongodb_uri: MongodbUri = None,
    database: Database = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing. Exit code 1 if there is something to do.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Raise the versions of the stored formats after an upgrade.

    Call it when all servers and workers run the new version: older ones end, with exit code 65, and do not start any
    more. Until then the new version writes what the old one reads.
    """
    steps = event_loop.run(_migrate(load_settings(mongodb_uri=mongodb_uri, database=database), check=check))
    if as_json:
        print_json({"done": not check, "steps": [asdict(step) for step in steps]})
    elif steps:
        rows = [[step.name, _text(step.before), str(step.after), FORMATS[step.name].meaning] for step in steps]
        print_table(["format", "recorded", "to be recorded" if check else "recorded now", "of"], rows)
        if all(step.after == FORMATS[step.name].oldest for step in steps):
            OUT.print("what is stored stays as it is", markup=False)
    else:
        OUT.print(f"nothing to do: what is stored has the formats of eventsync {__version__}", markup=False)
    if check and steps:
        raise typer.Exit(1)


async def _migrate(settings: Settings, *, check: bool) -> list[Step]:
    async with connected(settings, "migrate") as client:
        formats = FormatStore(client[settings.log_db])
        return await formats.pending() if check else await formats.migrate()


def _text(version: int | None) -> str:
    return "-" if version is None else str(version)
