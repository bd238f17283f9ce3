"""`eventsync verify` proves the routes in the log, and names the first event whose routes are wrong."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64

from eventsync.cli.verify import prove
from eventsync.domain.positions import LogId
from eventsync.domain.predicates.definitions import Route, define
from eventsync.domain.routes import joined
from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.history.proof import Report
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from integration.workers.test_converter_property import Maker
from integration.workers.test_repair import based
from integration.workers.test_routes import DEFINITIONS, change_at_random, routed
from support import waiting
from support.replay import caught_up, eventually
from support.systems import running_worker
from support.waiting import patience

BY_N = define("by_n", "docs", {"n": "$n"}, {"n": ["int"]})
ONE, TWO, FAR = (BY_N.bind({"n": number}).key for number in (1, 2, 77))


async def wrong(settings: Settings) -> str | None:
    async def proved() -> Report | None:
        # MongoDB does not read at a time at which a collection is being made.
        with suppress(Unavailable):
            return await prove(settings, ["docs"])
        return None

    (proof,) = (await waiting.eventually(proved, patience(20))).proofs
    return None if proof.wrong is None else proof.wrong.text


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    cold = {"archive_url": str(tmp_path), "hot_events": 10, "hot_age": 10.0**9, "segment_events": 20}
    return settings.model_copy(update=cold | {"snapshot_events": 50, "snapshot_min_events": 20})


async def active(stores: Stores) -> bool | None:
    return True if all(shape.log for shape in (await stores.definitions.read()).shapes) else None


async def sealed(stores: Stores, log: LogId, seq: int) -> bool | None:
    """True once the worker's archiver has moved the events up to `seq` to the archive."""
    return (await stores.tiers.read(log)).archived_up_to >= seq or None


@pytest.mark.slow
async def test_the_routes_of_random_changes_are_proved(client: Client, stores: Stores, settings: Settings) -> None:
    await stores.definitions.apply([Declaration.of(definition) for definition in DEFINITIONS])
    async with running_worker(settings):
        log = await routed(stores, await based(stores, settings, "docs"))
        await change_at_random(client, stores, Maker(random.randrange(10**6)), 8, 8)
        await caught_up(stores)
        assert await wrong(settings) is None
        # Definitions that are removed, changed, and activated later than others.
        later = [*DEFINITIONS[2:], define("by_num", "docs", {"num": "$v"}, {"v": ["number"]}), BY_N]
        await stores.definitions.apply([Declaration.of(definition) for definition in later])
        await stores.data["docs"].insert_one({"_id": "one", "n": 1})
        await eventually(stores, "shapes", lambda: active(stores))
        await stores.data["docs"].update_one({"_id": "one"}, {"$set": {"n": 2}})
        await caught_up(stores)
        assert await wrong(settings) is None
        await eventually(stores, "tiers", lambda: sealed(stores, log, 20))
        assert await wrong(settings) is None


async def moved(stores: Stores, settings: Settings) -> LogId:
    """A log of five events: one document is made in route 1, moves to 2, stays, is replaced in 1, and is deleted."""
    docs = stores.data["docs"]
    await stores.definitions.apply([Declaration.of(BY_N)])
    async with running_worker(settings):
        log = await routed(stores, await based(stores, settings, "docs"))
        await docs.insert_one({"_id": 1, "n": 1, "pad": "x" * 100})
        await docs.update_one({"_id": 1}, {"$set": {"n": 2}})
        await docs.update_one({"_id": 1}, {"$set": {"m": 2}})
        await docs.replace_one({"_id": 1}, {"n": 1})
        await docs.delete_one({"_id": 1})
        await docs.insert_one({"_id": 2, "n": 77})
        await caught_up(stores)
    return log


TAMPER: list[tuple[int, dict[str, Any], str]] = [
    (1, {"$unset": {"k": ""}}, "event 1 (create of docs/int:1) has no key where its document is to stay"),
    (2, {"$unset": {"x": ""}}, "event 2 (update of docs/int:1) is to stay where its document is to leave"),
    (
        2,
        {"$set": {"k": [TWO], "e": joined({TWO})}},
        "event 2 (update of docs/int:1) has no key where its document is to",
    ),
    (2, {"$set": {"d": '{"_id":1,"n":3}'}}, "event 2 (update of docs/int:1) has not beside it the document"),
    (2, {"$unset": {"d": ""}}, "event 2 (update of docs/int:1) has not beside it the document"),
    (3, {"$set": {"e": joined({TWO})}}, "event 3 (update of docs/int:1) is to enter where its document is to stay"),
    (3, {"$push": {"k": FAR}}, "event 3 (update of docs/int:1) has the key of a route that its document is not in"),
    (4, {"$set": {"k": [ONE]}}, "event 4 (replace of docs/int:1) has no key where its document is to leave"),
    (5, {"$set": {"k": [TWO]}}, "event 5 (delete of docs/int:1) has no key where its document is to stay"),
]


@pytest.mark.parametrize(("seq", "change", "text"), TAMPER)
async def test_wrong_routes_are_named(
    stores: Stores, settings: Settings, seq: int, change: dict[str, Any], text: str
) -> None:
    log = await moved(stores, settings)
    assert await wrong(settings) is None
    await stores.log["events"].update_one({"_id": {"l": log, "n": Int64(seq)}}, change)
    assert str(await wrong(settings)).startswith(text)


async def test_routes_are_compared_with_the_results_of_their_filters(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await moved(stores, settings)
    monkeypatch.setattr(Route, "filter", {"n": {"$eq": 5}})
    assert await wrong(settings) == "docs/int:2 is in by_n?n=int:77 by its events, but MongoDB does not find it"
    (finding,) = (await prove(settings, ["docs"])).summary()["findings"]
    assert "docs has other routes" in finding["text"]
    assert "77" not in finding["text"]
