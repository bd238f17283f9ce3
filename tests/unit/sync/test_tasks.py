"""Tasks: how many run, how they end, and what is said of them."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from eventsync.errors import Conflict, RateLimited
from eventsync.settings import Settings
from eventsync.sync.tasks import MAX_RUNNING, Task, Tasks
from support.waiting import eventually, within

Done = Callable[[Task], Mapping[str, Any]]


class Worked(Tasks):
    """Tasks whose work needs no MongoDB."""

    def __init__(self) -> None:
        super().__init__(Settings())
        self.works: dict[str, Done] = {}

    def start(self, name: str, work: Done) -> Task:
        task = Task("restore", name, "paul")
        self.works[task.id] = work
        self.begin(task, None)  # type: ignore[arg-type]
        return task

    def _work(self, task: Task, _: Any) -> Mapping[str, Any]:
        return self.works[task.id](task)


async def test_result_and_progress_are_listed() -> None:
    tasks = Worked()

    def work(task: Task) -> Mapping[str, Any]:
        task.advance(3)
        return {"documents": 3}

    task = tasks.start("a", work)
    await eventually(lambda: _ended(task), 10)
    (tree,) = tasks.trees()
    assert (tree["state"], tree["done"], tree["result"], tree["reason"]) == ("done", 3, {"documents": 3}, None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Conflict("there is one already"), "there is one already"),
        (ZeroDivisionError(), "it has failed; the server's log has the reason"),
    ],
)
async def test_failure_says_why(error: Exception, reason: str) -> None:
    tasks = Worked()

    def work(_: Task) -> Mapping[str, Any]:
        raise error

    task = tasks.start("a", work)
    await eventually(lambda: _ended(task), 10)
    assert (task.state, task.reason) == ("failed", reason)


def endless(going: threading.Event) -> Done:
    """Work that ends only if it is cancelled, once it is going."""

    def work(task: Task) -> Mapping[str, Any]:
        while True:
            going.wait()
            task.advance(1)

    return work


async def test_no_more_run_than_may_and_cancelled_ones_end() -> None:
    tasks, going = Worked(), threading.Event()
    work = endless(going)
    running = [tasks.start(f"task {number}", work) for number in range(MAX_RUNNING)]
    with pytest.raises(RateLimited):
        tasks.start("one too many", work)
    assert [tree["target"] for tree in tasks.trees()] == [task.target for task in reversed(running)]
    assert tasks.cancel(running[0].id)
    going.set()
    await eventually(lambda: _ended(running[0]), 10)
    assert running[0].state == "cancelled"
    assert not tasks.cancel(running[0].id)
    await asyncio.wait_for(tasks.close(), None)
    assert running[1].state == "cancelled"


async def test_one_that_runs_is_listed_and_cancelled_whatever_came_after_it() -> None:
    tasks, going = Worked(), threading.Event()

    def quick(_: Task) -> Mapping[str, Any]:
        raise Conflict("there is one already")

    long = tasks.start("long", endless(going))
    for number in range(30):
        await eventually(functools.partial(_ended, tasks.start(f"quick {number}", quick)), 10)
    listed = [tree["target"] for tree in tasks.trees()]
    assert (len(listed), listed[0], listed[-1]) == (20, "quick 29", "long")
    going.set()
    async with within(30):
        await tasks.close()
    assert long.state == "cancelled"


async def _ended(task: Task) -> bool:
    return task.ended is not None
