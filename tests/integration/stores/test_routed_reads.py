"""The events of a route, read by the index of keys, from MongoDB and from segments."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import orjson
import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.declarations import MAX_DEFINITIONS
from eventsync.domain.predicates.definitions import define
from eventsync.domain.predicates.keys import MAX_KEYS
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.replay import DamagedEvents
from eventsync.domain.routes import Routes
from eventsync.domain.segments import footer
from eventsync.domain.shapes import Shape
from eventsync.settings import Settings
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.hot_tier import in_order
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.log.tiers import BehindHorizon
from eventsync.stores.stores import Stores
from support.archives import archiver, begun, event, everything, hot_seqs, in_segments, sealed

DEFINITION = define("by_n", "docs", {"n": "$n"}, {"n": ["int"]})
IN_ANY = define("in_any", "docs", {"n": {"$in": "$n"}}, {"n": ["int"]})


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Segments of 20 events in blocks of a few; 15 events stay hot."""
    return in_segments(settings, tmp_path, segment_block_bytes=1024)


def key(number: int) -> bytes:
    return DEFINITION.bind({"n": number}).key


def bound(number: int, since: int = 0) -> Shape:
    declared = RoutedShape.of("by_n", {"n": [number]})
    return Shape("by_n", None, declared, DEFINITION.bind_shape(declared, since, revision=1))


def in_any(*numbers: int) -> Shape:
    declared = RoutedShape.of("in_any", {"n": numbers})
    return Shape("in_any", None, declared, IN_ANY.bind_shape(declared, revision=1))


def routed(seq: int, *keys: bytes, **lists: frozenset[bytes] | bytes) -> NewEvent:
    new = event(seq)
    return new._replace(event=new.event._replace(routes=Routes(tuple(sorted(keys)), **lists)))  # type: ignore[arg-type]


EVENTS = [
    event(1),
    routed(2, key(1)),
    routed(3, key(2)),
    event(4, "others"),
    routed(5, key(1), key(2), enters=frozenset([key(2)]), leaves=frozenset([key(1)]), document=b'{"_id":1}'),
    routed(6, key(3)),
    routed(7, key(1)),
    event(8),
]


async def read(
    stores: Stores, log: LogId, after: int, up_to: int, shape: Shape, batch: int = 1000
) -> list[StoredEvent]:
    return [found async for found in stores.events.read(log, Seq(after), Seq(up_to), shape=shape, batch=batch)]


@pytest.mark.parametrize("batch", [1, 2, 1000])
async def test_a_route_is_read_with_its_routes(stores: Stores, batch: int) -> None:
    await stores.ensure_indexes()
    log = await begun(stores, EVENTS)
    expected = {1: [2, 5, 7], 2: [3, 5], 3: [6], 4: []}
    for number, seqs in expected.items():
        assert await read(stores, log, 0, 8, bound(number), batch) == [EVENTS[seq - 1].event for seq in seqs]
    assert await read(stores, log, 2, 6, bound(1), batch) == [EVENTS[4].event]


async def test_a_route_of_several_keys_has_each_event_once(stores: Stores) -> None:
    await stores.ensure_indexes()
    one, two = (IN_ANY.bind({"n": [number]}).key for number in (1, 2))
    log = await begun(stores, [routed(1, one), routed(2, one, two), routed(3, two), event(4)])
    assert [found.seq for found in await read(stores, log, 0, 4, in_any(1, 2))] == [1, 2, 3]
    # More than MongoDB merges by the index.
    assert [found.seq for found in await read(stores, log, 0, 4, in_any(*range(300)))] == [1, 2, 3]


async def test_a_route_is_found_by_the_index(stores: Stores) -> None:
    await stores.ensure_indexes()
    log = await begun(stores, [routed(seq, key(seq % 50)) for seq in range(1, 501)])
    query = in_order(log, Seq(100), Seq(500), bound(7))
    plan = await stores.log["events"].find(query.query, sort=list(query.order), hint=query.hint).explain()
    statistics = plan["executionStats"]
    assert (statistics["nReturned"], statistics["totalDocsExamined"]) == (8, 8)
    assert statistics["totalKeysExamined"] <= 10


async def test_a_missing_event_is_reported_whatever_its_keys(stores: Stores) -> None:
    await stores.ensure_indexes()
    log = await begun(stores, EVENTS)
    await stores.log["events"].delete_one({"_id.n": 6})
    with pytest.raises(DamagedEvents, match="event 6 is missing"):
        await read(stores, log, 0, 8, bound(1))


@pytest.mark.parametrize("change", [{"k": [b"short"]}, {"k": 7}, {"e": b"short"}, {"d": 5}])
async def test_damaged_routes_are_reported(stores: Stores, change: dict[str, object]) -> None:
    await stores.ensure_indexes()
    log = await begun(stores, EVENTS)
    await stores.log["events"].update_one({"_id.n": 5}, {"$set": change})
    with pytest.raises(DamagedEvents, match=f"event {log}:5 can't be read"):
        await read(stores, log, 0, 8, Shape("docs"))


async def test_archived_events_keep_their_routes(stores: Stores, settings: Settings) -> None:
    await stores.ensure_indexes()
    later = [routed(seq, key(seq % 3)) for seq in range(9, 60)]
    log = await begun(stores, [*EVENTS, *later])
    await archiver(stores, settings).run_once()
    assert (await hot_seqs(stores, log))[0] > 20
    assert await everything(stores, log, 0, 59) == [sealed(new) for new in (*EVENTS, *later)]
    expected = [new.event for new in (*EVENTS, *later) if new.event.routes and key(1) in new.event.routes.keys]
    assert await read(stores, log, 0, 59, bound(1)) == expected


async def test_a_segment_of_an_earlier_version_can_not_be_read_by_key(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = footer.pack_footer
    monkeypatch.setattr(
        "eventsync.domain.segments.file.pack_footer",
        lambda made, offset: real(dataclasses.replace(made, has_routes=False), offset),
    )
    await stores.ensure_indexes()
    log = await begun(stores, [event(seq) for seq in range(1, 60)])
    await archiver(stores, settings).run_once()
    first = (await hot_seqs(stores, log))[0]
    with pytest.raises(BehindHorizon):
        await read(stores, log, 0, 59, bound(1))
    assert await read(stores, log, first - 1, 59, bound(1)) == []
    assert len(await read(stores, log, 0, 59, Shape("docs"))) == 59
    assert orjson.loads((await read(stores, log, 0, 1, Shape("docs")))[0].body)["seq"] == 1


async def test_an_event_holds_the_most_keys_that_a_collection_can_have(stores: Stores) -> None:
    count = MAX_DEFINITIONS * MAX_KEYS
    keys = [number.to_bytes(16, "big") for number in range(2 * count)]
    new = event(1, pad=random.Random(1).randbytes(4_000_000).hex())
    document = orjson.dumps({"noise": random.Random(2).randbytes(2_000_000).hex()})
    routes = Routes(tuple(keys), frozenset(keys[count:]), frozenset(keys[:count]), document)
    new = new._replace(event=new.event._replace(routes=routes))
    await stores.ensure_indexes()
    log = await begun(stores, [new])
    assert await read(stores, log, 0, 1, Shape("docs")) == [new.event]
    assert await stores.log["events"].count_documents({"_id.l": log, "k": keys[7]}, hint="by_route") == 1
