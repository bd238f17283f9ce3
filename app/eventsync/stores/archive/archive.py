"""The cold tier of one process: the registry of segments, their objects and reader, and the touched documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from eventsync.settings import Settings
from eventsync.stores.archive.identity import ArchiveIdentity
from eventsync.stores.archive.objects import Objects
from eventsync.stores.archive.segment_reader import SegmentReader
from eventsync.stores.archive.segments import SegmentStore
from eventsync.stores.archive.tiered_log import TieredEvents
from eventsync.stores.archive.touched import TouchedStore
from eventsync.stores.log.hot_tier import HotRows
from eventsync.stores.log.tiers import TierStore


@dataclass(frozen=True, slots=True)
class Archive:
    """The stores of the cold tier. `tiered` reads both tiers. `objects` is None if `archive_url` names no archive."""

    segments: SegmentStore
    objects: Objects | None
    identity: ArchiveIdentity
    reader: SegmentReader
    touched: TouchedStore
    tiered: TieredEvents
    tiers: TierStore

    @classmethod
    def of(cls, database: AsyncDatabase[Any], hot: HotRows, tiers: TierStore, settings: Settings) -> Archive:
        """Make the stores. Raises `ConfigurationError` for an invalid `archive_url`."""
        segments, objects = SegmentStore(database), Objects.of(settings.archive_url)
        reader = SegmentReader(segments, objects, tiers, cache_bytes=settings.segment_cache_bytes)
        return cls(
            segments,
            objects,
            ArchiveIdentity(database, objects),
            reader,
            TouchedStore(database),
            TieredEvents(hot, reader, tiers),
            tiers,
        )
