"""The command line: `eventsync`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from app import __version__
from app.cli import (
    dev,
    diff,
    history,
    processes,
    reset_log,
    restore,
    settings,
    snapshot,
    status,
    tail,
    track,
    untrack,
    verify,
)
from app.errors import ConfigurationError, EventsyncError


class _Commands(TyperGroup):
    """Turns what a command raises on purpose into one line on stderr and an exit code."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # typer's own Context is click's
        try:
            return super().invoke(ctx)
        except EventsyncError as error:
            typer.echo(f"eventsync: {' '.join(error.diagnosis.split())}", err=True)
            raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from error


commands = typer.Typer(
    name="eventsync",
    cls=_Commands,
    help="A sync server for MongoDB: every committed change, to every client, exactly once and in order.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eventsync {__version__}")
        raise typer.Exit


@commands.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A sync server for MongoDB: every committed change, to every client, exactly once and in order."""


commands.command("dev")(dev.dev)
processes.add_to(commands)
commands.command("track")(track.track)
commands.command("untrack")(untrack.untrack)
commands.command("status")(status.status)
commands.command("tail")(tail.tail)
commands.command("history")(history.history)
commands.command("diff")(diff.diff)
commands.command("restore")(restore.restore)
commands.command("snapshot")(snapshot.snapshot)
commands.command("verify")(verify.verify)
commands.command("reset-log")(reset_log.reset_log)
commands.command("settings")(settings.settings)


def main() -> None:
    """The console script. What it makes, and what its children make, is for this user alone."""
    os.umask(0o077)
    try:
        sys.exit(commands(prog_name="eventsync"))
    except KeyboardInterrupt:
        sys.exit(130)
