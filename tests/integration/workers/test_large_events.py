"""Events whose JSON is too large for a MongoDB document."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.positions import Seq
from eventsync.domain.values.extended_json import Document
from eventsync.settings import Settings
from eventsync.stores.history.differing import same_state
from eventsync.stores.stores import Stores
from support.histories import based, collection_at, newest_checkpoint, state_of
from support.replay import assert_complete, began, caught_up, current_log, replayed
from support.replica import to_tree
from support.systems import running_worker

pytestmark = pytest.mark.slow


def incompressible() -> Document:
    """As large as MongoDB's limit lets it be."""
    return {"bytes": os.urandom(16_777_150)}


def numbers() -> Document:
    """Nearly as large, of types some of which JSON tells by marks only."""
    rng = random.Random(5)
    triples = ((Int64(rng.randrange(2**31)), rng.random(), ObjectId(rng.randbytes(12))) for _ in range(315_000))
    return {"values": [value for triple in triples for value in triple]}


async def test_a_document_that_is_larger_as_json_than_mongodb_may_hold(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await began(stores, "docs")
        await stores.data["docs"].insert_one({"_id": 1, "bytes": os.urandom(13_000_000)})
        await stores.data["docs"].insert_one({"_id": 2})
        await assert_complete(stores, "docs")


@pytest.mark.parametrize("large", [incompressible, numbers])
async def test_an_event_too_large_even_compressed_is_kept_in_parts(
    stores: Stores, settings: Settings, large: Callable[[], Document]
) -> None:
    docs, content = stores.data["docs"], large()
    async with running_worker(settings):
        log = await began(stores, "docs")
        await based(stores, log, "docs")
        await docs.insert_one({"_id": 1} | content)
        await docs.update_one({"_id": 1}, {"$unset": dict.fromkeys(content, ""), "$set": {"n": 1}})
        await docs.insert_one({"_id": 2} | content)
        replay = await replayed(stores, await caught_up(stores))
        assert await current_log(stores) == log
        said = await state_of(stores, log, "docs", Seq(replay.seq))
        there = await collection_at(stores, "docs", await newest_checkpoint(stores, log))
    assert [event["op"] for event in replay.events][::2] == ["create", "create"]
    assert replay.of("docs")["int:2"] == (0, to_tree({"_id": 2} | content))
    assert await stores.log["event_parts"].count_documents({}) >= 2
    exact = {key: same_state(there[key], said.get(key)) for key in there}
    assert exact == {"int:1": True, "int:2": True}
