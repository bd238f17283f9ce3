"""Live snapshots: a shape at a position, read from the collection itself at a checkpoint's cluster time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bson.timestamp import Timestamp
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import OperationFailure

from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.prefetch import ahead
from eventsync.concurrency.slices import Slices
from eventsync.concurrency.ttl_cache import TTLCache
from eventsync.domain.bson_scan.ambiguous import checked
from eventsync.domain.bson_scan.opaque import writable
from eventsync.domain.bson_scan.plain import is_misread
from eventsync.domain.ids import IdText, format_id, parse_id, query_of
from eventsync.domain.positions import LogId, Position, scoped
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.routes import redacted_row
from eventsync.domain.shapes import Shape
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import CODEC, JSON_CODEC, Document, JsonText, decode, to_json
from eventsync.domain.views import Redactor, View
from eventsync.errors import Unavailable
from eventsync.mongodb.answer_size import AnswerSize
from eventsync.mongodb.errors import may_last, short, translated
from eventsync.mongodb.raw_cursor import raw_find
from eventsync.stores.log.logs import LogStore

_TOO_OLD = frozenset({239, 246})
"""SnapshotTooOld, SnapshotUnavailable: the server does not have that cluster time any more, or not yet."""

_COLLATION_AGE: Final = 60.0
_COLLATIONS: Final = 1_000


class ReadRefused(Unavailable):
    """MongoDB refuses to read a collection, possibly for good."""

    def __init__(self, collection: str, error: OperationFailure) -> None:
        super().__init__(f"{collection} can't be read: MongoDB refuses it (code {error.code})")
        self.because(short(error))
        self.collection = collection
        self.mongodb_code = error.code


class TimeNotKept(Unavailable):
    """MongoDB does not keep the cluster time at which a collection is read, or stopped keeping it during the read."""

    def __init__(self, collection: str) -> None:
        super().__init__(
            f"{collection} can't be read as it was at the checkpoint: MongoDB no longer keeps that time. If a worker "
            "runs and it is large, raise MongoDB's server parameter minSnapshotHistoryWindowInSeconds (300 by default)"
        )


class CollectionGone(Unavailable):
    """A collection was dropped or renamed a moment ago, so its earlier state cannot be read."""


class SnapshotDocument(NamedTuple):
    """One document of a snapshot: `row` is `{"id", "version", "doc"}` in JSON."""

    id: IdText
    row: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The exact state of `shape` at `position`. `batches` has each document once, in id order."""

    shape: Shape
    position: Position
    batches: AsyncIterator[list[SnapshotDocument]]


class SnapshotReader:
    """Reads the tracked collections at the newest checkpoint.

    A checkpoint pairs a cluster time with a seq. So the snapshot at that time and the events after that seq give the
    collection at every later position. MongoDB keeps five minutes of such history by default.
    """

    def __init__(
        self, database: AsyncDatabase[Any], logs: LogStore, offload: Offload | None = None, *, batch: int = 1000
    ) -> None:
        """`offload` encodes large documents; without it, they are encoded on the event loop."""
        self._offload = offload or inline()
        self._database = database
        self._logs = logs
        self._batch = batch
        self._size = AnswerSize()
        self._collations: TTLCache[bool] = TTLCache(ttl=_COLLATION_AGE, max_entries=_COLLATIONS)

    @asynccontextmanager
    async def open(self, log: LogId, shape: Shape) -> AsyncIterator[Snapshot]:
        """Open a snapshot at the log's newest checkpoint. Raises `Unavailable`, also during the read."""
        checkpoint = await self._logs.read_checkpoint(log)
        if checkpoint is None:
            raise Unavailable("the log has no checkpoint yet: is a worker running?")
        batches = self.documents(shape, checkpoint.time, query_for(shape))
        try:
            yield Snapshot(shape, Position(scoped(log, shape.scope), checkpoint.seq), batches)
        finally:
            await batches.aclose()

    async def documents(self, shape: Shape, time: Timestamp, query: Document) -> AsyncGenerator[list[SnapshotDocument]]:
        """Yield the documents of a shape that `query` finds in its collection at `time`. Raises as `read`.

        They come in id order, except those of a declared shape: MongoDB would have to sort what an index finds.
        """
        route = shape.route
        if route is not None and route.clauses and query and await self._has_collation(shape.collection):
            # The index on the id has the collation, which the filter of the route does not take. The keys alone are as
            # exact as both.
            found = self._found(shape.collection, time, query, {})
        else:
            found = self._found(shape.collection, time, query, {}, route=route)
        async with aclosing(found) as batches:
            async for batch in batches:
                if route is None:
                    yield await self._rows(batch)
                else:
                    yield await self._rows(_admitted(batch, route), route.redaction)

    async def _rows(self, batch: list[bytes], redaction: Redactor | None = None) -> list[SnapshotDocument]:
        """Encode documents, without what is hidden, in slices, because a batch may have 16 MiB."""
        rows: list[SnapshotDocument] = []
        slices, above = Slices(), self._offload.above
        for raw in batch:
            length = len(raw)
            if length <= above:
                rows.append(_row(raw, redaction))
            else:
                id_text, row = await self._offload.run(_row_aside, raw, redaction, size=length)
                rows.append(SnapshotDocument(id_text, row.text))
            await slices.did(length)
        return rows

    async def read(
        self, collection: str, time: Timestamp, query: Document | None = None, *, fields: Document | None = None
    ) -> AsyncGenerator[bytes]:
        """Yield the stored documents of `collection`, in BSON, at cluster time `time`, in id order.

        Raises `Unavailable`; if MongoDB no longer keeps that time, `TimeNotKept` or `CollectionGone`.
        """
        async with aclosing(self._found(collection, time, query or {}, fields or {})) as batches:
            async for batch in batches:
                for document in batch:
                    yield document

    async def _found(
        self, collection: str, time: Timestamp, query: Document, fields: Document, route: Route | View | None = None
    ) -> AsyncGenerator[list[bytes]]:
        any_found = False
        # Without a filter there is nothing to find by an index.
        is_found = route is not None and bool(route.clauses)
        options = {"collation": {"locale": "simple"}} if is_found else {"sort": {"_id": 1}}
        command = {"projection": fields, "readConcern": {"level": "snapshot", "atClusterTime": time}} | options
        command["filter"] = writable({"$and": [query, route.filter]} if route is not None and is_found else query)
        async with aclosing(self._read(collection, command)) as batches:
            async for batch in batches:
                any_found = True
                yield batch
        if any_found:
            return
        # MongoDB before 7.0 returns nothing for a collection that was dropped or renamed since, whatever its state at
        # `time` was. An empty result is valid only if the present collection existed during the whole read. MongoDB
        # refuses to read a collection at a time before its creation, so the second read shows that.
        identity = await self._identity(collection)
        if identity is not None:
            async with aclosing(self._read(collection, command)) as batches:
                async for batch in batches:
                    yield batch
        if identity is None or identity != await self._identity(collection):
            raise CollectionGone(f"{collection} was dropped or renamed just now: it can't be read as it was before")

    async def _has_collation(self, collection: str) -> bool:
        """Return True if a collection has a collation; it is asked once a minute, because a new one may have none."""

        async def fetch() -> bool:
            return "collation" in (await self._listed(collection)).get("options", {})

        return await self._collations.get(collection, fetch)

    async def _identity(self, collection: str) -> Any:
        """Return the UUID of a collection, or None if it does not exist."""
        return (await self._listed(collection)).get("info", {}).get("uuid")

    async def _listed(self, collection: str) -> Document:
        """Return MongoDB's description of a collection; an empty one if it does not exist."""
        command = {"listCollections": 1, "filter": {"name": collection}}
        with translated("the collections can't be listed"):
            answer = await self._database.command(command, codec_options=CODEC)
        found: list[Document] = answer["cursor"]["firstBatch"]
        return found[0] if found else {}

    async def _read(self, collection: str, command: Document) -> AsyncGenerator[list[bytes]]:
        """Yield batches. The next batch is fetched while one is used."""
        with translated(f"a snapshot of {collection} can't be read"):
            try:
                async with (
                    # A causally consistent session would add `afterClusterTime`, which excludes `atClusterTime`.
                    self._database.client.start_session(causal_consistency=False) as session,
                    raw_find(
                        self._database[collection], command, session=session, batch=self._batch, size=self._size
                    ) as cursor,
                    ahead(cursor.next) as batches,
                ):
                    async for batch in batches:
                        yield batch
            except OperationFailure as error:
                if error.code in _TOO_OLD:
                    raise TimeNotKept(collection) from error
                if may_last(error):
                    raise ReadRefused(collection, error) from error
                raise


def query_for(shape: Shape) -> Document:
    """Return the query for the documents of a shape in its collection, besides the filter of its route."""
    return {} if shape.id is None else {"_id": query_of(parse_id(shape.id))}


def _admitted(batch: list[bytes], route: Route | View) -> list[bytes]:
    """Leave out documents whose events have no key of the route, because they have too many, or can't be read."""
    if not route.clauses:
        return batch
    return [raw for raw in batch if route.admits(checked(decode(raw, JSON_CODEC), raw))]


def _row(raw: bytes, redaction: Redactor | None) -> SnapshotDocument:
    version, document = unversioned(decode(raw, JSON_CODEC))
    id_text = format_id(document["_id"])
    row = {"id": id_text, "version": version, "doc": document}
    text = to_json(row, plain=not is_misread(raw))
    # In JSON, as events are: what is hidden must not depend on the way to it.
    return SnapshotDocument(id_text, text if redaction is None else redacted_row(text, redaction))


def _row_aside(raw: bytes, redaction: Redactor | None) -> tuple[IdText, JsonText]:
    """Encode a row in a helper process."""
    id_text, row = _row(raw, redaction)
    return id_text, JsonText(row)
