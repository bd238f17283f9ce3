"""The surroundings of a process: the archive, clocks, open files, and settings that do not fit each other."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from eventsync.access.control import may_be_open
from eventsync.doctor.deployment import disk
from eventsync.doctor.findings import Finding, Patient, ok
from eventsync.domain.access.auth import is_loopback
from eventsync.domain.positions import Seq
from eventsync.domain.segments.file import open_footer
from eventsync.errors import ConfigurationError, EventsyncError, Unavailable
from eventsync.mongodb.clocks import wall_time
from eventsync.process.open_files import needed_files
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment

_SKEW_WARNING, _SKEW_PROBLEM = 1.0, 30.0
"""Seconds between two clocks."""


async def archive(patient: Patient) -> AsyncIterator[Finding]:
    """Check that the archive is that of the log, that it can be read and, as far as that shows, written."""
    objects = patient.stores.archive.objects
    try:
        await patient.stores.archive.identity.check()
    except ConfigurationError as error:
        meaning = "servers and workers with this archive_url do not start"
        yield Finding("archive", "problem", error.diagnosis, meaning, "set archive_url as on the other machines")
        return
    except Unavailable as error:
        meaning = "old events stay in MongoDB, and clients that are far behind wait"
        yield Finding("archive", "problem", error.diagnosis, meaning, "make the archive reachable")
        return
    if objects is None:
        yield ok("archive", "none: old events stay in MongoDB until they are no longer kept")
        return
    directory = _directory(patient.settings.archive_url)
    if directory is not None and not _is_writable(directory):
        meaning = "a worker that runs as this user can't archive: MongoDB fills up"
        yield Finding("archive", "problem", f"{directory} can't be written by this user", meaning, "chown it")
    elif objects.loose:
        meaning = "documents that were deleted or hidden are in there"
        yield Finding("archive", "warning", objects.loose, meaning, f"chmod o= {directory}")
    else:
        tried = "" if directory else "; writing is not tried"
        yield ok("archive", f"{objects.shown} is the log's{tried}")
    if directory is not None and directory.is_dir():
        usage = shutil.disk_usage(directory)
        yield disk("disk of the archive", usage.used, usage.total, "The archive")
    async for finding in _segments(patient):
        yield finding


async def _segments(patient: Patient) -> AsyncIterator[Finding]:
    """Check that the first and the last segment of the log are in the archive, as they were registered."""
    objects, log = patient.stores.archive.objects, await patient.stores.logs.current()
    newest = await patient.stores.archive.segments.newest(log.id) if log else None
    if objects is None or log is None or newest is None:
        return
    tiers = await patient.stores.tiers.read(log.id)
    oldest = [item async for item in _first(patient, newest, tiers.horizon)]
    for segment in (*oldest, newest):
        try:
            end = await objects.read(segment.path, segment.tail, segment.size - segment.tail)
            open_footer(end, segment.size)
        except EventsyncError as error:
            meaning = "clients that need these events get a reset, and `eventsync verify` fails"
            remedy = "restore the archive from a backup (docs/guides/backup.md)"
            yield Finding("segments", "problem", error.diagnosis, meaning, remedy)
            return
    yield ok("segments", "the oldest and the newest are as they were written")


async def _first(patient: Patient, newest: Segment, horizon: Seq) -> AsyncIterator[Segment]:
    async for segment in patient.stores.archive.segments.covering(newest.log, horizon, newest.span.last):
        if segment.path != newest.path:
            yield segment
        return


async def clocks(patient: Patient) -> AsyncIterator[Finding]:
    """Compare the clock of this machine with that of MongoDB's primary."""
    before = patient.clock()
    theirs = (await wall_time(patient.stores.data)).timestamp()
    after = patient.clock()
    # The answer was given between the two: only what is outside is a difference.
    skew = max(0.0, before - theirs, theirs - after)
    if skew < _SKEW_WARNING:
        yield ok("clock", "as MongoDB's, to a second")
        return
    yield Finding(
        "clock",
        "warning" if skew < _SKEW_PROBLEM else "problem",
        f"{skew:.0f} s from MongoDB's",
        "tokens are accepted too long or not yet, and times in the log can't be compared with those of other programs",
        "run an NTP client on this machine and on those of MongoDB",
    )


async def open_files(patient: Patient) -> AsyncIterator[Finding]:
    """Compare the limit on open files with `max_sockets`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = needed_files(patient.settings.max_sockets)
    if hard == resource.RLIM_INFINITY or hard >= need:
        yield ok("open files", f"{'unlimited' if hard == resource.RLIM_INFINITY else hard} are allowed")
        return
    yield Finding(
        "open files",
        "problem",
        f"{hard} are allowed, and max_sockets is {patient.settings.max_sockets}",
        f"a server refuses clients beyond about {max(0, hard - need + patient.settings.max_sockets)}",
        f"LimitNOFILE={need} in the unit, `ulimit -Hn {need}` in a shell, or lower max_sockets",
    )


async def settings(patient: Patient) -> AsyncIterator[Finding]:
    """Check settings that are valid each, and do not fit each other."""
    rules = (await patient.stores.definitions.read()).rules
    found = [*_exposure(patient.settings, ruled=rules is not None), *_limits(patient.settings)]
    found += _retention(patient.settings)
    for finding in found or [ok("settings", "none contradicts another")]:
        yield finding


def _exposure(current: Settings, *, ruled: bool) -> Iterator[Finding]:
    if is_loopback(current.host):
        return
    if not ruled and may_be_open(current):
        found = f"allow_unauthenticated, and host is {current.host}"
        meaning = "whoever reaches a server can read and change everything"
        yield Finding("settings", "warning", found, meaning, "eventsync rules apply (docs/guides/access.md)")
    elif not ruled:
        found = f"host is {current.host}, and no rules have been applied"
        remedy = "eventsync rules apply, or listen on loopback"
        yield Finding("settings", "problem", found, "a server does not start like this", remedy)
    if not current.allowed_hosts:
        found = f"host is {current.host}, and allowed_hosts is empty"
        meaning = "clients reach the server by its address only: requests by a name are refused"
        yield Finding("settings", "warning", found, meaning, "name the server's names in allowed_hosts")


_WITHIN: Final = (
    ("principal_held_bytes", "held_bytes"),
    ("principal_connections", "max_sockets"),
    ("principal_clients", "max_clients"),
    ("principal_tickets", "max_tickets"),
    ("max_sockets_per_address", "max_sockets"),
    ("document_bytes", "held_bytes"),
    ("transaction_bytes", "held_bytes"),
    ("frame_bytes", "window_bytes"),
)
"""Limits, each of which is a part of another."""


def _limits(current: Settings) -> Iterator[Finding]:
    for part, whole in _WITHIN:
        if (inner := getattr(current, part)) > (outer := getattr(current, whole)):
            found = f"{part} ({inner}) is greater than {whole} ({outer})"
            yield Finding("settings", "warning", found, f"{whole} is reached first", f"lower {part}, or raise {whole}")


def _retention(current: Settings) -> Iterator[Finding]:
    if current.archive_url in {"", "none"}:
        return
    for part, whole in (("hot_age", "retention_age"), ("hot_events", "retention_events")):
        if (limit := getattr(current, whole)) and (hot := getattr(current, part)) >= limit:
            found = f"{part} ({hot:g}) is not less than {whole} ({limit:g})"
            meaning = "events are removed before they are archived"
            yield Finding("settings", "warning", found, meaning, f"lower {part}, raise {whole}, or set no archive_url")


def _directory(url: str) -> Path | None:
    return Path(url.removeprefix("file://")) if url.startswith(("/", "file://")) else None


def _is_writable(directory: Path) -> bool:
    """Return True if this user may make files in the directory, or may make the directory."""
    nearest = next(path for path in (directory, *directory.parents) if path.exists())
    return os.access(nearest, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
