"""Writers at the same time, and the judge of their answers: MongoDB's own changes, with the state before each."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync.domain.condition import Condition
from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.stamp import Stamp, unstamp
from eventsync.domain.values.extended_json import Document, same
from eventsync.errors import EventsyncError, Unavailable, VersionMismatch
from eventsync.nodestorage import Author, JsonPatch, MergePatch, NodeStorage, WriteResult
from support.replay import apply_patch
from support.waiting import within

NAME, _END = "orders", "end"
IDS = ("a", "b", "c", "d", "large", "unmade")
_LARGE = 300_000
"""More than a filter compares: such a document is written in a transaction."""

Act = Callable[[NodeStorage, Author], Awaitable[WriteResult]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One operation, and the answer to its writer."""

    author: Author
    told: WriteResult | EventsyncError


@dataclass
class Race:
    """Operations through `storages`, and foreign writes to `docs`, of documents whose changes `stream` has."""

    storages: Sequence[NodeStorage]
    outside: AsyncDatabase[dict[str, Any]]
    stream: AsyncChangeStream[dict[str, Any]]
    attempts: list[Attempt] = field(default_factory=list)

    async def attempt(self, act: Act, storage: NodeStorage | None = None) -> WriteResult | EventsyncError:
        """Carry out one operation; return the answer to its writer."""
        author = Author.new("racer")
        try:
            told: WriteResult | EventsyncError = await act(storage or self.storages[0], author)
        except EventsyncError as error:
            told = error
        self.attempts.append(Attempt(author, told))
        return told

    async def together(self, acts: Sequence[Act]) -> list[WriteResult | EventsyncError]:
        """Carry them out at the same time, each storage its share."""
        turns = [self.attempt(act, self.storages[n % len(self.storages)]) for n, act in enumerate(acts)]
        return await asyncio.gather(*turns)

    async def mixed(self, choose: random.Random, count: int, foreign: int) -> None:
        """So many random operations, and foreign writes, at the same time."""
        strangers = [_foreign(self.outside, choose) for _ in range(foreign)]
        await asyncio.gather(self.together([_act(choose) for _ in range(count)]), *strangers)

    async def judge(self) -> None:
        """Fail unless each attempt got exactly its outcome."""
        made: dict[str | None, list[dict[str, Any]]] = defaultdict(list)
        tags: set[str] = set()
        for change in await self._changes():
            tags |= set(_tags(change))
            if (stamp := _stamp(change, "fullDocument")) != _stamp(change, "fullDocumentBeforeChange"):
                made[stamp.op_id].append(change)
        for attempt in self.attempts:
            _judge(attempt.told, made.pop(attempt.author.op_id, []), tags)
        assert not made.keys() - {None}, "a change of no operation"

    async def _changes(self) -> list[dict[str, Any]]:
        end, found = secrets.token_hex(8), []
        await self.outside[_END].insert_one({"_id": end})
        async with within(30):
            while True:
                change = await self.stream.try_next()
                if change is not None and change["ns"]["coll"] == NAME:
                    found.append(change)
                elif change is not None and change["documentKey"]["_id"] == end:
                    return found


@asynccontextmanager
async def racing(outside: AsyncDatabase[dict[str, Any]], *storages: NodeStorage) -> AsyncIterator[Race]:
    """A race with some documents. A unique index allows each `u` once, a validator only an `n` below 1,000."""
    validator = {"$or": [{"n": {"$exists": False}}, {"n": {"$lt": 1000}}]}
    images = {"enabled": True}
    docs = await outside.create_collection(NAME, validator=validator, changeStreamPreAndPostImages=images)
    await docs.create_index("u", unique=True, partialFilterExpression={"u": {"$exists": True}})
    await outside.create_collection(_END)
    states: Any = {"full_document": "whenAvailable", "full_document_before_change": "whenAvailable"}
    async with await outside.watch(**states, max_await_time_ms=200) as stream:
        race = Race(storages, outside, stream)
        for key in IDS[:-1]:
            text = "x" * (_LARGE if key == "large" else 1)
            await race.attempt(create({"_id": key, "n": 0, "l": [], "text": text}))
        yield race


def _judge(told: WriteResult | EventsyncError, changes: list[dict[str, Any]], tags: set[str]) -> None:
    """Fail unless the changes with an operation's id are what its writer was answered. `tags` are of all states."""
    if isinstance(told, WriteResult | VersionMismatch) and told.etag is not None:
        assert told.etag in tags, f"there was no such state: {told}"
    if isinstance(told, Unavailable) and "unknown" in told.message:
        assert len(changes) <= 1, "an operation was carried out twice"
        return
    if isinstance(told, EventsyncError):
        assert not changes, f"it was refused, and is there: {told}"
        return
    if not told.created and told.document is not None and not told.patch:
        assert not changes, "nothing was to be changed"
        return
    assert len(changes) == 1, f"an acknowledged operation has {len(changes)} changes"
    [change] = changes
    stamp, after = unstamp(change["fullDocument"])
    assert (stamp.version, stamp.deleted) == (told.version, told.document is None)
    if told.document is not None:
        assert same(_plain(told.document), after)
    if not told.created:
        before, document = unstamp(change["fullDocumentBeforeChange"])
        assert told.version == before.version + 1
        assert same(apply_patch(told.patch, document), after)


def _tags(change: dict[str, Any]) -> Iterator[str]:
    """Yield the entity tags of the states before and after a change."""
    for image in ("fullDocumentBeforeChange", "fullDocument"):
        if change.get(image) is not None:
            stamp, document = unstamp(change[image])
            yield entity_tag(stamp.version, digest_of(document))


def _plain(document: Any) -> Document:
    assert isinstance(document, dict)
    return document


def _stamp(change: dict[str, Any], image: str) -> Stamp:
    document = change.get(image)
    return Stamp() if document is None else Stamp.of(document)


def increment(document: Document) -> Document:
    return {**document, "n": document.get("n", 0) + 1}


def append(item: Any) -> JsonPatch:
    return JsonPatch([{"op": "add", "path": "/l/-", "value": item}])


def edit(key: Any, change: Any, condition: Condition | None = None) -> Act:
    """The edit of a document, by a patch or a function."""
    return lambda storage, author: storage.find_one_and_update(NAME, key, change, condition, author=author)


def create(document: Document) -> Act:
    return lambda storage, author: storage.create(NAME, document, author=author)


def replace(key: Any, document: Document, condition: Condition | None = None) -> Act:
    """The replacement of a document, or its creation."""
    return lambda storage, author: storage.replace(NAME, key, document, condition, upsert=True, author=author)


def delete(key: Any) -> Act:
    return lambda storage, author: storage.delete(NAME, key, author=author)


def _act(choose: random.Random) -> Act:
    """A random operation; some are refused whatever comes before them."""
    key, number = choose.choice(IDS), choose.randrange(100)
    document = {"_id": key, "n": 0, "l": [number], "made": number}
    return choose.choice([
        edit(key, append(number)), edit(key, append(number)), edit(key, increment), edit(key, increment),
        edit(key, MergePatch({"a": number})), edit(key, MergePatch({"a": None, "b": {"c": number}})),
        edit(key, MergePatch({"u": number % 3})), edit(key, MergePatch({"u": None})),
        edit(key, MergePatch({"n": 1000 + number})), edit(key, MergePatch({})),
        edit(key, JsonPatch([{"op": "test", "path": "/n", "value": -1}])),
        edit(key, MergePatch({"a": number}), Condition.at_version(number % 20)),
        create(document), replace(key, document), delete(key),
    ])  # fmt: skip


async def _foreign(outside: AsyncDatabase[dict[str, Any]], choose: random.Random) -> None:
    docs, query, number = outside[NAME], {"_id": choose.choice(IDS)}, choose.randrange(100)
    kind = choose.randrange(6)
    with suppress(DuplicateKeyError):  # an upsert that meets another one
        if kind == 0:
            await docs.delete_one(query)
        elif kind == 1:
            await docs.replace_one(query, {"n": 0, "l": [], "foreign": number}, upsert=True)
        else:
            await docs.update_one(query, {"$inc": {"f": 1}, "$push": {"l": {"$each": [number], "$slice": -5}}})
