"""Ad hoc reads: the documents that a filter finds, in any order, a page at a time.

A page continues behind the sort key of its last document, as MongoDB computes it: an array counts by its smallest item,
or by its largest where the order descends, and a field that is missing counts as null. So a page begins where the last
one ended, whatever was written between them.

An ad hoc read is bounded: MongoDB must find the documents by an index, sort them in memory without the disk, and finish
within `timeout`.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from inspect import isawaitable
from typing import Any, Final, NamedTuple

from bson import encode
from bson.decimal128 import Decimal128
from bson.errors import BSONError
from bson.objectid import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo.errors import ExecutionTimeout, OperationFailure

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.predicates.parsing import check_path
from eventsync.domain.predicates.predicate import Predicate
from eventsync.domain.values.extended_json import RAW_CODEC, decode
from eventsync.domain.views import View
from eventsync.errors import EventsyncError, IndexNeeded, InvalidPredicate, Malformed, TooComplex, TooLarge
from eventsync.mongodb.answer_size import AnswerSize
from eventsync.mongodb.clocks import max_time_ms
from eventsync.mongodb.errors import translated
from eventsync.mongodb.query_plans import SIMPLE, QueryPlans
from eventsync.nodestorage.transactions import durable

MAX_FIELDS: Final = 4
"""Most fields of an order."""

MAX_END_BYTES: Final = 2048
"""Longest sort key that a page can end at: it becomes part of a URL."""

_AT_ONCE: Final = 4
"""Most concurrent ad hoc reads. Each may take `timeout`."""

_BAD_VALUE: Final = 2
_INVALID_BSON: Final = 22
_MEMORY_EXCEEDED: Final = 292
"""QueryExceededMemoryLimitNoDiskUseAllowed: 100 MB by default."""

_COMPARABLE: Final = (str, int, float, ObjectId, datetime, Decimal128)
"""Types whose `$lt` and `$gt` find exactly the smaller and the larger ones of that type."""


@dataclass(frozen=True, slots=True)
class Sort:
    """An order of documents: paths, each with 1 (ascending) or -1. The last one is the id, which decides in the end."""

    fields: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, text: str) -> Sort:
        """Read `price,-created`, where `-` is for a descending order. Raises `InvalidPredicate`."""
        fields: dict[str, int] = {}
        if text.startswith("{"):
            raise InvalidPredicate("sort", "takes paths and no object: -created,name")
        for part in text.split(","):
            path = part.removeprefix("-")
            check_path(path, "sort")
            if any(name.isdecimal() for name in path.split(".")):
                # MongoDB fails where such a name is one of an object in an array, too.
                raise InvalidPredicate("sort", "no name of its paths is a number")
            if path in fields:
                raise InvalidPredicate("sort", f"{path} stands there twice")
            fields[path] = -1 if part.startswith("-") else 1
        if len(fields) > MAX_FIELDS:
            raise InvalidPredicate("sort", f"takes at most {MAX_FIELDS} paths")
        if "_id" in fields:
            # Nothing behind the id decides anything.
            names = list(fields)
            fields = {name: fields[name] for name in names[: names.index("_id") + 1]}
        else:
            fields["_id"] = list(fields.values())[-1]
        return cls(tuple(fields.items()))

    def __str__(self) -> str:
        return ",".join(path if direction > 0 else f"-{path}" for path, direction in self.fields)


BY_ID: Final = Sort((("_id", 1),))


@dataclass(frozen=True, slots=True)
class PageEnd:
    """The place behind a document in an order: BSON of the order's text and the document's sort key."""

    sort: Sort
    bson: bytes

    def __str__(self) -> str:
        """Return the text form. Raises `TooLarge` if it is too long for a request."""
        if len(self.bson) > MAX_END_BYTES:
            raise TooLarge(f"the page ends at values of more than {MAX_END_BYTES} bytes: sort by shorter ones")
        return urlsafe_b64encode(self.bson).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: str, sort: Sort) -> PageEnd:
        """Read the text form. Raises `Malformed` if it is no end of a page in this order."""
        try:
            bson = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            tree = decode(bson)
        except (NotBase64, BSONError, ValueError) as error:
            raise Malformed("after takes what `next` gave") from error
        if list(tree) != ["s", "k"] or tree["s"] != str(sort):
            raise Malformed("after takes what `next` gave for the same sort")
        # Of a name that is given twice, MongoDB would read the first one.
        before = encode({"s": str(sort)})[4:-1] + b"\x04k\0"
        keys = bson[4 + len(before) : -1]
        is_only = bson.startswith(before, 4) and int.from_bytes(keys[:4], "little") == len(keys)
        if not is_only or len(tree["k"]) != len(sort.fields):
            raise Malformed("after takes what `next` gave")
        return cls(sort, bson)

    @property
    def keys(self) -> list[Any]:
        """The sort key: a value for each field of the order."""
        keys: list[Any] = decode(self.bson)["k"]
        return keys


class FoundPage(NamedTuple):
    """Stored documents in an order, and the end of a page behind each. With `more`, others may follow."""

    raws: list[RawBSONDocument]
    ends: list[PageEnd]
    more: bool


class Queries:
    """Ad hoc reads of the collections of a database."""

    def __init__(self, database: Any, timeout: float) -> None:
        """`timeout` is the maximum time that MongoDB works on one page, in seconds."""
        self._database = database
        self._timeout = timeout
        self._plans = QueryPlans(database)
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._size = AnswerSize()

    async def page(
        self,
        collection: str,
        where: Predicate | None,
        sort: Sort,
        after: PageEnd | None,
        limit: int,
        max_bytes: int,
        *,
        route: Route | View | None = None,
        granted: Mapping[str, Any] | None = None,
    ) -> FoundPage:
        """Return documents that `where` matches, behind `after`, of a whole collection or of a route.

        With `granted`, only those that this filter finds, too. Raises `IndexNeeded`, `TooComplex` and
        `InvalidPredicate`. A route needs no index: an operator has declared it.
        """
        filters = [] if route is None else [route.filter]
        filters += [] if granted is None else [granted]
        filters += [] if where is None else [where.filter]
        async with self._at_once:
            if route is None:
                await self._check_index(collection, where, sort, granted)
            with _explained(collection, sort, self._timeout), translated(f"{collection} can't be read"):
                return await self._read(collection, _pipeline(filters, sort, after, limit), sort, limit, max_bytes)

    async def _check_index(
        self, collection: str, where: Predicate | None, sort: Sort, granted: Mapping[str, Any] | None
    ) -> None:
        """Raise `IndexNeeded` if MongoDB would read the whole collection.

        An index that serves `granted` is enough: then MongoDB reads only what may be read.
        """
        if granted is not None and not (await self._plans.plan(collection, granted)).is_scan:
            return
        if where is not None and where.filter:
            # Without the order, because for an order alone the planner walks through the index on the id.
            if (await self._plans.plan(collection, where.filter)).is_scan:
                raise IndexNeeded(
                    f"no index of {collection} finds these documents: create one on {_either(where.paths)}, or filter"
                    " by fields that have one; each part of an $or needs one"
                )
        elif (plan := await self._plans.plan(collection, {}, dict(sort.fields))).is_scan or plan.sorts:
            raise IndexNeeded(
                f"no index of {collection} has this order: create one on {', '.join(map(_spelled, sort.fields))}, in"
                " this order, or add a filter that an index serves"
            )

    async def _read(
        self, collection: str, pipeline: list[dict[str, Any]], sort: Sort, limit: int, max_bytes: int
    ) -> FoundPage:
        raws: list[RawBSONDocument] = []
        ends: list[PageEnd] = []
        size = 0
        cursor = durable(self._database[collection], RAW_CODEC).aggregate(
            pipeline,
            collation=SIMPLE,
            maxTimeMS=max_time_ms(self._timeout),
            allowDiskUse=False,
            batchSize=self._size.documents(limit + 1),
        )
        if isawaitable(cursor):  # PyMongo's, and not Motor's
            cursor = await cursor
        try:
            async for row in cursor:
                key, document = _parts(bytes(row.raw))
                raws.append(RawBSONDocument(document, RAW_CODEC))
                ends.append(PageEnd(sort, key))
                size += len(document)
                need(DOCUMENT_WEIGHT * size)
                if len(raws) == limit or size >= max_bytes:
                    break
        finally:
            await cursor.close()
        self._size.learn(len(raw.raw) for raw in raws)
        return FoundPage(raws, ends, len(raws) == limit or size >= max_bytes)


@contextmanager
def _explained(collection: str, sort: Sort, timeout: float) -> Iterator[None]:
    """Translate MongoDB's refusals of a query into errors that name a remedy."""
    try:
        yield
    except EventsyncError as error:
        cause = error.__cause__
        if isinstance(cause, ExecutionTimeout):
            raise TooComplex(
                f"reading {collection} so takes longer than {timeout:g} s: narrow the filter, or create an index that"
                " has its fields and then those of the sort"
            ) from error
        if isinstance(cause, OperationFailure) and cause.code == _MEMORY_EXCEEDED:
            raise TooComplex(
                f"there are too many documents to sort: create an index on {', '.join(map(_spelled, sort.fields))}, or"
                " narrow the filter"
            ) from error
        if isinstance(cause, OperationFailure) and cause.code == _BAD_VALUE:
            raise InvalidPredicate("sort", "two of its paths lead to arrays in one document") from error
        if isinstance(cause, OperationFailure) and cause.code == _INVALID_BSON:
            raise Malformed("after takes what `next` gave") from error
        raise


def _pipeline(
    filters: Iterable[Mapping[str, Any]], sort: Sort, after: PageEnd | None, limit: int
) -> list[dict[str, Any]]:
    conditions = list(filters)
    if after is not None:
        conditions += _not_before(sort, after)
    stages: list[dict[str, Any]] = [
        {"$match": {"$and": conditions} if conditions else {}},
        {"$sort": dict(sort.fields)},
        # In this order: a projection of `$$ROOT` leaves the bytes of a document as they are.
        {"$replaceWith": {"k": {"s": {"$literal": str(sort)}, "k": {"$meta": "sortKey"}}, "d": "$$ROOT"}},
    ]
    if after is not None:
        stages.append({"$match": {"$expr": _behind(sort, after)}})
    return [*stages, {"$limit": limit}]


def _not_before(sort: Sort, after: PageEnd) -> list[dict[str, Any]]:
    """Return a condition that all documents behind `after` satisfy, for an index to begin there.

    The sort key of such a document is not smaller than the first key of `after`, so no item of an array is.
    """
    (path, direction), key = sort.fields[0], after.keys[0]
    if isinstance(key, bool) or not isinstance(key, _COMPARABLE):
        return []
    return [{path: {"$not": {"$lt" if direction > 0 else "$gt": key}}}]


def _behind(sort: Sort, after: PageEnd) -> dict[str, Any]:
    """Return the expression that compares a sort key with that of `after`, field by field, in all types."""
    end = {"$literal": RawBSONDocument(after.bson, RAW_CODEC)}
    parts: list[dict[str, Any]] = []
    equal: list[dict[str, Any]] = []
    for number, (_, direction) in enumerate(sort.fields):
        pair = [{"$arrayElemAt": ["$k.k", number]}, {"$arrayElemAt": ["$$end.k", number]}]
        parts.append({"$and": [*equal, {"$gt" if direction > 0 else "$lt": pair}]})
        equal.append({"$eq": pair})
    return {"$let": {"vars": {"end": end}, "in": {"$or": parts}}}


def _parts(row: bytes) -> tuple[bytes, bytes]:
    """Return the bytes of the fields `k` and `d` of a row, both objects."""
    begin = 7  # the row's length, and the type and name of the first field
    end = begin + int.from_bytes(row[begin : begin + 4], "little")
    key, document = row[begin:end], row[end + 3 : -1]
    if row[4:7] != b"\x03k\0" or row[end : end + 3] != b"\x03d\0":
        raise AssertionError("MongoDB returned other fields than the pipeline has")
    return key, document


def _spelled(field: tuple[str, int]) -> str:
    return f"{field[0]}: {field[1]}"


def _either(paths: tuple[str, ...]) -> str:
    return ", ".join(paths) if paths else "the fields of the filter"
