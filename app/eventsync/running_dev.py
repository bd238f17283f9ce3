"""Records of running `eventsync dev` processes, so that commands find them from any directory.

Each `dev` leaves `$XDG_STATE_HOME/eventsync/dev/PROCESS.json` (by default below `~/.local/state`), with the path of its
configuration. Only the user may read the directory. The record of a process that is gone is ignored and removed.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from eventsync.errors import ConfigurationError

logger = logging.getLogger(__name__)


def record(config: Path) -> None:
    """Record this process. Without a record (no home directory), commands find it only from its own directory."""
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
    """Return the configuration of the only running `dev`, or None.

    Raises `ConfigurationError`, which names `variable`, if several are running.
    """
    running = configurations()
    if len(running) > 1:
        listed = ", ".join(map(str, running))
        raise ConfigurationError(f"several `eventsync dev` run; name the one that is meant by {variable}: {listed}")
    return running[0] if running else None


def configurations() -> list[Path]:
    """Return the configurations of all running `dev` processes of this user."""
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
    """Return the directory of the records. Raises `RuntimeError` for a user without a home directory."""
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
    """Return the start time of a process on Linux, which detects a reused process id; None elsewhere."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None
