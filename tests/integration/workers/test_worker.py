"""Workers as processes, killed, frozen and several at once: each change has exactly one event."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import Callable
from typing import Protocol

import pytest

from eventsync.concurrency.offload import _Helper
from eventsync.domain.positions import Seq
from eventsync.errors import Conflict, UnknownShape
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.log.event_parts import EventParts
from eventsync.stores.stores import SEQUENCING, Stores
from eventsync_workers.sequencing.sequencer import Sequencer
from eventsync_workers.worker import Worker
from support.histories import History
from support.load import under_load
from support.replay import assert_complete, current_log, eventually, tracked
from support.systems import running_worker


class Process(Protocol):
    pid: int

    def send(self, number: signal.Signals) -> None: ...
    def kill(self) -> None: ...
    def end(self) -> int: ...


Start = Callable[[], Process]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_period": 0.6})


async def leader(stores: Stores, *, other_than: int | None = None) -> int:
    """Wait for a live leader; returns its process id."""

    async def check() -> int | None:
        lease = await stores.leases.read(SEQUENCING)
        pid = int(lease.owner.split(":")[-2]) if lease is not None and lease.live else None
        return pid if pid != other_than else None

    return await eventually(stores, "leases", check)


async def progress(stores: Stores, events: int) -> None:
    """Wait until so many more events are in the log."""
    log = await current_log(stores)
    tail = await stores.events.tail(log)
    goal = (tail.seq if tail else 0) + events

    async def check() -> bool | None:
        tail = await stores.events.tail(log)
        return (tail is not None and tail.seq >= goal) or None

    await eventually(stores, "events", check)


async def test_kill_9_under_load_neither_loses_nor_duplicates_events(
    client: Client, stores: Stores, settings: Settings, start_worker: Start
) -> None:
    await stores.tracking.ask(["docs"])
    worker = start_worker()
    log = await tracked(stores, "docs")
    async with under_load(*(History.of(stores, "docs", seed, keys=range(20)).write for seed in range(3))):
        for _ in range(3):
            await progress(stores, 60)
            worker.kill()
            worker = start_worker()
        await progress(stores, 60)
    replay = await assert_complete(stores, "docs")
    assert replay.seq > 240
    assert await current_log(stores) == log
    assert any(event.get("txn") for event in replay.events)
    assert any("op_id" in event for event in replay.events)


@pytest.mark.slow
async def test_two_workers_compete_while_the_leader_is_frozen_repeatedly(
    client: Client, stores: Stores, settings: Settings, start_worker: Start
) -> None:
    await stores.tracking.ask(["docs"])
    workers = {worker.pid: worker for worker in (start_worker(), start_worker())}
    log = await tracked(stores, "docs")
    led = set()
    async with under_load(*(History.of(stores, "docs", seed, keys=range(20)).write for seed in range(3))):
        for _ in range(4):
            await progress(stores, 40)
            frozen = await leader(stores)
            led.add(frozen)
            workers[frozen].send(signal.SIGSTOP)
            await leader(stores, other_than=frozen)
            await progress(stores, 40)
            workers[frozen].send(signal.SIGCONT)
    replay = await assert_complete(stores, "docs")
    assert led == set(workers), "each has led, and each was frozen"
    assert replay.seq > 240
    assert await current_log(stores) == log


async def test_a_worker_ends_at_sigterm_and_hands_over(stores: Stores, settings: Settings, start_worker: Start) -> None:
    await stores.tracking.ask(["docs"])
    first, second = start_worker(), start_worker()
    await tracked(stores, "docs")
    ending = await leader(stores)
    one, other = (first, second) if ending == first.pid else (second, first)
    assert one.end() == 0
    assert await leader(stores, other_than=one.pid) == other.pid
    await stores.data["docs"].insert_one({"_id": 1})
    await assert_complete(stores, "docs")
    assert other.end() == 0


async def test_a_worker_that_fails_by_a_bug_ends_and_another_takes_over_at_once(
    stores: Stores, settings: Settings, start_worker: Start
) -> None:
    patient = settings.model_copy(update={"lease_period": 600.0})
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")

    async def fail(*_: object) -> None:
        raise KeyError("a bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sequencer, "lead", fail)
        with pytest.raises(ExceptionGroup) as caught:
            await Worker(patient, asyncio.Event()).run()
    assert caught.group_contains(KeyError, match="a bug")
    lease = await stores.leases.read(SEQUENCING)
    assert lease is not None
    assert not lease.live
    async with running_worker(patient):
        await stores.data["docs"].insert_one({"_id": 1})
        await assert_complete(stores, "docs")
    assert await current_log(stores) == log


async def test_an_error_that_no_term_expects_ends_the_term_and_not_the_worker(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lead, errors = Sequencer.lead, [UnknownShape("of another version"), Conflict("others change them all the time")]

    async def broken(sequencer: Sequencer, stopping: Callable[[], bool]) -> None:
        if errors:
            raise errors.pop()
        await lead(sequencer, stopping)

    monkeypatch.setattr(Sequencer, "lead", broken)
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await assert_complete(stores, "docs")
    alarms = [record.getMessage() for record in caplog.records if "ALARM" in record.getMessage()]
    text = "ALARM: an unexpected error ends the term: "
    assert alarms == [f"{text}conflict: others change them all the time", f"{text}unknown_shape: of another version"]


async def test_a_helper_that_can_not_be_started_ends_the_term_and_replaces_no_document(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spawned, refused = _Helper.spawned, [OSError(errno.EAGAIN, "no more processes")] * 3

    async def spawn() -> _Helper:
        if refused:
            raise refused.pop()
        return await spawned()

    monkeypatch.setattr(_Helper, "spawned", spawn)
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "t": "x" * 100_000})
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"n": 1}})
        replay = await assert_complete(stores, "docs")
    assert [event["op"] for event in replay.events] == ["create", "update"]
    assert not refused
    assert "a helper process could not be started ([Errno 11] no more processes); trying again" in caplog.text
    assert "ALARM" not in caplog.text


async def test_a_worker_that_comes_to_lead_sweeps_what_earlier_ones_left(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await EventParts(stores.log).write(log, Seq(1), b"x" * 100)
        await stores.data["docs"].insert_one({"_id": 1})
        await assert_complete(stores, "docs")
    assert await stores.log["event_parts"].count_documents({}) == 1
    async with running_worker(settings):
        await stores.data["docs"].insert_one({"_id": 2})
        await assert_complete(stores, "docs")
        assert await stores.log["event_parts"].count_documents({}) == 0


async def test_many_workers_in_one_log_from_the_very_beginning(stores: Stores, settings: Settings) -> None:
    """All of them make the indexes, ask for the collections and want to begin the log at the same moment."""
    asking = settings.model_copy(update={"collections": ("docs", "other")})
    async with running_worker(asking), running_worker(asking), running_worker(asking):
        await tracked(stores, "docs", "other")
        await stores.data["docs"].insert_one({"_id": 1})
        await assert_complete(stores, "docs")
    assert await stores.log["logs"].count_documents({}) == 1
