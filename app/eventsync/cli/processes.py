"""Commands that other packages add and that run until a signal, such as `eventsync worker`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from eventsync.cli.options import Collections, Database, MongodbUri
from eventsync.errors import ConfigurationError
from eventsync.logging import configure_logging
from eventsync.reload import Reread, ignore_hangups
from eventsync.settings import Settings, load_settings
from eventsync.stores.archive.objects import Objects

GROUP: Final = "eventsync.commands"
"""Entry points `(settings: Settings, reread: Reread) -> None` that run until SIGTERM or SIGINT.

At SIGHUP they restart in the same process, with the settings that `reread` returns.
"""


def read(options: dict[str, Any]) -> Settings:
    """Read the settings, and check at once what otherwise a store would refuse later."""
    settings = load_settings(Settings, **options)
    Objects.of(settings.archive_url)
    return settings


def added() -> Iterable[EntryPoint]:
    """Return the commands of other packages, without importing them."""
    return entry_points(group=GROUP)


def help_of(entry: EntryPoint) -> str:
    """Return a command's help text, without importing the command."""
    what = "Turn committed changes into events" if entry.name == "worker" else f"Run {entry.value}"
    return f"{what} until SIGTERM or Ctrl-C."


def command_of(entry: EntryPoint) -> Callable[..., None]:
    """Return a function that imports and runs a command."""

    def run(mongodb_uri: MongodbUri = None, database: Database = None, collections: Collections = None) -> None:
        ignore_hangups()
        reread = partial(read, {"mongodb_uri": mongodb_uri, "database": database, "collections": collections})
        settings = reread()
        configure_logging(settings.log_level, settings.log_format)
        _load(entry)(settings, reread)

    return run


def _load(entry: EntryPoint) -> Callable[[Settings, Reread], None]:
    try:
        loaded: Callable[[Settings, Reread], None] = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"the command {entry.name!r} can't be loaded from {entry.value}: {error}") from error
    return loaded
