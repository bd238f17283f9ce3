"""The listing of all settings: their values without secrets, their sources, defaults and meanings."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from typing import Any

from eventsync.errors import ConfigurationError
from eventsync.settings.server_fields import PREFIX
from eventsync.settings.sources import Settings, config_file
from eventsync.urls import bare, masked


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the listing. `value` is the current value, without secrets.

    `source` is where it comes from: `environment`, `file`, `option` or `default`.
    """

    name: str
    env: str
    value: Any
    default: Any
    description: str
    source: str


def listing(current: Settings) -> list[Setting]:
    """Return all settings, in the order of `Settings`."""
    in_file = _in_file(type(current))
    return [
        Setting(
            name=name,
            env=f"{PREFIX}{name.upper()}",
            value=_shown(name, getattr(current, name)),
            default=_shown(name, field.get_default()),
            description=described(name, field.description),
            source=_source(current, name, in_file),
        )
        for name, field in Settings.model_fields.items()
    ]


def _in_file(kind: type[Settings]) -> frozenset[str]:
    """Return the names of the settings in the configuration file; none if it can't be read any more."""
    try:
        file = config_file(kind.config_files)
        return frozenset() if file is None else frozenset(tomllib.loads(file.read_text()))
    except (ConfigurationError, OSError, ValueError):
        return frozenset()


def _source(current: Settings, name: str, in_file: frozenset[str]) -> str:
    if name not in current.model_fields_set:
        return "default"
    if f"{PREFIX}{name.upper()}" in os.environ:
        return "environment"
    return "file" if name in in_file else "option"


def described(name: str, text: str | None) -> str:
    """Return the description of a setting. Raises `ConfigurationError` without one."""
    if not text:
        raise ConfigurationError(f"the setting {name} has no description")
    return text


def _shown(name: str, value: Any) -> Any:
    if name == "mongodb_uri" and value is not None:
        return masked(value)
    if name == "archive_url":
        return bare(value)
    return list(value) if isinstance(value, tuple) else value
