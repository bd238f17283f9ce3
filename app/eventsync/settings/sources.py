"""The sources of the settings: options, the environment, and the configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Final

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, TomlConfigSettingsSource

from eventsync import running_dev
from eventsync.errors import ConfigurationError
from eventsync.settings.fields import Fields
from eventsync.settings.server_fields import PREFIX

CONFIG: Final = f"{PREFIX}CONFIG"
"""Names the configuration file."""

TOKEN: Final = f"{PREFIX}TOKEN"
"""Holds the credential of a command that asks a server. It and `CONFIG` are the only variables that are no setting."""


class Settings(Fields):
    """The settings of a process. `eventsync settings` prints them with their descriptions."""

    config_files: ClassVar[tuple[Path, ...]] = (Path("eventsync.toml"), Path(".eventsync/eventsync.toml"))
    finds_dev: ClassVar[bool] = False
    """Look for a `dev` that runs elsewhere if there is no file."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read options first, then the environment, then the file."""
        file = config_file(cls.config_files)
        if file is None and cls.finds_dev and not {**init_settings(), **env_settings()}.get("mongodb_uri"):
            file = running_dev.only_configuration(CONFIG)
        sources = (init_settings, env_settings)
        return (*sources, TomlConfigSettingsSource(settings_cls, file)) if file else sources


class DevSettings(Settings):
    """The settings of `eventsync dev`, which does not read the file of another `dev` or of a killed one."""

    config_files: ClassVar[tuple[Path, ...]] = (Path("eventsync.toml"),)


class CommandSettings(Settings):
    """The settings of a command that may use a `dev` that runs elsewhere: any command but `serve` and `worker`."""

    finds_dev = True


def config_file(candidates: Iterable[Path]) -> Path | None:
    """Return the configuration file to read, or None."""
    if named := os.environ.get(CONFIG):
        if not Path(named).is_file():
            raise ConfigurationError(f"{CONFIG} names {named}, which is not a file")
        return Path(named)
    return next((path for path in candidates if path.is_file()), None)
