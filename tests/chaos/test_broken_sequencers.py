"""Sequencers that are broken on purpose, on a real MongoDB: the checker finds each, by the right promise."""

from __future__ import annotations

import pytest

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.images import enable_images
from support.chaos.broken import careless
from support.chaos.broken.clock_lease import ClockLeaseSequencer
from support.chaos.broken.separate_checkpoint import CrashedError, SeparateCheckpointSequencer
from support.chaos.broken.sequencer import Reader, now
from support.chaos.checker import check
from support.chaos.history import ALL, Effect, Recorder
from support.chaos.observed import gather
from support.chaos.violation import Violation

NAMES = ("orders", "stock")


class Bench:
    """A database, writes to it that are recorded, and a reader that stands before all of them."""

    def __init__(self, client: Client, settings: Settings, stores: Stores, reader: Reader) -> None:
        self.reader = reader
        self._client = client
        self._settings = settings
        self._stores = stores
        self._recorder = Recorder()
        self._count = 0

    def another(self) -> Reader:
        return Reader(self._stores, NAMES, self.reader.token)

    async def write(self, *documents: str) -> None:
        """One update of each of `documents` (`collection/id`): several in one transaction."""
        self._count += 1
        name = f"w{self._count}"
        keys = [(document.split("/")[0], document.split("/")[1]) for document in documents]
        effects = [Effect(key, f"{name}.{n}") for n, key in enumerate(keys)]
        self._recorder.invoke(name, "behind", effects)
        async with self._client.start_session() as session:
            if len(effects) > 1:
                await session.start_transaction()
            for (collection, key), effect in zip(keys, effects, strict=True):
                change = {"$set": {"mark": effect.mark}}
                await self._stores.data[collection].update_one({"_id": key}, change, upsert=True, session=session)
            if session.in_transaction:
                await session.commit_transaction()
        self._recorder.end(name, "ok")

    async def some(self) -> None:
        """Ten writes, one of them a transaction."""
        for number in range(10):
            await self.write(f"orders/{number % 3}", *(("stock/1", "stock/2") if number == 5 else ()))

    async def drop(self, collection: str) -> None:
        """The whole collection, and then it is there again."""
        self._count += 1
        self._recorder.invoke(f"w{self._count}", "behind", [Effect((collection, ALL), None)])
        await self._stores.data[collection].drop()
        self._recorder.end(f"w{self._count}", "ok")
        await enable_images(self._stores.data, NAMES)

    async def verdict(self) -> list[Violation]:
        evidence = await gather(
            self._client,
            self._recorder.history(),
            database=self._settings.database,
            log_database=self._settings.log_db,
            collections=NAMES,
        )
        return check(evidence)


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
    await careless.sequence(bench.reader, careless.right, seed=1)
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
    await careless.sequence(bench.reader, careless.dropped, seed=seed)
    assert {"survival", "bijection"} <= promises(await bench.verdict())


@pytest.mark.parametrize("seed", range(3))
async def test_a_swapped_pair(bench: Bench, seed: int) -> None:
    await bench.some()
    await careless.sequence(bench.reader, careless.swapped, seed=seed)
    found = await bench.verdict()
    assert promises(found) == {"order"}
    assert len(found[-1].witness) == 4, "two events and their two commits"


async def test_a_split_transaction(bench: Bench) -> None:
    await bench.some()
    await careless.sequence(bench.reader, careless.split, seed=1)
    assert promises(await bench.verdict()) == {"groups"}


async def test_a_drop_that_is_right_passes(bench: Bench) -> None:
    await bench.some()
    await bench.drop("orders")
    await bench.some()
    await careless.sequence(bench.reader, careless.right, seed=1)
    assert await bench.verdict() == []


@pytest.mark.parametrize("seed", range(3))
async def test_a_drop_whose_deletes_miss_one_document(bench: Bench, seed: int) -> None:
    await bench.some()
    await bench.drop("orders")
    await careless.sequence(bench.reader, careless.half_dropped, seed=seed)
    found = await bench.verdict()
    assert ("bijection", "a committed change has no event") in said(found)
    assert "state" in promises(found)
