"""The examination: all checks, one after another, each of which may fail alone."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from eventsync.doctor import changes, deployment, surroundings, usage
from eventsync.doctor.findings import Finding, Patient, ok
from eventsync.errors import EventsyncError, Unavailable
from eventsync.mongodb.client import connect
from eventsync.mongodb.errors import Barred
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync.urls import masked

Check = Callable[[Patient], AsyncIterator[Finding]]

_OF_MONGODB: Final[tuple[tuple[str, Check], ...]] = (
    ("version", deployment.version),
    ("replica set", deployment.replica_set),
    ("storage engine", deployment.storage),
    ("oplog", changes.oplog),
    ("images", changes.kept_images),
    ("journal", changes.journal),
    ("write concern", changes.write_concern),
    ("user", usage.users),
    ("formats", usage.formats),
    ("collections", usage.collections),
    ("archive", surroundings.archive),
    ("clock", surroundings.clocks),
    ("settings", surroundings.settings),
)
_OF_THE_MACHINE: Final[tuple[tuple[str, Check], ...]] = (("open files", surroundings.open_files),)
"""Checks that need no MongoDB."""


async def examine(
    settings: Settings,
    *,
    absence: float,
    roles: tuple[str, ...] = ("worker", "serve"),
    clock: Callable[[], float] = time.time,
) -> list[Finding]:
    """Return the findings for the deployment that `settings` name, in a fixed order. Nothing is written.

    `absence` is the longest time, in seconds, for which no worker may run. The user's privileges are compared with what
    the processes of `roles` need. Raises `ConfigurationError` for settings that name no MongoDB.
    """
    async with connect(settings, "doctor") as client:
        patient = Patient(client, settings, Stores.of(client, settings), absence, roles, clock)
        findings = [await _reached(patient)]
        checks = (*_OF_MONGODB, *_OF_THE_MACHINE) if findings[0].level == "ok" else _OF_THE_MACHINE
        for name, check in checks:
            findings += await _examined(name, check, patient)
    return findings


async def _reached(patient: Patient) -> Finding:
    where = masked(patient.settings.mongodb_uri or "")
    try:
        await patient.ask("admin", {"ping": 1})
    except Unavailable as error:
        meaning = "nothing works without it, and the rest is not examined"
        return Finding("mongodb", "problem", error.diagnosis, meaning, f"check the address, the user, TLS: {where}")
    return ok("mongodb", f"answers at {where}")


async def _examined(name: str, check: Check, patient: Patient) -> list[Finding]:
    found: list[Finding] = []
    try:
        found += [finding async for finding in check(patient)]
    except Barred as error:
        meaning, remedy = "this is not examined", "docs/guides/doctor.md has the privileges that are needed"
        found.append(Finding(name, "warning", f"not known: {error.diagnosis}", meaning, remedy))
    except EventsyncError as error:
        found.append(Finding(name, "problem", error.diagnosis, "this could not be examined", "try again"))
    return found
