"""Writes at the same time, by one storage and by several: every writer learns what became of its own operation."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonpatch import apply_patch
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError, PyMongoError

from eventsync.domain.condition import Condition, Tags
from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.stamp import Stamp, unstamp
from eventsync.domain.values.extended_json import Document, same
from eventsync.errors import (
    Conflict,
    EventsyncError,
    Malformed,
    NotFound,
    PatchFailed,
    TooLarge,
    Unavailable,
    VersionMismatch,
)
from eventsync.mongodb.client import Client, app_name, connect
from eventsync.nodestorage import Author, JsonPatch, MergePatch, NodeStorage, WritePolicy, WriteResult
from eventsync.settings import Settings
from support.failpoints import faults
from support.tcp_proxy import TcpProxy, tcp_proxy
from support.waiting import eventually, within

NAME, _END = "orders", "end"
IDS = ("a", "b", "c", "d", "large", "unmade")
_LARGE = 300_000
"""More than a filter compares: such a document is written in a transaction."""

Act = Callable[[NodeStorage, Author], Awaitable[WriteResult]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One operation, and its writer's answer."""

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
        """Make `count` random operations and `foreign` writes by the driver, at the same time."""
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
    """Fail unless the changes with an operation's id are its writer's answer. `tags`: of all states there were."""
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
        assert same(apply_patch(document, told.patch), after)


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


PATIENT = WritePolicy(attempts=1000, deadline=30.0)


@pytest.fixture(params=[1, 3], ids=["one storage", "three"])
async def race(request: pytest.FixtureRequest, outside: Any) -> AsyncIterator[Race]:
    storages = [NodeStorage(outside, outside.operations, PATIENT) for _ in range(request.param)]
    async with racing(outside, *storages) as found:
        yield found


def results(told: list[Any]) -> list[WriteResult]:
    return [one for one in told if isinstance(one, WriteResult)]


@pytest.mark.parametrize("seed", range(4))
async def test_writers_foreign_writers_and_deletes_race(race: Race, seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(8):
        await race.mixed(choose, count=choose.choice([2, 16, 40]), foreign=choose.randrange(8))
    await race.judge()
    assert len(results([attempt.told for attempt in race.attempts])) > 20, "else nothing was proved"


async def test_operations_on_one_document_make_one_version_each(race: Race) -> None:
    told = results(await race.together([edit("a", append(n)) for n in range(60)]))
    assert sorted(result.version for result in told) == list(range(2, 62))
    for result in told:
        assert result.patch == [{"op": "add", "path": f"/l/{result.version - 2}", "value": result.document["l"][-1]}]
    assert sorted(result.document["l"][-1] for result in told) == list(range(60))
    await race.judge()


async def test_800_increments_through_one_storage_are_800_versions(outside: Any) -> None:
    storage = NodeStorage(outside, outside.operations, PATIENT)
    async with racing(outside, storage) as race:

        async def write() -> None:
            for _ in range(100):
                await race.attempt(edit("a", increment))

        await asyncio.gather(*(write() for _ in range(8)))
        node = await storage.get(NAME, "a")
        assert node is not None
        assert (node.document["n"], node.version) == (800, 801)
        await race.judge()


async def test_conditional_writes_have_one_winner(race: Race) -> None:
    at_first = Condition.at_version(1)
    told = await race.together([edit("a", MergePatch({"a": n}), at_first) for n in range(30)])
    [winner] = results(told)
    assert winner.version == 2
    refused = [one for one in told if one is not winner]
    assert all(isinstance(error, VersionMismatch) and error.current == 2 for error in refused)
    creations = [replace("new", {"a": n}, Condition.absent()) for n in range(30)]
    assert len(results(await race.together(creations))) == 1
    await race.judge()


async def test_nothing_is_decided_on_an_old_state(race: Race, outside: Any) -> None:
    """A foreign writer changes the document between any two operations of ours."""
    docs, query = outside[NAME], {"_id": "a"}

    async def made(change: Any, condition: Condition | None = None) -> bool:
        return isinstance(await race.attempt(edit("a", change, condition)), WriteResult)

    assert await made(MergePatch({"a": 1}))
    await docs.update_one(query, {"$set": {"a": 2}})
    again = await race.attempt(edit("a", MergePatch({"a": 1})))
    assert isinstance(again, WriteResult)
    assert again.patch == [{"op": "replace", "path": "/a", "value": 1}]
    await docs.update_one(query, {"$set": {"n": 5}})
    assert await made(JsonPatch([{"op": "test", "path": "/n", "value": 5}, {"op": "add", "path": "/n", "value": 6}]))
    await docs.update_one(query, {"$set": {"n": 7}})
    node = await race.storages[0].get(NAME, "a")
    assert node is not None
    now = Condition(Tags.parse([node.etag], "If-Match"))
    assert await made(append(1), now)
    await docs.update_one(query, {"$set": {"n": 8}})
    assert not await made(append(2), now)
    await docs.delete_one(query)
    assert isinstance(await race.attempt(edit("a", append(3))), NotFound)
    await docs.insert_one({**query, "l": []})
    assert await made(append(4))
    await race.judge()


async def test_refused_operations_spoil_no_other_one(race: Race) -> None:
    await race.attempt(edit("b", MergePatch({"u": 7})))
    good = [edit(key, append(n)) for n, key in enumerate(IDS[:4] * 4)]
    bad = {
        Conflict: edit("a", MergePatch({"u": 7})),
        Malformed: edit("c", MergePatch({"n": 5000})),
        PatchFailed: edit("d", JsonPatch([{"op": "test", "path": "/n", "value": -1}])),
        TooLarge: edit("a", MergePatch({"text": "x" * PATIENT.document_bytes})),
        VersionMismatch: edit("b", MergePatch({"a": 1}), Condition.at_version(77)),
    }
    acts = [*good, *bad.values()]
    order = random.Random(1).sample(range(len(acts)), len(acts))
    told = dict(zip(order, await race.together([acts[n] for n in order]), strict=True))
    assert len(results([told[n] for n in range(len(good))])) == len(good)
    assert [type(told[n]) for n in range(len(good), len(acts))] == list(bad)
    assert "u" in str(told[len(good)])
    await race.judge()


async def test_the_same_refused_operation_is_refused_each_time(race: Race) -> None:
    """The later ones would change nothing, if the first one had been made."""
    await race.attempt(edit("b", MergePatch({"u": 7})))
    told = await race.together([edit("a", MergePatch({"n": 5000})) for _ in range(9)])
    assert {type(one) for one in told} == {Malformed}
    told = await race.together([edit("c", MergePatch({"u": 7})) for _ in range(9)])
    assert {type(one) for one in told} == {Conflict}
    await race.judge()


async def test_a_value_that_is_unique_goes_to_one_of_many(race: Race) -> None:
    keys = [f"k{n}" for n in range(12)]
    await race.together([create({"_id": key, "l": []}) for key in keys])
    claims = [edit(key, MergePatch({"u": 1})) for key in keys]
    told = await race.together([*claims, *(edit(key, append(1)) for key in keys)])
    assert len(results(told[: len(keys)])) == 1
    assert all(isinstance(one, WriteResult | Conflict) for one in told)
    assert len(results(told[len(keys) :])) == len(keys)
    await race.judge()


async def test_a_document_that_mongodb_finds_too_large_spoils_no_other(outside: Any) -> None:
    storage = NodeStorage(outside, outside.operations, WritePolicy(document_bytes=32 * 1024 * 1024))
    async with racing(outside, storage) as race:
        half = "x" * (9 * 1024 * 1024)
        assert isinstance(await race.attempt(edit("a", MergePatch({"x": half}))), WriteResult)
        told = await race.together([edit("a", MergePatch({"y": half})), *(edit("b", append(n)) for n in range(10))])
        assert isinstance(told[0], TooLarge)
        assert len(results(told)) == 10


@asynccontextmanager
async def reached(uri: str, settings: Settings, deadline: float = 5.0) -> AsyncIterator[NodeStorage]:
    """A storage on a client of its own."""
    limited = settings.model_copy(update={"mongodb_uri": uri, "mongodb_timeout": 5.0})
    async with connect(limited, "serve") as client:
        database = client[settings.database]
        yield NodeStorage(database, database.operations, WritePolicy(deadline=deadline))


@pytest.fixture
async def proxied(settings: Settings, outside: Any, mongodb_uri: str) -> AsyncIterator[tuple[Race, TcpProxy]]:
    """A race whose storage reaches MongoDB through a proxy."""
    if not (port := urlsplit(mongodb_uri).port):
        pytest.skip("this MongoDB is no single node")
    async with tcp_proxy(f"mongodb://127.0.0.1:{port}") as proxy:
        uri = f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true"
        async with reached(uri, settings) as storage, racing(outside, storage) as race:
            yield race, proxy


@pytest.mark.slow
@pytest.mark.parametrize("lost", [1, 2, 4, 12])
async def test_lost_answers_are_called_neither_done_nor_failed(proxied: tuple[Race, TcpProxy], lost: int) -> None:
    race, proxy = proxied
    choose = random.Random(lost)
    for _ in range(3):
        proxy.lose("eventsync-serve", lost)
        await race.mixed(choose, count=24, foreign=4)
        proxy.lose("eventsync-serve", 0)
    await race.judge()


async def test_a_connection_that_breaks_in_a_burst(proxied: tuple[Race, TcpProxy]) -> None:
    race, proxy = proxied
    choose = random.Random(1)
    for _ in range(6):
        bursts = asyncio.gather(*(race.mixed(choose, count=8, foreign=2) for _ in range(3)))
        for _ in range(3):
            proxy.cut("eventsync-serve")
            await asyncio.sleep(0.003)
        await bursts
    await race.judge()


IN_DOUBT: dict[str, Any] = {"writeConcernError": {"code": 64, "errmsg": "in doubt"}}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [IN_DOUBT, {"closeConnection": True}, {"errorCode": 10107}])
async def test_faults_of_mongodb_itself(
    settings: Settings, client: Client, outside: Any, mongodb_uri: str, fault: dict[str, Any]
) -> None:
    commands = ["find", "findAndModify", "insert", "update", "bulkWrite", "commitTransaction"]
    choose = random.Random(1)
    async with reached(mongodb_uri, settings) as storage, racing(outside, storage) as race:
        for times in (1, 2, 5, 9):
            async with faults(client, commands, app=app_name(settings, "serve"), times=times, **fault):
                await race.mixed(choose, count=24, foreign=0)
        await race.judge()


async def test_deletes_whose_commit_stays_in_doubt_are_not_called_refused(
    settings: Settings, client: Client, outside: Any, mongodb_uri: str
) -> None:
    keys = [f"k{n}" for n in range(10)]
    async with reached(mongodb_uri, settings, deadline=0.3) as storage, racing(outside, storage) as race:
        await race.together([create({"_id": key}) for key in keys])
        async with faults(client, ["commitTransaction"], app=app_name(settings, "serve"), **IN_DOUBT):
            told = await race.together([delete(key) for key in keys])
        assert all(isinstance(one, WriteResult | Unavailable) for one in told), told
        await race.judge()
    await client.admin.command({"killAllSessions": []})  # a transaction that is left open keeps its locks


async def test_a_primary_that_steps_down(settings: Settings, client: Client, outside: Any, mongodb_uri: str) -> None:
    choose = random.Random(1)
    async with reached(mongodb_uri, settings) as storage, racing(outside, storage) as race:
        bursts = asyncio.gather(*(race.mixed(choose, count=12, foreign=0) for _ in range(4)))
        with suppress(PyMongoError):  # it closes connections, perhaps this one
            await client.admin.command({"replSetStepDown": 1, "force": True})
        await bursts

        async def writable() -> bool:
            return isinstance(await race.attempt(edit("a", MergePatch({"again": 1}))), WriteResult)

        await eventually(writable)
        await race.judge()
