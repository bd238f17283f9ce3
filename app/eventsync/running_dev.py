"""A record of each `eventsync dev` that runs, so that commands in another terminal find it from any directory.

Each `dev` leaves `$XDG_STATE_HOME/eventsync/dev/PROCESS.json` (by default below `~/.local/state`), with the path of its
configuration. Only the user may read the directory. A record whose process is gone counts for nothing, and is removed.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from eventsync.errors import ConfigurationError

logger = logging.getLogger(__name__)


def record(config: Path) -> None:
    """Record this process. Where that is not possible (no home), commands find it in its own directory only."""
    try:
        directory = _directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        text = json.dumps({"config": str(config), "process": os.getpid(), "started": _started(os.getpid())})
        descriptor = os.open(_own(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    except (OSError, RuntimeError) as error:
        logger.warning("commands find this `dev` only from its own directory: %s", error)


def forget() -> None:
    """Remove the record of this process, if there is one."""
    try:
        _own().unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        logger.warning("the record of this `dev` stays: %s", error)


def only_configuration(variable: str) -> Path | None:
    """Return the configuration of the one `dev` that runs, or None.

    Raises `ConfigurationError`, which names `variable`, where there are several.
    """
    found = configurations()
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise ConfigurationError(f"several `eventsync dev` run; name the one that is meant by {variable}: {listed}")
    return found[0] if found else None


def configurations() -> list[Path]:
    """Return the configuration of each `dev` of this user that runs."""
    try:
        files = sorted(_directory().glob("*.json"))
    except (OSError, RuntimeError):
        return []
    return [config for file in files if (config := _configuration(file)) is not None]


def _configuration(file: Path) -> Path | None:
    try:
        if file.stat().st_uid != os.geteuid():
            return None
        row = json.loads(file.read_text())
        config, process, started = Path(row["config"]), int(row["process"]), row["started"]
        if _started(process) != started or not _runs(process):
            file.unlink(missing_ok=True)
            return None
        return config if config.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _directory() -> Path:
    """Raises `RuntimeError` for a user without a home."""
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "eventsync" / "dev"  # noqa: PTH117 - of a text that may be ""


def _own() -> Path:
    return _directory() / f"{os.getpid()}.json"


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(process: int) -> str | None:
    """Return the start of a process as Linux counts it, which tells it from a later one of that number; else None."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
