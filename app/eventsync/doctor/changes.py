"""The way of a change through MongoDB: how long it is kept for a worker, and how soon it is seen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from eventsync.doctor.findings import Finding, Patient, hours, ok, unknown

_FULL: Final = 0.9
"""Share of its size from which on an oplog counts as full."""

_LEAST_WINDOW: Final = 3600.0
_LEAST_PAST: Final = 3600.0
"""Seconds that an oplog which is not full has to cover before its pace says anything."""

_SOON: Final = 20
"""Milliseconds between two flushes of the journal that nobody notices."""


async def oplog(patient: Patient) -> AsyncIterator[Finding]:
    """Compare the time that the oplog covers with the longest absence of all workers."""
    status = await patient.ask("admin", {"serverStatus": 1, "oplog": 1, "metrics": 0})
    stats = await patient.ask("local", {"collStats": "oplog.rs"})
    if status is None or stats is None:
        yield unknown("oplog", "serverStatus and collStats of local.oplog.rs")
        return
    if "maxSize" not in stats or "earliestOptime" not in status.get("oplog", {}):
        return  # There is no oplog without a replica set, which has a check of its own.
    covered = float(status["oplog"]["latestOptime"].time - status["oplog"]["earliestOptime"].time)
    yield oplog_finding(covered, stats["size"], stats["maxSize"], patient.absence)


def oplog_finding(covered: float, size: float, max_size: float, absence: float) -> Finding:
    """Return the finding for an oplog that covers so many seconds, with `size` of `max_size` bytes."""
    share = size / max_size
    if share >= _FULL:
        found, window = f"of {max_size / 1024**2:,.0f} MiB, full; it covers {hours(covered)}", covered
    else:
        # It still grows. At the pace of until now:
        window = covered / share if share else float("inf")
        found = f"of {max_size / 1024**2:,.0f} MiB, {share:.0%} full; it covers {hours(covered)} so far"
        if covered < _LEAST_PAST:
            return ok("oplog", f"{found}, which is too early to say more")
        found += f", and {hours(window)} when it is full"
    if window >= absence:
        return ok("oplog", found)
    return Finding(
        "oplog",
        "problem" if window < _LEAST_WINDOW else "warning",
        found,
        f"after {hours(window)} without a worker, changes are lost: the log is repaired by one event for each "
        "document that differs, without its author and without what was in between",
        "set a larger one, for instance db.adminCommand({replSetResizeOplog: 1, size: 16000}) on each member, or "
        f"minRetentionHours: {absence / 3600:.0f}",
    )


async def kept_images(patient: Patient) -> AsyncIterator[Finding]:
    """Compare the time that MongoDB keeps pre- and post-images with the longest absence of all workers."""
    # Not by getClusterParameter, which clusterMonitor may not call before MongoDB 7.
    query = {"find": "clusterParameters", "filter": {"_id": "changeStreamOptions"}, "limit": 1}
    answer = await patient.ask("config", query)
    if answer is None:
        yield unknown("images", "find on config.clusterParameters")
        return
    parameters: list[dict[str, Any]] = answer["cursor"]["firstBatch"]
    expiry = parameters[0].get("preAndPostImages", {}).get("expireAfterSeconds", "off") if parameters else "off"
    if expiry == "off":
        yield ok("images", "kept as long as the oplog covers their changes")
    elif float(expiry) >= patient.absence:
        yield ok("images", f"kept for {hours(float(expiry))}")
    else:
        yield Finding(
            "images",
            "warning",
            f"kept for {hours(float(expiry))}",
            "after a longer absence of all workers, updates become `replace` events",
            'call setClusterParameter: {changeStreamOptions: {preAndPostImages: {expireAfterSeconds: "off"}}}',
        )


async def journal(patient: Patient) -> AsyncIterator[Finding]:
    """Check the interval at which mongod flushes its journal for writers that do not wait for it."""
    answer = await patient.ask("admin", {"getParameter": 1, "journalCommitInterval": 1})
    if answer is None:
        yield unknown("journal", "getParameter")
        return
    interval = int(answer["journalCommitInterval"])
    found = f"flushed every {interval} ms"
    if interval <= _SOON:
        yield ok("journal", found)
    elif patient.settings.journal_flush_interval:
        yield ok("journal", f"{found}; the worker flushes it earlier for changes that wait (journal_flush_interval)")
    else:
        yield Finding(
            "journal",
            "warning",
            f"{found}, and journal_flush_interval is 0",
            f"a change by a writer that does not wait for a majority is seen up to {interval} ms late",
            "set journal_flush_interval to its default, or start mongod with --journalCommitInterval 10",
        )


async def write_concern(patient: Patient) -> AsyncIterator[Finding]:
    """Check the default write concern, which programs beside eventsync use."""
    answer = await patient.ask("admin", {"getDefaultRWConcern": 1})
    if answer is None:
        yield unknown("write concern", "getDefaultRWConcern")
        return
    concern = answer.get("defaultWriteConcern", {"w": 1})
    if concern.get("w") == "majority" and concern.get("j", True):
        yield ok("write concern", "w: majority by default")
    else:
        shown = ", ".join(f"{name}: {value}" for name, value in concern.items() if name in {"w", "j"})
        yield Finding(
            "write concern",
            "warning",
            f"{shown} by default",
            "programs that write beside eventsync are answered before a majority has their writes: such a write may be "
            "rolled back, and is seen late (eventsync itself always waits for a majority)",
            'call setDefaultRWConcern: {defaultWriteConcern: {w: "majority"}}; with an arbiter it is w: 1 otherwise',
        )
    rows = await patient.ask("local", {"find": "system.replset", "limit": 1})
    batch = rows["cursor"]["firstBatch"] if rows else []
    if batch and not batch[0].get("writeConcernMajorityJournalDefault", True):
        yield Finding(
            "write concern",
            "problem",
            "writeConcernMajorityJournalDefault is false",
            "a write that a majority has acknowledged is lost if that majority loses its power",
            "set it to true by rs.reconfig()",
        )
