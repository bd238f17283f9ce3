"""The tiers, stored snapshots and jobs in `eventsync status`: as JSON, and as rows of a table."""

from __future__ import annotations

from typing import Any

from eventsync.settings import Settings
from eventsync.stores.archive.objects import NOWHERE
from eventsync.stores.stats.overview import JOBS, LogOverview, Overview


def tree(overview: Overview, settings: Settings) -> dict[str, Any]:
    """Return the members of the JSON object. Without a log there are no tiers and no snapshots."""
    found = overview.log
    return {
        "tiers": _tiers(found) if found else None,
        "archive": archive_kind(settings),
        "snapshots": _snapshots(overview, found) if found else [],
        "jobs": {job: overview.holder(job) for job in JOBS},
    }


def rows(overview: Overview, settings: Settings) -> list[list[str]]:
    """Return the rows of the table, each a name and a text."""
    found, shown = overview.log, list[list[str]]()
    if found:
        hot, cold, tiers = found.hot, found.cold, found.tiers
        shown += [
            ["hot", f"{hot.events} events, about {hot.bytes} bytes"],
            [
                "cold",
                f"{cold.events} events, {cold.bytes} bytes in {cold.segments} segments ({archive_kind(settings)})",
            ],
            [
                "kept",
                f"events after {tiers.horizon}; in MongoDB after {tiers.archived_up_to}; "
                f"squashed from {tiers.squash_floor}",
            ],
        ]
    return shown + [[job, overview.holder(job) or "nobody"] for job in JOBS[1:]]


def snapshot_rows(overview: Overview) -> list[list[str]]:
    """Return collection, seq, age, documents and bytes of each collection's newest snapshot."""
    return [
        [item.shape, str(item.seq), f"{overview.age(item):.0f} s", str(item.documents), str(item.bytes)]
        for item in (overview.log.newest if overview.log else [])
    ]


def archive_kind(settings: Settings) -> str:
    """Return `none`, `directory`, or the URL's scheme. The rest of the URL may be confidential."""
    url = settings.archive_url
    if url in {"", NOWHERE}:
        return NOWHERE
    scheme = url.partition("://")[0] if "://" in url else "file"
    return "directory" if scheme == "file" else scheme


def _tiers(found: LogOverview) -> dict[str, Any]:
    hot, cold, tiers = found.hot, found.cold, found.tiers
    return {
        "hot": {"events": hot.events, "bytes": hot.bytes},
        "cold": {"segments": cold.segments, "events": cold.events, "bytes": cold.bytes, "raw_bytes": cold.raw},
        "floor": tiers.archived_up_to,
        "horizon": tiers.horizon,
        "squash_floor": tiers.squash_floor,
    }


def _snapshots(overview: Overview, found: LogOverview) -> list[dict[str, Any]]:
    return [
        {
            "collection": item.shape,
            "position": f"{item.log}:{item.seq}",
            "age": round(overview.age(item), 3),
            "documents": item.documents,
            "bytes": item.bytes,
        }
        for item in found.newest
    ]
