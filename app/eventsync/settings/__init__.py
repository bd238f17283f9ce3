"""The settings, and the only reader of the environment and of the configuration file.

A setting is read from a command's own option, else from `EVENTSYNC_<NAME>`, else from the TOML file. The file is
`$EVENTSYNC_CONFIG`, else `eventsync.toml` in the current directory, else the one that a running `eventsync dev` writes
in `.eventsync/`. A command other than `serve` and `worker` that finds no file and no connection string uses the file of
the one `dev` that this user runs elsewhere.
"""

from eventsync.settings.loading import load_settings
from eventsync.settings.server_fields import PREFIX
from eventsync.settings.sources import TOKEN, DevSettings, Settings

__all__ = ["PREFIX", "TOKEN", "DevSettings", "Settings", "listing", "load_settings"]
