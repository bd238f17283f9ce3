"""Sequencers that are broken on purpose, on a real MongoDB: the checker finds each, by the right promise."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import pytest
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import ReturnDocument

from eventsync.domain.events import TransactionPart, place
from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.change_stream import Token, watch
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.converter import convert
from eventsync_workers.sequencing.images import enable_images
from eventsync_workers.sequencing.transactions import transaction_of
from support.chaos.checker import check
from support.chaos.evidence import Violation
from support.chaos.history import ALL, Effect, Recorder
from support.chaos.observed import gather
from support.chaos.rules import Bound

LOG = LogId("broken00")


class Change(NamedTuple):
    """One change that was read, and the transaction that it belongs to. `dropped`: its whole collection was dropped."""

    raw: Mapping[str, Any]
    transaction: str | None
    dropped: bool = False


@dataclass(slots=True)
class Reader:
    """Reads the changes of `names` in the right order, from `token` on."""

    stores: Stores
    names: Sequence[str]
    token: Token

    async def read(self) -> list[Change]:
        """All that is committed by now; the token stays where it is."""
        now = (await self.stores.data.command("ping"))["operationTime"]
        pipeline = [{"$match": {"ns.coll": {"$in": list(self.names)}}}]
        changes: list[Change] = []
        async with watch(self.stores.data, pipeline, after=self.token, images=True) as stream:
            while True:
                batch = await stream.read(wait=0.05, limit=1000)
                for raw in batch.changes:
                    dropped = raw["operationType"] == "drop"
                    changes += _dropped(raw, changes) if dropped else [Change(raw, transaction_of(raw))]
                if not batch.changes and batch.time >= now:
                    return changes

    async def append(self, changes: Sequence[Change], first: int | None = None) -> None:
        """Store the changes under the numbers from `first` on; else behind the newest event."""
        events = self.stores.log["events"]
        if first is None:
            last = await events.find_one({"_id.l": LOG}, sort=[("_id", -1)])
            first = last["_id"]["n"] + 1 if last else 1
        rows = [_row(change, seq, mark) for seq, (change, mark) in enumerate(_groups(changes), start=first)]
        await events.insert_many(rows)


def _dropped(drop: RawBSONDocument, before: Sequence[Change]) -> list[Change]:
    """The deletion of each document that the changes so far have left in a collection that is dropped."""
    left: dict[str, dict[str, Any]] = {}
    for change in before:
        if change.raw["ns"] == drop["ns"]:
            raw = dict(change.raw)
            left[str(change.raw["documentKey"]["_id"])] = raw
            if raw["operationType"] == "delete":
                del left[str(change.raw["documentKey"]["_id"])]
    told = {name: drop[name] for name in ("_id", "clusterTime", "wallTime", "ns")} | {"operationType": "delete"}
    return [
        Change(told | {"documentKey": raw["documentKey"], "fullDocumentBeforeChange": raw["fullDocument"]}, None, True)
        for raw in left.values()
    ]


async def now(stores: Stores) -> Token:
    """Return the token at which a stream that is opened now begins."""
    async with watch(stores.data, []) as stream:
        return stream.token


def _groups(changes: Sequence[Change]) -> list[tuple[Change, TransactionPart | None]]:
    """The right marks, if `changes` holds whole transactions."""
    marked: list[tuple[Change, TransactionPart | None]] = []
    for name, members in itertools.groupby(changes, key=lambda change: change.transaction):
        found = list(members)
        for n, change in enumerate(found, 1):
            marked.append((change, TransactionPart(name, n, len(found)) if name and len(found) > 1 else None))
    return marked


def _row(change: Change, seq: int, mark: TransactionPart | None) -> dict[str, Any]:
    """The event as it is stored."""
    event = convert(change.raw)
    assert event is not None, "the broken ones meet no API deletes"
    stored = {
        "_id": {"l": LOG, "n": Int64(seq)},
        "t": change.raw["_id"]["_data"],
        "s": change.raw["clusterTime"],
        "c": event.collection,
        "i": event.id,
        "v": Int64(event.version),
        "b": place(event.encode(), Seq(seq), mark).decode(),
    }
    return stored | ({"g": {"id": mark.id, "n": mark.n, "of": mark.of}} if mark else {})


class ClockLeaseSequencer:
    """Its lease is judged by each worker's own clock, and its numbers come from a counter.

    A leader that was frozen wakes up and continues, and every number that it takes is free. `clock` gives seconds. The
    steps are separate, so that a test can freeze it between any two.
    """

    def __init__(self, name: str, reader: Reader, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._log = reader.stores.log
        self.read = reader.read
        self.insert = reader.append

    async def take_lease(self, seconds: float = 5.0) -> bool:
        """Try to take the lease; return True if this worker leads now."""
        held = await self._log["leases"].find_one({"_id": "broken"})
        if held is not None and held["owner"] != self._name and held["until"] > self._clock():
            return False
        lease = {"owner": self._name, "until": self._clock() + seconds}
        await self._log["leases"].replace_one({"_id": "broken"}, lease, upsert=True)
        return True

    async def number(self, changes: Sequence[Change]) -> int:
        """Take as many numbers; return the first."""
        counter = await self._log["counters"].find_one_and_update(
            {"_id": "seq"}, {"$inc": {"n": len(changes)}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        assert counter is not None
        return int(counter["n"]) - len(changes) + 1


class CrashedError(Exception):
    """It was killed here."""


class SeparateCheckpointSequencer:
    """Stores its token `before` or `after` the events; `run(crash=True)` dies between the two."""

    def __init__(self, reader: Reader, order: Literal["before", "after"]) -> None:
        self._reader = reader
        self._order = order
        self._checkpoints = reader.stores.log["checkpoints"]

    async def run(self, *, crash: bool = False) -> None:
        """Sequence all that is committed by now. Raises `CrashedError`."""
        if (found := await self._checkpoints.find_one({"_id": LOG})) is not None:
            self._reader.token = found["token"]
        if not (changes := await self._reader.read()):
            return
        steps = [self._checkpoint, self._reader.append]
        first, second = steps if self._order == "before" else reversed(steps)
        await first(changes)
        if crash:
            raise CrashedError
        await second(changes)

    async def _checkpoint(self, changes: Sequence[Change]) -> None:
        token = changes[-1].raw["_id"]["_data"]
        await self._checkpoints.replace_one({"_id": LOG}, {"token": token}, upsert=True)


Carelessness = Callable[[Sequence[Change], random.Random], list[list[Change]]]
"""Turns what was read into the batches that are appended."""


async def sequence(reader: Reader, careless: Carelessness, *, seed: int) -> None:
    """Append all that is committed by now, in the way of `careless`. Each batch is marked by itself."""
    for batch in careless(await reader.read(), random.Random(seed)):
        await reader.append(batch)


def right(changes: Sequence[Change], _random: random.Random) -> list[list[Change]]:
    """Not careless at all: what shows that it is the carelessness that the checker finds."""
    return [list(changes)]


def dropped(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """One event that is no part of a transaction is forgotten."""
    gone = choose.choice([index for index, change in enumerate(changes) if change.transaction is None])
    return [[change for index, change in enumerate(changes) if index != gone]]


def swapped(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """Two neighbours that are no part of a transaction, and of different documents, change places."""
    neighbours = [index for index in range(len(changes) - 1) if _independent(changes[index], changes[index + 1])]
    at = choose.choice(neighbours)
    return [[*changes[:at], changes[at + 1], changes[at], *changes[at + 2 :]]]


def _independent(one: Change, other: Change) -> bool:
    alone = one.transaction is None and other.transaction is None
    return alone and (one.raw["ns"], one.raw["documentKey"]) != (other.raw["ns"], other.raw["documentKey"])


def split(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """A batch ends in the middle of a transaction, and the rest of it is the next batch."""
    names = [change.transaction for change in changes]
    middles = [index for index in range(1, len(names)) if names[index] and names[index] == names[index - 1]]
    at = choose.choice(middles)
    return [list(changes[:at]), list(changes[at:])]


def half_dropped(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """A collection is dropped, and one of its documents stays."""
    gone = choose.choice([index for index, change in enumerate(changes) if change.dropped])
    return [[change for index, change in enumerate(changes) if index != gone]]


NAMES = ("orders", "stock")


class Bench:
    """A database, writes to it that are recorded, and a reader that stands before all of them."""

    def __init__(self, client: Client, settings: Settings, stores: Stores, reader: Reader) -> None:
        self.reader = reader
        self._client = client
        self._settings = settings
        self._stores = stores
        self.recorder = Recorder()
        self._count = 0

    def another(self) -> Reader:
        return Reader(self._stores, NAMES, self.reader.token)

    async def write(self, *documents: str, **fields: Any) -> None:
        """One update of each of `documents` (`collection/id`), of these fields too: several in one transaction."""
        self._count += 1
        name = f"w{self._count}"
        keys = [(document.split("/")[0], document.split("/")[1]) for document in documents]
        effects = [Effect(key, f"{name}.{n}") for n, key in enumerate(keys)]
        with self.recorder.writing(name, *effects):
            async with self._client.start_session() as session:
                if len(effects) > 1:
                    await session.start_transaction()
                for (collection, key), effect in zip(keys, effects, strict=True):
                    change = {"$set": {"mark": effect.mark, **fields}}
                    await self._stores.data[collection].update_one({"_id": key}, change, upsert=True, session=session)
                if session.in_transaction:
                    await session.commit_transaction()

    async def some(self) -> None:
        """Ten writes, one of them a transaction."""
        for number in range(10):
            await self.write(f"orders/{number % 3}", *(("stock/1", "stock/2") if number == 5 else ()))

    async def drop(self, collection: str) -> None:
        """The whole collection, and then it is there again."""
        self._count += 1
        with self.recorder.writing(f"w{self._count}", Effect((collection, ALL), None)):
            await self._stores.data[collection].drop()
        await enable_images(self._stores.data, NAMES)

    async def verdict(self, *asked: Bound) -> list[Violation]:
        return check(await gather(self._client, self._settings, self.recorder.history(), NAMES, asked))


@pytest.fixture
async def bench(client: Client, settings: Settings, stores: Stores) -> Bench:
    await enable_images(stores.data, NAMES)
    return Bench(client, settings, stores, Reader(stores, NAMES, await now(stores)))


def said(found: list[Violation]) -> set[tuple[str, str]]:
    return {(violation.promise, violation.message) for violation in found}


def promises(found: list[Violation]) -> set[str]:
    return {violation.promise for violation in found}


async def test_a_sequencer_that_is_right_passes(bench: Bench) -> None:
    await bench.some()
    await sequence(bench.reader, right, seed=1)
    assert await bench.verdict() == []


async def test_a_lease_by_the_clients_clock_doubles_what_a_frozen_leader_had_read(bench: Bench) -> None:
    one = ClockLeaseSequencer("one", bench.reader, clock=lambda: 100.0)
    two = ClockLeaseSequencer("two", bench.another(), clock=lambda: 110.0)
    await bench.some()
    assert await one.take_lease()
    read = await one.read()  # and here it is frozen, for longer than its lease by the other's clock
    assert await two.take_lease()
    others = await two.read()
    await two.insert(others, await two.number(others))
    await one.insert(read, await one.number(read))
    found = await bench.verdict()
    assert ("bijection", "one change has 2 events") in said(found)
    assert ("bijection", "an event has no committed change of its own") in said(found)
    assert "density" not in promises(found), "the counter hides it from whoever looks at the numbers only"


async def test_a_counter_leaves_a_hole_when_its_owner_dies(bench: Bench) -> None:
    one = ClockLeaseSequencer("one", bench.reader, clock=lambda: 100.0)
    two = ClockLeaseSequencer("two", bench.another(), clock=lambda: 110.0)
    await bench.some()
    await one.take_lease()
    await one.number(await one.read())  # and here it dies
    assert await two.take_lease()
    read = await two.read()
    await two.insert(read, await two.number(read))
    assert promises(await bench.verdict()) == {"density"}


async def test_leaders_by_two_clocks_reorder(bench: Bench) -> None:
    one = ClockLeaseSequencer("one", bench.reader, clock=lambda: 100.0)
    await bench.write("orders/1")
    early = await one.read()
    bench.reader.token = early[-1].raw["_id"]["_data"]
    two = ClockLeaseSequencer("two", bench.another(), clock=lambda: 110.0)
    await bench.write("orders/2")
    late = await two.read()
    await two.insert(late, await two.number(late))
    await one.insert(early, await one.number(early))
    found = await bench.verdict()
    assert promises(found) == {"order"}
    assert len(found) == 2, "seen by real time and by the oplog"


async def test_a_checkpoint_before_the_events_loses_them(bench: Bench) -> None:
    await bench.some()
    sequencer = SeparateCheckpointSequencer(bench.reader, "before")
    with pytest.raises(CrashedError):
        await sequencer.run(crash=True)
    await bench.write("stock/9")
    await sequencer.run()
    found = await bench.verdict()
    assert {"survival", "bijection", "state"} == promises(found)
    assert ("survival", "an acknowledged write has no event (of orders/0)") in said(found)


async def test_a_checkpoint_after_the_events_doubles_them(bench: Bench) -> None:
    await bench.some()
    sequencer = SeparateCheckpointSequencer(bench.reader, "after")
    with pytest.raises(CrashedError):
        await sequencer.run(crash=True)
    await sequencer.run()
    found = await bench.verdict()
    assert ("bijection", "one change has 2 events") in said(found)
    assert "chain" in promises(found)


@pytest.mark.parametrize("seed", range(3))
async def test_a_dropped_event(bench: Bench, seed: int) -> None:
    await bench.some()
    await sequence(bench.reader, dropped, seed=seed)
    assert {"survival", "bijection"} <= promises(await bench.verdict())


@pytest.mark.parametrize("seed", range(3))
async def test_a_swapped_pair(bench: Bench, seed: int) -> None:
    await bench.some()
    await sequence(bench.reader, swapped, seed=seed)
    found = await bench.verdict()
    assert promises(found) == {"order"}
    assert len(found[-1].witness) == 4, "two events and their two commits"


async def test_a_split_transaction(bench: Bench) -> None:
    await bench.some()
    await sequence(bench.reader, split, seed=1)
    assert promises(await bench.verdict()) == {"groups"}


async def test_a_drop_that_is_right_passes(bench: Bench) -> None:
    await bench.some()
    await bench.drop("orders")
    await bench.some()
    await sequence(bench.reader, right, seed=1)
    assert await bench.verdict() == []


@pytest.mark.parametrize("seed", range(3))
async def test_a_drop_whose_deletes_miss_one_document(bench: Bench, seed: int) -> None:
    await bench.some()
    await bench.drop("orders")
    await sequence(bench.reader, half_dropped, seed=seed)
    found = await bench.verdict()
    assert ("bijection", "a committed change has no event") in said(found)
    assert "state" in promises(found)
