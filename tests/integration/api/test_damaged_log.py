"""Deleted or overwritten events: clients that need them are reset, and none skips them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from bson.int64 import Int64

from eventsync.cli.verify import prove
from eventsync.domain.positions import LogId
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.peers.peer import Asked, Peer
from support.peers.python import HttpxSse, Websockets
from support.replay import caught_up, eventually
from support.systems import head, running_server, running_system, tracked
from support.waiting import patience, within

Damage = Callable[[Stores, LogId], Awaitable[object]]
EVENTS = 30


async def deleted(stores: Stores, log: LogId) -> None:
    await stores.log["events"].delete_many({"_id": {"$in": [{"l": log, "n": Int64(n)} for n in (10, 11)]}})


def overwritten(name: str, change: dict[str, Any]) -> Damage:
    async def damage(stores: Stores, log: LogId) -> None:
        await stores.log["events"].update_one({"_id": {"l": log, "n": Int64(11)}}, change)

    damage.__name__ = name
    return damage


async def replaced(stores: Stores, log: LogId) -> None:
    await stores.log["events"].replace_one({"_id": {"l": log, "n": Int64(11)}}, {"junk": True})


DAMAGES: list[Damage] = [
    deleted,
    replaced,
    overwritten("body_is_a_number", {"$set": {"b": 5}}),
    overwritten("body_is_text", {"$set": {"b": "junk"}}),
    overwritten("body_is_empty", {"$set": {"b": ""}}),
    overwritten("body_is_bytes", {"$set": {"b": b"junk"}}),
    overwritten("body_is_cut", {"$set": {"b": '{"seq":11,"coll'}}),
    overwritten("body_is_gone", {"$unset": {"b": ""}}),
    overwritten("body_is_in_parts_that_are_missing", {"$set": {"b": {"v": "0" * 16, "of": 1, "sha256": b"0" * 32}}}),
    overwritten("body_names_no_parts", {"$set": {"b": {"x": 1}}}),
]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs", "others")})


async def written(stores: Stores) -> LogId:
    """Thirty events, of three documents in one collection and of one in another.

    Both collections have their first snapshots before. From one between the damage and what is asked for, the past
    would be known without the damaged event.
    """
    log = await caught_up(stores)

    async def based() -> bool | None:
        return True if len(await stores.snapshots.stored.listing(log)) == 2 else None

    await eventually(stores, "snapshots", based)
    for number in range(EVENTS):
        name, key = ("others", "0") if number % 5 == 4 else ("docs", str(number % 3))
        await stores.data[name].update_one({"_id": key}, {"$set": {"n": number}}, upsert=True)
    return await caught_up(stores)


async def messages(peer: Peer, url: str, shape: str, position: str) -> list[dict[str, Any]]:
    """Return the messages to a client that comes from `position`, until it is live."""
    told: list[dict[str, Any]] = []
    async with peer.open(url, Asked((shape,), {shape: position})) as link:
        while not told or told[-1]["type"] != "live":
            received = await link.receive()
            assert received is not None, told
            told.append(received.message)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=[damage.__name__ for damage in DAMAGES])
async def test_server_resets_clients_before_the_damage_and_serves_all_others(
    stores: Stores, settings: Settings, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_system(settings) as first:
        log = await written(stores)
        await damage(stores, log)
        async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(10)) as client:
            await tracked(url, settings.collections)
            # What can't be read at all may have been of any shape.
            anybody = damage in {deleted, replaced}
            await pages_stop_before_it(
                client, log, ("docs", "docs/1", *(("docs/0", "docs/2", "others") if anybody else ()))
            )
            await streams_are_reset_in_band(url, log, ("docs", "docs/1", *(("others",) if anybody else ())))
            await what_was_is_not_known(client, log)
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        async with httpx.AsyncClient(base_url=first, timeout=patience(10)) as client:
            page = await client.get("/v1/sync/log", params={"shape": "docs", "position": f"{log}:5", "limit": 100})
            assert page.status_code == 200, "whoever has them in memory serves them"
            assert len(page.json()["events"]) == 20
        current = await stores.logs.current()
        assert current is not None
        assert current.id == log, "a hole is the operator's to decide about"
    alarms = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert alarms
    assert all(text.startswith("ALARM: ") for text in alarms), alarms


async def pages_stop_before_it(client: httpx.AsyncClient, log: LogId, shapes: tuple[str, ...]) -> None:
    for shape in shapes:
        position = f"{log}:5"
        while True:
            page = await client.get("/v1/sync/log", params={"shape": shape, "position": position, "limit": 1})
            if page.status_code != 200:
                break
            assert "immutable" in page.headers["Cache-Control"]
            position = page.json()["to"]
            assert int(position.split(":")[1]) <= 10, (shape, page.text)
        assert (page.status_code, page.json()["reason"]) == (409, "damaged"), (shape, page.text)
        assert page.headers["Cache-Control"] == "no-store"


async def streams_are_reset_in_band(url: str, log: LogId, shapes: tuple[str, ...]) -> None:
    peers: list[Peer] = [Websockets(), HttpxSse()]
    for peer in peers:
        for shape in shapes:
            told = await messages(peer, url, shape, f"{log}:8")
            kinds = [message["type"] for message in told if message["type"] not in {"welcome", "progress", "events"}]
            # By the estimates of the moment a snapshot may be cheaper than the events. It needs none that is damaged.
            if kinds == ["snapshot", "live"]:
                continue
            assert kinds == ["reset", "snapshot", "live"], told
            reset = next(message for message in told if message["type"] == "reset")
            assert reset["reason"] == "damaged"
            before = told[: told.index(reset)]
            assert all(event["seq"] < 11 for message in before for event in message.get("events", ())), before
            behind = await messages(peer, url, shape, f"{log}:11")
            assert [message["type"] for message in behind if message["type"] != "welcome"] == ["events", "live"]


async def what_was_is_not_known(client: httpx.AsyncClient, log: LogId) -> None:
    history = await client.get("/v1/collections/docs/documents/1/events", params={"limit": 1000})
    assert (history.status_code, history.json()["code"]) == (410, "damaged"), history.text
    then = await client.get("/v1/collections/docs/documents/1", params={"position": f"{log}:20"})
    assert (then.status_code, then.json()["code"]) == (410, "damaged"), then.text
    now = await client.get("/v1/collections/docs/documents/1")
    assert now.status_code == 200


@pytest.mark.slow
async def test_verify_names_the_damage_and_a_new_log_repairs_it(stores: Stores, settings: Settings) -> None:
    async with running_system(settings) as url:
        log = await written(stores)
        await deleted(stores, log)
        await stores.log["events"].delete_one({"_id": {"l": log, "n": Int64(20)}})
        report = await prove(settings, [])
        assert report.wrong is not None
        assert report.wrong.text == "events 10 to 11, 20 are missing"
        await stores.logs.request_reset("a hole")
        async with httpx.AsyncClient(base_url=url, timeout=patience(10)) as client:

            async def begun() -> LogId | None:
                current = await stores.logs.current()
                return current.id if current and current.id != log else None

            new = await eventually(stores, "logs", begun)
            # The server hears of it later than this test: until then it serves the old log, from memory.
            async with within(20):
                while not (await head(url)).startswith(f"{new}:"):
                    continue
            await tracked(url, settings.collections)
            page = await client.get("/v1/sync/log", params={"shape": "docs", "position": f"{log}:8"})
            assert (page.status_code, page.json()["reason"]) == (409, "unknown_log")
        await caught_up(stores)

        async def based() -> bool | None:
            current = await stores.logs.current()
            return True if current and len(await stores.snapshots.stored.listing(current.id)) == 2 else None

        await eventually(stores, "snapshots", based)
        assert (await prove(settings, [])).whole
