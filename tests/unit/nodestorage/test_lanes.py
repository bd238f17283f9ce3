"""`Lane`: which writes go together, in which order, and the outcome of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from eventsync.domain.ids import IdText
from eventsync.errors import Conflict, Unavailable
from eventsync.nodestorage import Author, WritePolicy, WriteResult, lanes
from eventsync.nodestorage.deciding import Decision
from eventsync.nodestorage.intent import Intent
from eventsync.nodestorage.lanes import Lane, QueuedWrite, Retry
from eventsync.nodestorage.operations import Delete
from support.waiting import within

AUTHOR = Author("tester", "op")


class Recorder:
    """An attempt whose groups end when the test lets them."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.outcomes: list[Any] = []
        """For each attempt, an exception to raise, or what to try again."""

    async def __call__(self, group: Sequence[QueuedWrite]) -> Retry:
        self.groups.append([queued.key for queued in group])
        self.begun.set()
        await self.gate.wait()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, BaseException):
            raise outcome
        again = [queued for queued in group if outcome and queued.key in outcome]
        for queued in group:
            if queued not in again:
                queued.settle(WriteResult(queued.key, len(self.groups), None, []))
        return Retry(again, raced=True)


def write(lane: Lane, key: str) -> asyncio.Future[WriteResult | None]:
    operation = Delete("c", key)
    decision = Decision(Intent("c", key, lambda _, __: pytest.fail("it is not decided here")), operation, 0)
    return lane.write(decision, AUTHOR, IdText(key))


async def idle(lane: Lane) -> None:
    """Wait for the end of all groups, which comes a little after those of their writes."""
    while lane._under_way:  # noqa: ASYNC110 - its tasks end by themselves
        await asyncio.sleep(0)


async def test_a_lone_write_goes_at_once_and_later_ones_together() -> None:
    attempt = Recorder()
    lane = Lane(attempt, WritePolicy(groups=1), chains=True)
    writes = [write(lane, "a")]
    await attempt.begun.wait()
    writes += [write(lane, key) for key in "bcdb"]
    await asyncio.sleep(0)
    attempt.gate.set()
    await asyncio.gather(*writes)
    assert attempt.groups == [["a"], ["b", "c", "d", "b"]]
    assert not lane._behind, "no document is held"


async def test_writes_of_one_iteration_are_one_group() -> None:
    attempt = Recorder()
    attempt.gate.set()
    lane = Lane(attempt, WritePolicy(groups=4), chains=True)
    await asyncio.gather(*(write(lane, key) for key in "abcd"))
    assert attempt.groups == [list("abcd")]


async def test_groups_are_bounded_in_number_and_in_writes() -> None:
    attempt = Recorder()
    lane = Lane(attempt, WritePolicy(groups=2, group_operations=3), chains=True)
    writes = [write(lane, str(number)) for number in range(10)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert attempt.groups == [["0", "1", "2"], ["3", "4", "5"]]
    attempt.gate.set()
    await asyncio.gather(*writes)
    assert attempt.groups[2:] == [["6", "7", "8"], ["9"]]


async def test_groups_that_hang_delay_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_LATE", 0.001)
    attempt, gates = Recorder(), {key: asyncio.Event() for key in "ab"}

    async def hanging(group: Sequence[QueuedWrite]) -> Retry:
        for queued in group:
            await gates[queued.key].wait() if queued.key in gates else None
        return await attempt(group)

    attempt.gate.set()
    lane = Lane(hanging, WritePolicy(groups=2), chains=True)
    hung = []
    for key in "ab":
        hung.append(write(lane, key))
        await asyncio.sleep(0)
    async with within(20):
        # Others pass by, of the same document none.
        behind = write(lane, "a")
        await asyncio.gather(*(write(lane, key) for key in "cde"))
        # A single one at first: if MongoDB does not answer, few outcomes are unknown.
        assert attempt.groups == [["c"], ["d", "e"]]
        assert not any(each.done() for each in (*hung, behind))
        for gate in gates.values():
            gate.set()
        await asyncio.gather(*hung, behind)
        assert attempt.groups[-1] == ["a"]
        await idle(lane)
    assert (lane._late, lane._behind) == (set(), {})


async def test_writes_go_together_also_where_each_group_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single ones beside the late groups would be late as well, and always too many for a group of all that wait."""
    monkeypatch.setattr(lanes, "_LATE", 0.001)
    attempt, begun, gates = Recorder(), list[list[str]](), [asyncio.Event() for _ in range(4)]
    attempt.gate.set()

    async def slow(group: Sequence[QueuedWrite]) -> Retry:
        number = len(begun)
        begun.append([queued.key for queued in group])
        if number == 2:
            gates[0].set()  # before the third is late
        await gates[number].wait()
        return await attempt(group)

    lane = Lane(slow, WritePolicy(groups=1), chains=True)
    writes = [write(lane, "a")]
    await asyncio.sleep(0)
    writes += [write(lane, key) for key in "bcdefgh"]
    async with within(20):
        while len(begun) < 4:  # noqa: ASYNC110 - timers of the lane
            await asyncio.sleep(0.001)
        assert begun == [["a"], ["b"], ["c"], list("defgh")]
        for gate in gates:
            gate.set()
        await asyncio.gather(*writes)
        await idle(lane)
    assert not lane._late


async def test_groups_that_hang_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "_LATE", 0.001)
    monkeypatch.setattr(lanes, "_MAX_LATE", 3)
    attempt = Recorder()
    lane = Lane(attempt, WritePolicy(groups=2, group_operations=1), chains=True)
    writes = [write(lane, str(number)) for number in range(8)]
    async with within(20):
        while len(attempt.groups) < 5:
            attempt.begun.clear()
            await attempt.begun.wait()
        while len(lane._late) < 5:  # noqa: ASYNC110 - timers of the lane
            await asyncio.sleep(0.001)
        assert len(attempt.groups) == 5
        attempt.gate.set()
        await asyncio.gather(*writes)
        await idle(lane)
    assert attempt.groups == [[str(number)] for number in range(8)]
    assert not lane._late


async def test_a_document_is_in_one_group_at_a_time_and_delays_no_other() -> None:
    attempt = Recorder()
    lane = Lane(attempt, WritePolicy(groups=2), chains=True)
    first = write(lane, "a")
    await attempt.begun.wait()
    attempt.begun.clear()
    behind, other = write(lane, "a"), write(lane, "b")
    await attempt.begun.wait()
    assert attempt.groups == [["a"], ["b"]]
    attempt.gate.set()
    await asyncio.gather(first, behind, other)
    assert attempt.groups[2:] == [["a"]]


async def test_without_chains_the_second_write_of_a_document_waits() -> None:
    attempt = Recorder()
    attempt.gate.set()
    lane = Lane(attempt, WritePolicy(), chains=False)
    await asyncio.gather(*(write(lane, key) for key in "aab"))
    assert attempt.groups == [["a", "b"], ["a"]]


async def test_lost_races_are_tried_again_before_later_writes_of_the_document() -> None:
    attempt = Recorder()
    attempt.gate.set()
    attempt.outcomes = ["a"]
    lane = Lane(attempt, WritePolicy(groups=1), chains=True)
    writes = [write(lane, "a"), write(lane, "b")]
    await writes[1]
    assert not writes[0].done()
    late = write(lane, "a")
    results = await asyncio.gather(writes[0], late)
    assert attempt.groups == [["a", "b"], ["a"], ["a"]]
    assert [result and result.version for result in results] == [2, 3]


async def test_attempts_are_bounded() -> None:
    attempt = Recorder()
    attempt.gate.set()
    attempt.outcomes = ["a"] * 3
    lane = Lane(attempt, WritePolicy(attempts=3), chains=True)
    with pytest.raises(Conflict, match="other writers were faster 3 times"):
        await write(lane, "a")
    assert attempt.groups == [["a"]] * 3


async def test_waiting_is_bounded_and_a_write_that_waited_too_long_is_never_made() -> None:
    attempt = Recorder()
    lane = Lane(attempt, WritePolicy(groups=1, deadline=0.01), chains=True)
    first = write(lane, "a")
    await attempt.begun.wait()
    with pytest.raises(Conflict, match=r"other writers of c/a took longer than 0\.01 s"):
        await write(lane, "a")
    # No other writer is in its way, but those that are slow.
    with pytest.raises(Unavailable, match=r"c/b could not be written within 0\.01 s, and nothing was written") as late:
        await write(lane, "b")
    assert late.value.retry_after >= 1
    attempt.gate.set()
    await first
    assert attempt.groups == [["a"]]


async def test_an_error_of_the_attempt_is_each_writers() -> None:
    attempt = Recorder()
    attempt.gate.set()
    attempt.outcomes = [ZeroDivisionError()]
    lane = Lane(attempt, WritePolicy(), chains=True)
    results = await asyncio.gather(*(write(lane, key) for key in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 2
    assert (await write(lane, "a")) is not None, "the document is free again"


async def test_a_writer_that_has_gone_is_left_out() -> None:
    attempt = Recorder()
    lane = Lane(attempt, WritePolicy(groups=1), chains=True)
    first = write(lane, "a")
    await attempt.begun.wait()
    gone, last = write(lane, "b"), write(lane, "c")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.sleep(0)
    first.cancel()
    attempt.gate.set()
    await last
    assert attempt.groups == [["a"], ["c"]]
