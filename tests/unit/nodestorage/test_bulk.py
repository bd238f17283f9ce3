"""Bulk writes: many at a time, in order for each document, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError

from eventsync.concurrency.held_bytes import HeldBytes, need
from eventsync.domain.ids import format_id
from eventsync.errors import EventsyncError, Malformed, NotAttempted, NotFound, Unavailable
from eventsync.nodestorage import Author, BulkWrite, Delete, Replace, WritePolicy, WriteResult
from eventsync.nodestorage.bulk import BulkWriter
from eventsync.nodestorage.deciding import Decision
from eventsync.nodestorage.intent import intent_of
from support.waiting import scaled

AUTHOR = Author("tester", "1")
POLICY = WritePolicy(batch_concurrency=4, deadline=5.0)


class Writer:
    """In place of the `OperationWriter`: each write waits for `release`, and fails as `failing` says."""

    def __init__(self, failing: dict[str, Exception] | None = None) -> None:
        self.release = asyncio.Event()
        self.release.set()
        self.under_way = 0
        self.most = 0
        self.done: list[str] = []
        self.bytes = 0
        self._failing = failing or {}

    async def prepared(self, operation: Delete, _author: Author) -> Decision:
        return Decision(intent_of(operation, POLICY), operation, 0)

    def grouped(self, _decision: Decision, _author: Author) -> asyncio.Future[WriteResult | None] | None:
        return None

    async def decided(self, decision: Decision, _author: Author, _idempotency: None) -> WriteResult:
        key = str(decision.intent.id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            need(self.bytes)
            await self.release.wait()
            await asyncio.sleep(0)
            if key in self._failing:
                raise self._failing[key]
            self.done.append(key)
        finally:
            self.under_way -= 1
        return WriteResult(format_id(key), len(self.done), None, [])


async def given(keys: Iterable[str | EventsyncError]) -> AsyncIterator[BulkWrite | EventsyncError]:
    for key in keys:
        yield key if isinstance(key, EventsyncError) else BulkWrite(Delete("c", key), AUTHOR)


def running(
    writer: Any, keys: Iterable[str | EventsyncError], policy: WritePolicy = POLICY, within: float = 5.0
) -> Any:
    outcomes: AsyncGenerator[list[Any]] = BulkWriter(writer, policy, within).run(given(keys))
    return aclosing(outcomes)


async def outcomes_of(writer: Any, keys: Iterable[str | EventsyncError], **options: Any) -> list[Any]:
    async with running(writer, keys, **options) as outcomes:
        return [outcome async for some in outcomes for outcome in some]


async def test_outcomes_come_in_the_order_of_the_writes() -> None:
    unread = Malformed("line 3")
    writer = Writer({"b": NotFound("c/b")})
    found = await outcomes_of(writer, ["a", "b", unread, "d", "e", "f"])
    assert [item.id if isinstance(item, WriteResult) else item.code for item in found] == [
        "a",
        "not_found",
        "malformed",
        "d",
        "e",
        "f",
    ]


async def test_number_of_operations_under_way_is_bounded() -> None:
    writer = Writer()
    assert len(await outcomes_of(writer, map(str, range(50)))) == 50
    assert writer.most == POLICY.batch_concurrency


async def test_operations_on_one_document_follow_each_other_even_after_an_error() -> None:
    writer = Writer({"x": NotFound("c/x")})
    writer.release.clear()
    asyncio.get_running_loop().call_later(0.01, writer.release.set)
    found = await outcomes_of(writer, ["x", "x", "x"])
    assert writer.most == 1
    assert [item.code for item in found] == ["not_found"] * 3


async def test_unexpected_error_concerns_its_operation_alone(caplog: pytest.LogCaptureFixture) -> None:
    writer = Writer({"b": ZeroDivisionError()})
    first, second, third = await outcomes_of(writer, ["a", "b", "c"])
    assert (first.id, second.code, third.id) == ("a", "internal", "c")
    assert "an operation of a batch failed" in caplog.text


async def test_no_operation_begins_after_the_deadline() -> None:
    writer = Writer()
    writer.release.clear()
    asyncio.get_running_loop().call_later(scaled(0.5), writer.release.set)
    found = await outcomes_of(writer, map(str, range(50)), policy=replace(POLICY, deadline=scaled(0.3)))
    assert len(found) == len(writer.done) == POLICY.batch_concurrency


async def test_operations_under_way_are_cancelled_in_the_end() -> None:
    writer = Writer()
    writer.release.clear()
    first, waiting, second = await outcomes_of(writer, ["x", "x", "y"], within=scaled(0.3))
    for item in (first, second):
        assert type(item) is Unavailable
        assert "the outcome is unknown" in item.message
    assert type(waiting) is NotAttempted
    assert writer.done == []
    assert writer.under_way == 0


async def test_caller_that_leaves_early_waits_for_what_is_under_way() -> None:
    writer = Writer()
    async with running(writer, map(str, range(50))) as outcomes:
        await anext(outcomes)
    assert writer.under_way == 0
    assert POLICY.batch_concurrency <= len(writer.done) <= 2 * POLICY.batch_concurrency


async def test_cancelled_caller_leaves_nothing_under_way() -> None:
    writer = Writer()
    writer.release.clear()
    task = asyncio.create_task(outcomes_of(writer, ["a", "b"]))
    while writer.under_way < 2:  # noqa: ASYNC110 - the event is in the stub
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert writer.under_way == 0
    assert writer.done == []


async def test_bytes_of_an_operation_are_held_until_its_outcome_is_taken() -> None:
    held = HeldBytes(1_000_000)
    writer = Writer()
    writer.bytes = 300_000
    with held.request():
        found = await outcomes_of(writer, ["a"] * 8)
        assert all(isinstance(item, WriteResult) for item in found), "one after another there is room"
        writer.release.clear()
        asyncio.get_running_loop().call_later(0.01, writer.release.set)
        found = await outcomes_of(writer, ["a", "b", "c", "d"])
        assert [getattr(item, "code", "") for item in found] == ["", "", "", "unavailable"]
        assert held.held == 0


class Grouping(Writer):
    """Gives operations to groups, whose outcomes the test decides; those that `alone` names go alone."""

    def __init__(self, alone: str = "") -> None:
        super().__init__()
        self.groups: dict[str, asyncio.Future[WriteResult | None]] = {}
        self._alone = alone

    def grouped(self, decision: Decision, _author: Author) -> asyncio.Future[WriteResult | None]:
        key = str(decision.intent.id)
        self.groups[key] = future = asyncio.get_running_loop().create_future()
        if key in self._alone:
            future.set_result(None)
        return future

    async def alone(self, decision: Decision, author: Author) -> WriteResult:
        return await self.decided(decision, author, None)

    def answer(self) -> None:
        for key, future in self.groups.items():
            if not future.done():
                future.set_result(WriteResult(format_id(key), 1, None, []))


async def replacing(keys: str) -> AsyncIterator[BulkWrite | EventsyncError]:
    for key in keys:
        yield BulkWrite(Replace("c", key, {"_id": key}), AUTHOR)


async def grouped(writer: Grouping, keys: str, within: float = 5.0) -> list[Any]:
    async with aclosing(BulkWriter(writer, POLICY, within).run(replacing(keys))) as outcomes:  # type: ignore[arg-type]
        return [outcome async for some in outcomes for outcome in some]


async def test_a_group_makes_operations_without_a_task_for_each() -> None:
    writer = Grouping()
    asyncio.get_running_loop().call_later(0.01, writer.answer)
    before = len(asyncio.all_tasks())
    running = asyncio.create_task(grouped(writer, "abc"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(writer.groups) == 3
    assert len(asyncio.all_tasks()) == before + 1
    assert [outcome.id for outcome in await running] == ["a", "b", "c"]
    assert not writer.done


async def test_an_operation_that_its_group_does_not_make_goes_alone_before_later_ones_of_its_document() -> None:
    writer = Grouping(alone="x")
    writer.release.clear()
    loop = asyncio.get_running_loop()
    loop.call_later(0.01, writer.release.set)
    loop.call_later(0.01, writer.answer)
    found = await grouped(writer, "axx")
    assert [outcome.id for outcome in found] == ["a", "x", "x"]
    assert writer.done == ["x", "x"]
    assert writer.most == 1


async def test_an_error_of_the_driver_in_a_group_is_translated() -> None:
    writer = Grouping()

    def fail() -> None:
        writer.groups["a"].set_exception(DuplicateKeyError("", 11000, {"keyPattern": {"u": 1}}))
        writer.groups["b"].set_exception(ZeroDivisionError())
        writer.answer()

    asyncio.get_running_loop().call_later(0.01, fail)
    first, second, third = await grouped(writer, "abc")
    assert (first.code, second.code, third.id) == ("conflict", "internal", "c")


async def test_an_operation_that_is_cancelled_in_its_group_has_an_unknown_outcome() -> None:
    writer = Grouping()
    found = await grouped(writer, "ab", within=scaled(0.3))
    assert [outcome.code for outcome in found] == ["unavailable"] * 2
    assert all("the outcome is unknown" in outcome.message for outcome in found)
    assert all(future.cancelled() for future in writer.groups.values())
