"""The MongoDB deployment: its version, its replica set, where it keeps its data."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from eventsync.doctor.findings import Finding, Patient, Tree, ok, unknown

_OLDEST: Final = (6, 0, 0)
_SPLITS: Final = (6, 0, 9)
_ZLIB_FIXED: Final = {(6, 0): 27, (7, 0): 28, (8, 0): 17, (8, 2): 3}
"""Release → the first patch release without CVE-2025-14847."""

_LAG: Final = 10.0
"""Seconds that a secondary may be behind."""

_DISK_WARNING, _DISK_PROBLEM = 0.8, 0.92
"""Used shares of a disk."""

_FREE_CONNECTIONS: Final = 200
_STATES: Final = frozenset({"PRIMARY", "SECONDARY", "ARBITER"})


async def version(patient: Patient) -> AsyncIterator[Finding]:
    """Check the version, and the features that depend on it."""
    info = await patient.ask("admin", {"buildInfo": 1}) or {}
    text, numbers = str(info.get("version", "?")), tuple(info.get("versionArray", (0, 0, 0))[:3])
    compatible = await patient.ask("admin", {"getParameter": 1, "featureCompatibilityVersion": 1})
    feature = str((compatible or {}).get("featureCompatibilityVersion", {}).get("version", "6.0"))
    if numbers < _OLDEST or int(feature.split(".", maxsplit=1)[0]) < _OLDEST[0]:
        yield Finding(
            "version",
            "problem",
            f"MongoDB {text}, with the features of {feature}",
            "eventsync needs the pre- and post-images of MongoDB 6.0",
            'upgrade MongoDB, or call setFeatureCompatibilityVersion: "6.0"',
        )
    elif numbers < _SPLITS:
        yield Finding(
            "version",
            "warning",
            f"MongoDB {text}",
            "a change of over 16 MiB with its images becomes a `replace`: it can't be split before 6.0.9",
            "upgrade MongoDB to a newer 6.0",
        )
    else:
        yield ok("version", f"MongoDB {text}")
    yield await _compression(patient, text, numbers)


async def _compression(patient: Patient, text: str, numbers: tuple[int, ...]) -> Finding:
    fixed = _ZLIB_FIXED.get((numbers[0], numbers[1]), 0)
    # A server names those of the offered compressors that it would use.
    hello = await patient.ask("admin", {"hello": 1, "compression": ["zlib"]}) or {}
    if numbers[2:] >= (fixed,) or "zlib" not in hello.get("compression", ()):
        return ok("compression", "no known hole in its compression of messages")
    return Finding(
        "compression",
        "problem",
        f"MongoDB {text} compresses messages with zlib",
        "whoever reaches its port can read parts of its memory without a password (CVE-2025-14847)",
        f"upgrade to {numbers[0]}.{numbers[1]}.{fixed}, or start mongod with --networkMessageCompressors snappy,zstd",
    )


async def replica_set(patient: Patient) -> AsyncIterator[Finding]:
    """Check the replica set: its kind, its members, and that it has a primary."""
    hello = await patient.ask("admin", {"hello": 1}) or {}
    if hello.get("msg") == "isdbgrid":
        yield Finding("replica set", "warning", "a sharded cluster", "eventsync is not tested with one", "")
        return
    if "setName" not in hello:
        yield Finding(
            "replica set",
            "problem",
            "a single server without a replica set",
            "it has no change streams and no transactions",
            "start mongod with --replSet, and call rs.initiate()",
        )
        return
    name, members, arbiters = hello["setName"], hello.get("hosts", ()), hello.get("arbiters", ())
    if "primary" not in hello:
        meaning = "nothing can be written, and no change is seen"
        yield Finding("replica set", "problem", f"{name} has no primary", meaning, "start more of its members")
    elif arbiters:
        yield Finding(
            "replica set",
            "warning",
            f"{name} has {len(members)} members with data and {len(arbiters)} arbiter(s)",
            "while one member with data is away, no write is acknowledged and no change is seen",
            "replace the arbiter by a member with data",
        )
    elif len(members) < 3:
        yield Finding(
            "replica set",
            "warning",
            f"{name} has {len(members)} member(s) with data",
            "without one of them nothing can be written; with the disk of the only one, everything is lost",
            "have three members, on three machines",
        )
    else:
        yield ok("replica set", f"{name}, {len(members)} members with data")
    async for finding in _members(patient):
        yield finding


async def _members(patient: Patient) -> AsyncIterator[Finding]:
    status = await patient.ask("admin", {"replSetGetStatus": 1})
    if status is None:
        yield unknown("members", "replSetGetStatus")
        return
    members: Sequence[Tree] = status["members"]
    if away := [f"{item['name']} ({item['stateStr']})" for item in members if item["stateStr"] not in _STATES]:
        meaning = "a further failure may leave the replica set without a majority"
        yield Finding("members", "problem", ", ".join(away), meaning, "start them, and read their logs")
        return
    newest = max((item["optimeDate"] for item in members if item["stateStr"] == "PRIMARY"), default=None)
    behind = {
        item["name"]: (newest - item["optimeDate"]).total_seconds()
        for item in members
        if newest is not None and item["stateStr"] == "SECONDARY"
    }
    if late := [f"{name} ({seconds:.0f} s)" for name, seconds in behind.items() if seconds > _LAG]:
        meaning = "writes that wait for a majority, and thereby all changes, wait for members that are behind"
        yield Finding("members", "warning", f"behind: {', '.join(late)}", meaning, "look at their disks and networks")
    else:
        yield ok("members", f"all {len(members)} are up")


async def storage(patient: Patient) -> AsyncIterator[Finding]:
    """Check the storage engine, the disk and the connections of the primary."""
    status = await patient.ask("admin", {"serverStatus": 1, "metrics": 0})
    if status is None:
        yield unknown("storage engine", "serverStatus")
    else:
        yield _engine(status["storageEngine"])
        yield _connections(patient, status["connections"])
    usage = await patient.ask(patient.settings.log_db, {"dbStats": 1})
    if usage is None or not usage.get("fsTotalSize"):
        yield unknown("disk", "dbStats")
    else:
        yield disk("disk", usage["fsUsedSize"], usage["fsTotalSize"], "MongoDB")


def _engine(engine: Tree) -> Finding:
    if engine["name"] == "wiredTiger" and engine.get("persistent", True):
        return ok("storage engine", "wiredTiger")
    return Finding(
        "storage engine",
        "problem",
        str(engine["name"]),
        "an acknowledged write does not survive the end of mongod",
        "use wiredTiger",
    )


def _connections(patient: Patient, connections: dict[str, Any]) -> Finding:
    used, free = int(connections["current"]), int(connections["available"])
    found = f"{used} are open, {free} are free"
    if free >= max(_FREE_CONNECTIONS, 2 * patient.settings.mongodb_pool_size):
        return ok("connections", found)
    return Finding(
        "connections",
        "warning",
        found,
        f"each process of eventsync opens up to mongodb_pool_size ({patient.settings.mongodb_pool_size}) and about 10",
        "raise mongod's limit on open files or net.maxIncomingConnections, or lower mongodb_pool_size",
    )


def disk(check: str, used: float, total: float, owner: str) -> Finding:
    """Return the finding for a disk, of which `used` of `total` bytes are used, of MongoDB or the archive."""
    share = used / total
    found = f"{share:.0%} of {total / 1024**3:,.0f} GiB are used"
    if share < _DISK_WARNING:
        return ok(check, found)
    return Finding(
        check,
        "warning" if share < _DISK_PROBLEM else "problem",
        found,
        f"{owner} stops writing when its disk is full",
        "free space; hot_events and hot_age move events to the archive earlier, retention_… removes them"
        if owner == "MongoDB"
        else "free space, or lower retention_age and retention_bytes",
    )
