"""Deciding many writes at a time: the event loop is not held up by all of them in one turn."""

from __future__ import annotations

import asyncio

import pytest
from bson.raw_bson import RawBSONDocument

from app.domain.merge_patch import MergePatch
from app.domain.opaque import encode
from app.domain.values import RAW_CODEC
from app.nodestorage.author import Author
from app.nodestorage.deciding import Decider
from app.nodestorage.operations import Update
from app.nodestorage.policy import WritePolicy
from app.offload import inline
from app.slices import SLICE

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
