"""Deciding many writes at a time: the event loop is not held up by all of them in one turn."""

from __future__ import annotations

import asyncio

import pytest
from bson.raw_bson import RawBSONDocument

from eventsync.concurrency.offload import inline
from eventsync.concurrency.slices import SLICE
from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.values.extended_json import RAW_CODEC
from eventsync.errors import Conflict
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.deciding import Decider
from eventsync.nodestorage.operations import Replace, Update, WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from support.mutants import framed

pytestmark = pytest.mark.anyio

AUTHOR = Author("somebody", "op")


async def test_documents_that_come_at_the_same_time_are_decided_one_after_the_other() -> None:
    decider = Decider(WritePolicy(), inline())
    raw = RawBSONDocument(encode({"_id": 1, "n": 0, "text": "x" * (SLICE // 2)}), RAW_CODEC)
    ended = 0

    async def write() -> None:
        nonlocal ended
        decision = await decider.prepared(Update("docs", 1, MergePatch({"n": 1})), AUTHOR)
        await decider.decide(decision, raw, AUTHOR)
        await decider.node(raw)
        ended += 1

    tasks = [asyncio.ensure_future(write()) for _ in range(20)]
    while ended < len(tasks):
        before = ended
        await asyncio.sleep(0)
        assert ended - before <= 2


TWICE = framed(*(encode(part)[4:-1] for part in ({"_id": 1, "owner": "ada"}, {"owner": "bob"})))


@pytest.mark.parametrize(
    "operation",
    [
        Update("docs", 1, MergePatch({"owner": "eve"})),
        Update("docs", 1, MergePatch({"owner": None})),
        Replace("docs", 1, {"n": 1}),
    ],
)
async def test_a_field_that_stands_twice_is_not_changed(operation: WriteOperation) -> None:
    """MongoDB changes the first value, where clients are shown the last, and aborts at some pipelines."""
    decider = Decider(WritePolicy(), inline())
    decision = await decider.prepared(operation, AUTHOR)
    with pytest.raises(Conflict, match="twice") as raised:
        await decider.decide(decision, RawBSONDocument(TWICE, RAW_CODEC), AUTHOR)
    assert raised.value.lasting


@pytest.mark.parametrize(
    "operation", [Update("docs", 1, MergePatch({"n": 1})), Replace("docs", 1, {"owner": "bob", "n": 1})]
)
async def test_fields_beside_it_are_changed(operation: WriteOperation) -> None:
    decider = Decider(WritePolicy(), inline())
    decision = await decider.prepared(operation, AUTHOR)
    planned = await decider.decide(decision, RawBSONDocument(TWICE, RAW_CODEC), AUTHOR)
    assert [step["path"] for step in planned.result.patch] == ["/n"]
