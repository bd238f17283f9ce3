"""A log that is dropped, emptied or changed while a worker appends to it: a new one begins at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.settings import Settings
from eventsync.stores.archive.segments import Segment
from eventsync.stores.log.events import EventStore, NewEvent
from eventsync.stores.log.logs import LogLost
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.audit import Appended, Audit, Known
from support import waiting
from support.replay import assert_complete, began, caught_up, current_log, eventually, snapshot, tracked
from support.systems import running_server, running_worker
from support.tcp_proxy import tcp_proxy
from support.waiting import within

Damage = Callable[[Stores, LogId], Awaitable[object]]


def dropped(name: str) -> Damage:
    async def damage(stores: Stores, _: LogId) -> None:
        await stores.log.drop_collection(name)

    damage.__name__ = f"{name}_dropped"
    return damage


def emptied(name: str) -> Damage:
    async def damage(stores: Stores, _: LogId) -> None:
        await stores.log[name].delete_many({})

    damage.__name__ = f"{name}_emptied"
    return damage


async def database_dropped(stores: Stores, _: LogId) -> None:
    await stores.log.client.drop_database(stores.log.name)


async def record_deleted(stores: Stores, log: LogId) -> None:
    await stores.log["logs"].delete_one({"_id": log})


async def newest_event_deleted(stores: Stores, log: LogId) -> None:
    await stores.log["events"].delete_one({"_id": {"l": log, "n": Int64(await stores.events.head(log))}})


async def newest_event_overwritten(stores: Stores, log: LogId) -> None:
    key = {"l": log, "n": Int64(await stores.events.head(log))}
    await stores.log["events"].update_one({"_id": key}, {"$set": {"b": '{"seq":3}'}})


async def newest_event_replaced(stores: Stores, log: LogId) -> None:
    key = {"l": log, "n": Int64(await stores.events.head(log))}
    await stores.log["events"].replace_one({"_id": key}, {"junk": 1})


DAMAGES: list[Damage] = [
    database_dropped,
    dropped("events"),
    emptied("events"),
    dropped("logs"),
    emptied("logs"),
    record_deleted,
    dropped("collections"),
    emptied("collections"),
    newest_event_deleted,
    newest_event_overwritten,
    newest_event_replaced,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
async def test_a_log_that_is_lost_under_a_worker_is_followed_by_a_new_one(
    stores: Stores, settings: Settings, damage: Damage
) -> None:
    async with running_worker(settings):
        old = await began(stores, "docs", "others")
        await stores.data["docs"].insert_many([{"_id": number} for number in range(3)])
        await caught_up(stores)
        await damage(stores, old)
        log = await followed(stores, old)
        await tracked(stores, "docs", "others")
        base = await snapshot(stores, await caught_up(stores), "docs")
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"after": True}})
        await caught_up(stores)
        found = await stores.logs.current()
        assert await current_log(stores) == log, "and no further one"
    assert found is not None
    assert found.number > 1
    assert sorted(key for _, key in base.rows) == ["int:0", "int:1", "int:2"]
    assert [event async for event in stores.events.read(log, Seq(base.seq))], "and it continues"


@pytest.mark.parametrize("name", ["heads", "leases", "snapshots", "pins", "state_vectors", "horizons"])
@pytest.mark.parametrize("lose", [dropped, emptied])
async def test_collections_that_are_made_again_begin_no_new_log(
    stores: Stores, settings: Settings, name: str, lose: Callable[[str], Damage]
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await caught_up(stores)
        await lose(name)(stores, log)
        await stores.data["docs"].insert_one({"_id": 2})
        await assert_complete(stores, "docs")
    assert await current_log(stores) == log


async def test_records_of_clients_expire_in_a_log_that_is_made_again(stores: Stores, settings: Settings) -> None:
    """The servers make these indexes, not the worker."""

    async def expires() -> bool:
        return all(["at_1" in await stores.log[name].index_information() for name in ("operations", "state_vectors")])

    async with running_worker(settings), running_server(settings):
        old = await began(stores, "docs")
        await waiting.eventually(expires)
        await database_dropped(stores, old)
        await waiting.eventually(expires)


async def followed(stores: Stores, old: LogId) -> LogId:
    """Wait until another log is in force. By asking: no change stream outlives its database."""
    async with within(20):
        while (found := await stores.logs.current()) is None or found.id == old:  # noqa: ASYNC110 - as it says
            await asyncio.sleep(0.02)
    return found.id


async def sealed(stores: Stores, log: LogId) -> Segment:
    """Wait until all that may be is in segments, and nothing moves any more."""

    async def check() -> Segment | None:
        newest = await stores.archive.segments.newest(log)
        return newest if newest and (await stores.tiers.read(log)).archived_up_to == newest.span.last == 25 else None

    return await eventually(stores, "tiers", check)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiers", "segments", "touched", "tallies"])
@pytest.mark.parametrize("lose", [dropped, emptied])
async def test_the_loss_of_the_archives_records_begins_a_new_log(
    stores: Stores, settings: Settings, tmp_path: object, name: str, lose: Callable[[str], Damage]
) -> None:
    archiving = settings.model_copy(
        update={"archive_url": str(tmp_path), "hot_events": 5, "segment_events": 5, "snapshot_events": 5}
    )
    async with running_worker(archiving):
        old = await began(stores, "docs")
        for number in range(30):
            await stores.data["docs"].insert_one({"_id": number})
        await caught_up(stores)
        await sealed(stores, old)
        await lose(name)(stores, old)
        await followed(stores, old)
        await tracked(stores, "docs")
        assert len((await snapshot(stores, await caught_up(stores), "docs")).rows) == 30


@pytest.mark.slow
async def test_audit_that_never_saw_events_archived_takes_their_loss_for_no_hole(
    stores: Stores, settings: Settings, tmp_path: object
) -> None:
    """As where the record of where they are is lost between the first move of events and the audit behind it."""
    archiving = settings.model_copy(
        update={"archive_url": str(tmp_path), "hot_events": 5, "segment_events": 5, "snapshot_events": 5}
    )
    async with running_worker(archiving):
        log = await began(stores, "docs")
        for number in range(30):
            await stores.data["docs"].insert_one({"_id": number})
        await caught_up(stores)
        await sealed(stores, log)

        async def are_dropped() -> bool | None:
            return True if await stores.hot.first(log) == 26 else None

        await eventually(stores, "events", are_dropped)
    current, newest = await stores.logs.require(), await stores.events.tail(log)
    assert newest is not None
    known = Known(Appended(newest.seq, newest.token), ("docs",))
    await stores.log["tiers"].delete_many({})
    with pytest.raises(LogLost, match="the log has lost its events 1 to 25"):
        await Audit(stores, current, lambda: known).check()
    # A hole behind the beginning is no loss of the log: an operator decides on it.
    await stores.tiers.raise_archived_up_to(log, Seq(25))
    await stores.log["events"].delete_one({"_id.n": 28})
    await Audit(stores, current, lambda: known).check()


async def test_a_log_number_is_not_given_out_twice(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        first = await began(stores, "docs")
        await stores.logs.request_reset("by hand")
        second = await followed(stores, first)
        await caught_up(stores)
    await stores.log["logs"].delete_many({})
    async with running_worker(settings):
        await followed(stores, second)
        found = await stores.logs.current()
    assert found is not None
    assert found.number == 3
    assert found.id not in {first, second}


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [database_dropped, dropped("logs"), emptied("logs"), record_deleted], ids=lambda damage: damage.__name__
)
async def test_a_server_goes_on_although_no_worker_remembers_the_lost_log(
    stores: Stores, settings: Settings, damage: Damage
) -> None:
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=waiting.patience(20)) as client:

        async def is_followed() -> bool:
            current, state = await stores.logs.current(), (await client.get("/readyz")).json()
            return current is not None and state["live"] and state["position"].startswith(f"{current.id}:")

        async with running_worker(settings):
            first = await began(stores, "docs")
            await stores.logs.request_reset("by hand")
            second = await followed(stores, first)
            await caught_up(stores)
            await waiting.eventually(is_followed, 30)
        await damage(stores, second)
        # Another process, which has never led: it begins as if there had been no log, or continues the first.
        async with running_worker(settings):
            await waiting.eventually(is_followed, 30)
            found = await stores.logs.current()
    assert found is not None
    assert found.number > 2
    assert found.id not in {first, second}


@pytest.mark.parametrize(
    ("row", "renews"),
    [
        ({"_id": "unheard-of", "number": Int64(9)}, True),
        ({"_id": "unheard-of", "number": "9"}, False),
        ({"_id": 7, "number": Int64(9)}, False),
    ],
    ids=["incomplete", "without a number", "without an id"],
)
async def test_a_record_that_no_worker_wrote_ends_no_worker(
    stores: Stores, settings: Settings, row: dict[str, object], renews: bool
) -> None:
    async with running_worker(settings):
        old = await began(stores, "docs")
    await stores.log["logs"].insert_one({"stream": "main", **row})
    async with running_worker(settings):
        if renews:
            await followed(stores, LogId("unheard-of"))
            await tracked(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        log = await caught_up(stores)
        events = [event async for event in stores.events.read(log, Seq(0))]
    assert (log == old) is not renews
    assert [event.id for event in events] == ["int:1"]


async def test_events_of_before_a_restored_backup_are_not_appended_to_the_restored_log(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is turned back while an insert is about to be sent, and the connection breaks, as a restart breaks it."""
    append, kept = EventStore.append, 3
    turned_back = asyncio.Event()
    async with tcp_proxy(f"http://{urlsplit(settings.mongodb_uri or '').netloc}") as proxy:

        async def appending(self: EventStore, log: LogId, events: Sequence[NewEvent], **options: Any) -> None:
            if events[-1].event.seq > 2 * kept and not turned_back.is_set():
                await stores.log["events"].delete_many({"_id.n": {"$gt": kept}})
                await stores.log["heads"].update_one({"_id": log}, {"$set": {"seq": Int64(0), "time": Timestamp(1, 1)}})
                proxy.cut()
                turned_back.set()
            await append(self, log, events, **options)

        monkeypatch.setattr(EventStore, "append", appending)
        uri = f"mongodb://{urlsplit(proxy.url).netloc}/?directConnection=true"
        async with running_worker(settings.model_copy(update={"mongodb_uri": uri})):
            old = await began(stores, "docs")
            for number in range(2 * kept):
                await stores.data["docs"].insert_one({"_id": number})
            await caught_up(stores)
            await stores.data["docs"].insert_one({"_id": "after"})
            async with within(20):
                await turned_back.wait()
            async with within(20):
                while (current := await stores.logs.current()) is None or current.id == old:
                    assert await stores.events.head(old) <= kept
            assert await stores.events.head(old) == kept
            checkpoint = await stores.logs.read_checkpoint(old)
    assert checkpoint is not None
    assert checkpoint.seq <= kept
