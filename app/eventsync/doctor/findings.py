"""Findings of an examination, and what each check works with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pymongo.errors import OperationFailure

from eventsync.domain.values.extended_json import CODEC
from eventsync.mongodb.client import Client
from eventsync.mongodb.errors import translated
from eventsync.settings import Settings
from eventsync.stores.stores import Stores

Level = Literal["ok", "warning", "problem"]

Tree = Mapping[str, Any]

_NOT_ALLOWED: Final = frozenset({13, 59, 76})
"""Unauthorized; CommandNotFound and NoReplicationEnabled, of a server of another kind."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `meaning` and `remedy` are empty for one that is `ok`."""

    check: str
    level: Level
    found: str
    meaning: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Patient:
    """The deployment that is examined, and the measures.

    `absence` is the longest time, in seconds, for which no worker may run. `roles` are the processes whose privileges
    are examined. `clock` is this machine's, in Unix seconds.
    """

    client: Client
    settings: Settings
    stores: Stores
    absence: float
    roles: tuple[str, ...]
    clock: Callable[[], float] = field(default=time.time)

    async def ask(self, database: str, command: Tree) -> dict[str, Any] | None:
        """Return the answer to a command that reads, or None if the user may not send it. Raises `Unavailable`."""
        with translated(f"MongoDB does not answer {next(iter(command))}"):
            try:
                answer: dict[str, Any] = await self.client[database].command(dict(command), codec_options=CODEC)
            except OperationFailure as error:
                if error.code in _NOT_ALLOWED:
                    return None
                raise
        return answer


def ok(check: str, found: str) -> Finding:
    """Return the finding of a check that has found nothing."""
    return Finding(check, "ok", found)


def unknown(check: str, command: str) -> Finding:
    """Return the finding of a check that needs a command that the user may not send."""
    return Finding(
        check,
        "warning",
        f"not known: the MongoDB user may not call {command}",
        "this is not examined",
        "call `eventsync doctor` with a user that has the role clusterMonitor too (docs/guides/doctor.md)",
    )


def hours(seconds: float) -> str:
    """Return a time for people."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
