"""Group commits that are broken on purpose, below a real server: the checker finds each by the answers that it gave."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from eventsync.domain.entity_tag import digest_of
from eventsync.domain.ids import format_id
from eventsync.errors import Conflict, EventsyncError, NotFound, Unavailable
from eventsync.mongodb.client import Client
from eventsync.nodestorage import NodeStorage, WriteResult
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.chaos.checker import check
from support.chaos.history import Key, Recorder
from support.chaos.observed import gather
from support.chaos.workload import ApiWriter, burst
from support.replay import caught_up
from support.systems import running_system

KEYS = [("orders", f"o{number}") for number in range(4)]

Commit = Callable[[], Awaitable[WriteResult]]
"""Makes a change and returns what became of it."""

Breaking = Callable[[Commit, Callable[[], Awaitable[WriteResult]]], Awaitable[WriteResult]]
"""Answers a write, given the right commit of it, and a result that looks as if it had been made."""


async def right(commit: Commit, _: Commit) -> WriteResult:
    return await commit()


class Exchanged:
    """Every second writer gets the answer of the one before, who gets his."""

    def __init__(self) -> None:
        self._waits: tuple[WriteResult, asyncio.Future[WriteResult]] | None = None

    async def __call__(self, commit: Commit, _: Commit) -> WriteResult:
        own = await commit()
        if self._waits is not None:
            (others, answer), self._waits = self._waits, None
            if not answer.done():
                answer.set_result(own)
                return others
        answer = asyncio.get_running_loop().create_future()
        self._waits = own, answer
        try:
            return await asyncio.wait_for(answer, 0.2)
        except TimeoutError:
            return own


class Halved:
    """One of two writes is made, and both are acknowledged."""

    def __init__(self) -> None:
        self._count = 0

    async def __call__(self, commit: Commit, pretend: Commit) -> WriteResult:
        self._count += 1
        return await (commit() if self._count % 2 else pretend())


async def lost_called_done(commit: Commit, pretend: Commit) -> WriteResult:
    try:
        return await commit()
    except NotFound:
        raise
    except EventsyncError:
        return await pretend()


async def done_called_refused(commit: Commit, _: Commit) -> WriteResult:
    await commit()
    raise Conflict("other writers were faster 10 times; try again later")


async def done_called_unwritten(commit: Commit, _: Commit) -> WriteResult:
    await commit()
    raise Unavailable("orders/o1 can't be written: nothing was written")


async def older_version(commit: Commit, _: Commit) -> WriteResult:
    """Two writes of one document in a group, answered with the version of the first."""
    result = await commit()
    return replace(result, version=max(1, result.version - 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "promise", "message"),
    [
        (lambda: right, None, ""),
        (Exchanged, "answers", "was answered"),
        (Halved, "survival", "an acknowledged write has no event"),
        (lambda: lost_called_done, "survival", "an acknowledged write has no event"),
        (lambda: done_called_refused, "bijection", "a write that failed has an event"),
        (lambda: done_called_unwritten, "bijection", "a write that failed has an event"),
        (lambda: older_version, "answers", "was answered with version"),
    ],
    ids=["right", "exchanged", "halved", "lost called done", "refused", "unwritten", "older version"],
)
async def test_a_broken_group_commit_is_found(
    client: Client,
    settings: Settings,
    stores: Stores,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], Breaking],
    promise: str | None,
    message: str,
) -> None:
    _break(monkeypatch, make())
    recorder, statuses = Recorder(), Counter[int]()
    async with running_system(settings.model_copy(update={"collections": ("orders",)})) as url:
        versions: dict[Key, int] = {}
        writers = [
            ApiWriter(f"w{n}", recorder, url, KEYS, random.Random(n), statuses, versions, keyed=0.0) for n in range(8)
        ]
        for _ in range(15):
            await burst(writers)
        for writer in writers:
            await writer.close()
        await caught_up(stores)
    evidence = await gather(client, settings, recorder.history(), ["orders"])
    found = check(evidence)
    if promise is None:
        assert found == []
        assert evidence.history.count("ok") > 30
    else:
        assert any(item.promise == promise and message in item.message for item in found), found


def _break(monkeypatch: pytest.MonkeyPatch, broken: Breaking) -> None:
    update = NodeStorage.find_one_and_update

    async def write(storage: NodeStorage, collection: str, key: Any, *words: Any, **named: Any) -> WriteResult:
        async def commit() -> WriteResult:
            return await update(storage, collection, key, *words, **named)

        async def pretend() -> WriteResult:
            node = await storage.get(collection, key)
            if node is None:
                raise NotFound("there is no such document")
            digest = digest_of(node.document)
            return WriteResult(format_id(key), node.version + 1, node.document, [], known_digest=digest)

        return await broken(commit, pretend)

    monkeypatch.setattr(NodeStorage, "find_one_and_update", write)
