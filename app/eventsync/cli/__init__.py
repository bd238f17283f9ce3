"""The command line: `eventsync`."""

from __future__ import annotations

import importlib
import keyword
import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from eventsync import __version__
from eventsync.errors import ConfigurationError, EventsyncError
from eventsync.logging import finish_logging

__all__ = ["commands", "main"]

_OWN: Final = ("dev", "serve")
_FURTHER: Final = (
    "track",
    "untrack",
    "status",
    "clients",
    "tail",
    "history",
    "diff",
    "restore",
    "import",
    "snapshot",
    "verify",
    "reset-log",
    "rules",
    "keys",
    "token",
    "revoke",
    "settings",
    "doctor",
    "migrate",
)
"""Commands listed after those of other packages, in the help's order. Each is a function in a module of its name, or a
`typer.Typer` with commands of its own."""


_STYLE: Final[dict[str, Any]] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


class _Commands(TyperGroup):
    """Imports a command when it is needed, and turns an error of ours into one line and an exit code.

    All commands together take twice as long to import as the worker, which is restarted often.
    """

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # noqa: ARG002
        from eventsync.cli import processes  # noqa: PLC0415 - most commands do not need it

        return [*_OWN, *(entry.name for entry in processes.added()), *_FURTHER]

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
        if cmd_name not in self.commands:
            known = self.list_commands(ctx) if cmd_name not in {*_OWN, *_FURTHER} else [cmd_name]
            # For an unknown name the base class suggests a command, so it needs all of them.
            for name in [cmd_name] if cmd_name in known else known:
                self.commands.setdefault(name, _imported(name))
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # typer's own Context is click's
        try:
            return super().invoke(ctx)
        except EventsyncError as error:
            finish_logging()
            typer.echo(f"eventsync: {' '.join(error.diagnosis.split())}", err=True)
            raise typer.Exit(error.exit_code) from error


def _imported(name: str) -> Any:
    """Import and return the command `name`."""
    alone = typer.Typer(**_STYLE)
    if name in {*_OWN, *_FURTHER}:
        function = name.replace("-", "_") + "_" * keyword.iskeyword(name)
        command = getattr(importlib.import_module(f"eventsync.cli.{function}"), function)
        if isinstance(command, typer.Typer):
            return typer.main.get_command(command)
        alone.command(name)(command)
    else:
        from eventsync.cli import processes  # noqa: PLC0415 - see `list_commands`

        (entry,) = (entry for entry in processes.added() if entry.name == name)
        alone.command(name, help=processes.help_of(entry))(processes.command_of(entry))
    return typer.main.get_command(alone)


commands = typer.Typer(
    name="eventsync",
    cls=_Commands,
    help="A sync server for MongoDB: every committed change, to every client, exactly once and in order.",
    no_args_is_help=True,
    **_STYLE,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"eventsync {__version__}")
        raise typer.Exit


@commands.callback()
def _root(
    ctx: typer.Context,
    _version_shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    url: Annotated[
        str | None, typer.Option("--url", help="The same as --url of a command that has it.", metavar="URL")
    ] = None,
) -> None:
    """A sync server for MongoDB: every committed change, to every client, exactly once and in order."""
    if url is None or ctx.invoked_subcommand is None:
        return
    group: Any = ctx.command
    if all(parameter.name != "url" for parameter in group.get_command(ctx, ctx.invoked_subcommand).params):
        raise ConfigurationError(f"`eventsync {ctx.invoked_subcommand}` takes no --url")
    ctx.default_map = {ctx.invoked_subcommand: {"url": url}}


def main() -> None:
    """Run the console script. Files that it and its children make are readable by this user alone."""
    os.umask(0o077)
    try:
        sys.exit(commands(prog_name="eventsync"))
    except KeyboardInterrupt:
        sys.exit(130)
