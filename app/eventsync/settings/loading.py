"""Loading: reads the settings, and refuses misspelt names and values that contradict each other."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import ValidationError

from eventsync.domain.names import MAX_DATABASE_BYTES
from eventsync.errors import ConfigurationError
from eventsync.settings.server_fields import PREFIX
from eventsync.settings.sources import CONFIG, TOKEN, CommandSettings, Settings

_FOREIGN: Final = re.compile(r"TEST_\w+|(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT_\d+_\w+", re.ASCII)
"""Names after the prefix that are accepted: those of the test suite, and those that Kubernetes sets in a container for
each Service whose name begins with `eventsync`.
"""


def load_settings(kind: type[Settings] = CommandSettings, /, **options: Any) -> Settings:
    """Read the settings. An option that is None was not given. Raises `ConfigurationError`."""
    _check_environment()
    try:
        settings = kind(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        lines = "; ".join(_fault(item) for item in error.errors(include_url=False, include_input=False))
        raise ConfigurationError(f"the settings are not valid: {lines}") from error
    except (ValueError, OSError) as error:
        raise ConfigurationError(f"the configuration file can't be read: {error}") from error
    _check(settings)
    return settings


_ORDERED: Final = (
    ("pin_ttl", "send_timeout", "a slow client would lose its pin"),
    ("request_timeout", "write_deadline", "a write would be answered before it is known whether anything was written"),
    ("request_timeout", "query_timeout", "a listing would be answered before MongoDB gives it up"),
    ("request_timeout", "barrier_timeout", "a barrier would be answered before its own time is over"),
    ("stale_after", "checkpoint_interval", "an idle worker would count as stale"),
    ("barrier_timeout", "checkpoint_interval", "a barrier would not wait until an idle worker records how far it is"),
    ("operation_ttl", "request_timeout", "a write that is repeated without an answer could be carried out twice"),
)


def _check(settings: Settings) -> None:
    """Raise `ConfigurationError` for settings that contradict each other."""
    if settings.log_db == settings.database:
        raise ConfigurationError("log_database must not be the database with the tracked collections")
    if settings.log_db.casefold() == settings.database.casefold():
        raise ConfigurationError("log_database and database differ only in case, which MongoDB refuses")
    if len(settings.log_db.encode()) > MAX_DATABASE_BYTES:
        raise ConfigurationError(f"{settings.log_db!r} is too long for a database: give a shorter log_database")
    for longer, shorter, why in _ORDERED:
        if getattr(settings, longer) <= getattr(settings, shorter):
            raise ConfigurationError(f"{longer} must be longer than {shorter}: {why}")


def _fault(item: Mapping[str, Any]) -> str:
    name = ".".join(map(str, item["loc"])) or "settings"
    if item["type"] == "extra_forbidden":
        return f"{name}: no such setting{_suggestion(name, Settings.model_fields)}"
    return f"{name}: {item['msg'].removeprefix('Value error, ')}"


def _check_environment() -> None:
    """Raise `ConfigurationError` for a variable with our prefix that is no setting."""
    known = {CONFIG.removeprefix(PREFIX), TOKEN.removeprefix(PREFIX), *(name.upper() for name in Settings.model_fields)}
    for variable, value in sorted(os.environ.items()):
        name = variable.upper().removeprefix(PREFIX)
        if variable.upper().startswith(PREFIX) and name not in known and not _is_foreign(name, value):
            meant = _suggestion(name, known, prefix=PREFIX)
            raise ConfigurationError(f"the environment variable {variable} is no setting{meant}")


def _is_foreign(name: str, value: str) -> bool:
    # Kubernetes sets the address of a Service as a URL, which the setting `port` never is.
    is_address = name.endswith("_PORT") and value.startswith(("tcp://", "udp://"))
    return is_address or _FOREIGN.fullmatch(name) is not None


def _suggestion(name: str, known: Iterable[str], *, prefix: str = "") -> str:
    """Return the end of a message about an unknown name: the closest known name, or a pointer to the list."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {prefix}{near[0]}?" if near else "; `eventsync settings` lists them"
