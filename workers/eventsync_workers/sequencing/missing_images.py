"""Reads the images that a change event does not carry."""

from __future__ import annotations

from contextlib import aclosing

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from eventsync.domain.ids import query_of
from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.errors import Unavailable
from eventsync.mongodb.change_stream import HistoryLost
from eventsync.mongodb.errors import Barred
from eventsync.stores.snapshots.live_snapshots import CollectionGone, SnapshotReader, TimeNotKept
from eventsync_workers.sequencing.collapse import lacks_images
from eventsync_workers.sequencing.converter import AFTER, BEFORE, DecodedChange


class CollectionBarred(Unavailable):
    """An image of one collection may not be read, possibly for good. The other collections can be followed."""

    code = "collection_barred"

    def __init__(self, collection: str, error: Barred) -> None:
        super().__init__(error.message)
        self.collection = collection


class ImageReader:
    """Reads a document as it was at a change's own cluster time, which MongoDB keeps for five minutes by default.

    It is the second choice, for a change without its images: one made before they were enabled again, for example in a
    collection that was dropped and made again. Of a transaction it sees only the result (see
    `eventsync_workers.sequencing.collapse`), which as a replacement is still exact.
    """

    def __init__(self, snapshots: SnapshotReader) -> None:
        self._snapshots = snapshots

    async def complete(self, change: DecodedChange) -> DecodedChange | None:
        """Return `change` with the images that its conversion needs, or None if it has no effect.

        A change that lacks any becomes an insert, a replace or a delete by those in the collection. Raises
        `HistoryLost` when MongoDB no longer has them, and `CollectionBarred`.
        """
        if not lacks_images(change):
            return change
        after = await self.after(change) if change["operationType"] != "delete" else None
        # One tick earlier is the state before the whole transaction, as cluster times are those of commits.
        before = await self._at(change, _just_before(change["clusterTime"]))
        if after is None and before is None:
            return None
        kind = "delete" if after is None else "insert" if before is None else "replace"
        return change | {"operationType": kind, AFTER: after, BEFORE: before}

    async def after(self, change: DecodedChange) -> RawBSONDocument | None:
        """Return the document as it was after the whole transaction of a change. Raises like `complete`."""
        return await self._at(change, change["clusterTime"])

    async def _at(self, change: DecodedChange, time: Timestamp) -> RawBSONDocument | None:
        key = dict(change["documentKey"])["_id"]
        try:
            async with aclosing(self._snapshots.read(change["ns"]["coll"], time, {"_id": query_of(key)})) as found:
                raw = await anext(found, None)
                return None if raw is None else RawBSONDocument(raw, RAW_CODEC)
        except Barred as error:
            raise CollectionBarred(change["ns"]["coll"], error) from error
        except (TimeNotKept, CollectionGone) as error:
            raise HistoryLost(f"{key!r}: the change has no image, and {error.message}") from error


def _just_before(time: Timestamp) -> Timestamp:
    return Timestamp(time.time, time.inc - 1) if time.inc else Timestamp(time.time - 1, 2**32 - 1)
