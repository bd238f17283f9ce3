"""The begin of a new log, if and only if the old one can't be continued."""

from __future__ import annotations

import re
from typing import Any

import pytest
from bson import Int64
from bson.timestamp import Timestamp

from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.failpoints import failing
from support.replay import assert_complete, began, caught_up, current_log, new_log, replayed, snapshot, tracked
from support.systems import running_worker


async def lose_the_checkpoint(stores: Stores) -> None:
    await stores.log["heads"].delete_many({})


async def lose_the_events(stores: Stores) -> None:
    await stores.log["events"].delete_many({})


async def come_from_another_cluster(stores: Stores) -> None:
    await stores.log["logs"].update_many({}, {"$set": {"cluster": "another"}})


async def come_from_the_future(stores: Stores) -> None:
    future = {"token": "82FFFFFFFF000000012B0229296E04", "time": Timestamp(2**32 - 1, 1), "seq": Int64(1)}
    await stores.log["heads"].update_many({}, {"$set": future})


LOSSES: list[tuple[Any, str]] = [
    (lose_the_checkpoint, "lost its checkpoint"),
    (lose_the_events, "lost its events 1 to 1"),
    (come_from_another_cluster, "belongs to another"),
    (come_from_the_future, "ahead of MongoDB"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("lose", "reason"), LOSSES, ids=[lose.__name__ for lose, _ in LOSSES])
async def test_a_log_that_can_not_be_continued_is_followed_by_a_new_one(
    stores: Stores, settings: Settings, lose: Any, reason: str
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        await caught_up(stores)
    await lose(stores)
    async with running_worker(settings):
        await new_log(stores, log)
        new = await tracked(stores, "docs")
        await stores.data["docs"].delete_many({})
        base = await snapshot(stores, await caught_up(stores), "docs")
        await stores.data["docs"].insert_one({"_id": 3})
        replay = await replayed(stores, await caught_up(stores), base)
    assert new != log
    found = await stores.logs.current()
    assert found is not None
    assert found.number == 2
    assert re.search(reason, found.reason), found.reason
    assert list(replay.of("docs")) == ["int:3"]


async def test_a_requested_reset_begins_a_new_log(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1})
        head = await stores.events.head(await caught_up(stores))
        await stores.logs.request_reset("by hand")
        await new_log(stores, log)
        await tracked(stores, "docs")
        found = await stores.logs.current()
    assert found is not None
    assert (found.number, found.reason, found.reset) == (2, "by hand", None)
    last, first = await stores.logs.beginnings()
    assert (last.log, last.kind, last.previous, last.head) == (found, "requested", log, head)
    assert (first.log.id, first.kind, first.previous, first.head) == (log, "first", None, None)
    assert None not in {first.at, last.at}


async def test_new_log_that_a_term_finds_requested_is_logged(
    stores: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
    await stores.logs.request_reset("by hand")
    async with running_worker(settings):
        new = await new_log(stores, log)
    warnings = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert f"beginning a new log after {log}: by hand" in warnings
    assert [text for text in warnings if text.startswith(f"log {new}: no rules are in force, and nothing is revoked")]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "code"), [("getMore", 43), ("insert", 50), ("update", 112)])
async def test_an_interrupted_stream_begins_no_new_log(
    client: Client, stores: Stores, settings: Settings, command: str, code: int
) -> None:
    async with running_worker(settings):
        log = await began(stores, "docs")
        async with failing(client, command, code, app=app_name(settings, "worker"), times=2):
            for number in range(20):
                await stores.data["docs"].insert_one({"_id": number})
            replay = await assert_complete(stores, "docs")
    assert replay.seq == 20
    assert await current_log(stores) == log
