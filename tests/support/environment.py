"""The environment of `eventsync` as a process of its own: the settings of a test, and no others."""

from __future__ import annotations

import os
from typing import Any

from eventsync.settings import PREFIX, Settings


def environment_with(**settings: Any) -> dict[str, str]:
    """Return this process's environment, with these settings of eventsync only."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    for name, value in settings.items():
        environment[PREFIX + name.upper()] = ",".join(value) if isinstance(value, tuple) else str(value)
    return environment


def environment_of(settings: Settings, port: int | None = None) -> dict[str, str]:
    """Return the environment of a process with all of these settings."""
    return environment_with(**settings.model_dump(exclude_defaults=True) | ({} if port is None else {"port": port}))


def command_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a command that finds the database of these settings, and prints wide lines."""
    return environment_with(mongodb_uri=settings.mongodb_uri, database=settings.database) | {"COLUMNS": "200"}
