"""Long tasks that operators begin on a server: restores and verifications of collections.

A task runs in a thread with an event loop and a MongoDB client of its own, so that it delays no request. The server
that runs it publishes its progress with its record, and any server lists it.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from eventsync.concurrency.offload import Offload
from eventsync.domain.positions import Position
from eventsync.errors import EventsyncError, RateLimited, public_error
from eventsync.process import event_loop
from eventsync.settings import Settings
from eventsync.stores.history.proof import prove
from eventsync.stores.history.restore import Restore
from eventsync.stores.readiness import connected
from eventsync.stores.stores import Stores

logger = logging.getLogger(__name__)

MAX_RUNNING: Final = 2
"""Tasks of a server that run at a time."""

_KEPT: Final = 20
"""Tasks of a server that are listed: those that run, and the newest of the others."""

_MAX_CHAINS: Final = 250_000
"""Documents whose version chains a verification holds in memory, at 200 bytes each."""


class Cancelled(EventsyncError):
    """An operator, or the end of the server, has cancelled the task."""

    is_interruption = True
    code = "cancelled"


@dataclass(slots=True)
class Task:
    """A task and its progress. `total` is an estimate; it is None before the work is known.

    `done` and `total` are of `step`, if the task has several.
    """

    kind: str
    target: str
    by: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    began: float = field(default_factory=time.time)
    ended: float | None = None
    step: str | None = None
    done: int = 0
    total: int | None = None
    state: str = "running"
    result: Mapping[str, Any] | None = None
    reason: str | None = None
    is_cancelled: bool = False

    def begin_step(self, name: str, total: int | None) -> None:
        """Begin the next step."""
        self.step, self.done, self.total = name, 0, total

    def advance(self, count: int) -> None:
        """Count finished work. Raises `Cancelled`."""
        self.done += count
        if self.is_cancelled:
            raise Cancelled("it was cancelled")

    def tree(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "kind": self.kind,
            "target": self.target,
            "by": self.by,
            "state": self.state,
            "began": round(self.began, 3),
            "ended": None if self.ended is None else round(self.ended, 3),
            "step": self.step,
            "done": self.done,
            "total": self.total,
            "result": self.result,
            "reason": self.reason,
        }


Work = Callable[[Stores, Task], Awaitable[Mapping[str, Any]]]
"""Does a task and returns its result."""


class Tasks:
    """The tasks of this server process. `run` owns them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._listed: list[Task] = []
        self._running: dict[str, asyncio.Task[None]] = {}

    def trees(self) -> list[dict[str, Any]]:
        """Describe the tasks, the newest first."""
        return [task.tree() for task in reversed(self._listed)]

    def begin(self, task: Task, work: Work) -> None:
        """Begin a task. Raises `RateLimited`."""
        if len(self._running) >= MAX_RUNNING:
            raise RateLimited(f"this server runs {MAX_RUNNING} tasks already; wait until one has ended")
        self._listed.append(task)
        if len(self._listed) > _KEPT:
            # Never one that runs: nobody could cancel it any more, and the end of the server would wait for it.
            self._listed.remove(next(old for old in self._listed if old.ended is not None))
        running = asyncio.get_running_loop().create_task(self._run(task, work), name=f"{task.kind} {task.target}")
        self._running[task.id] = running
        running.add_done_callback(lambda _: self._running.pop(task.id))

    def cancel(self, task_id: str) -> bool:
        """Cancel a task, which ends soon. Return False if none of this server with this id runs."""
        for task in self._listed:
            if task.id == task_id and task.id in self._running:
                task.is_cancelled = True
                return True
        return False

    async def close(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        for task in self._listed:
            task.is_cancelled = True
        if self._running:
            await asyncio.wait(list(self._running.values()))

    async def _run(self, task: Task, work: Work) -> None:
        try:
            task.result = await asyncio.to_thread(self._work, task, work)
            task.state = "done"
        except Cancelled:
            task.state = "cancelled"
        except EventsyncError as error:
            logger.warning("%s of %s: %s", task.kind, task.target, error.diagnosis)
            task.state, task.reason = "failed", public_error(error).message
        except Exception:
            logger.exception("%s of %s has failed", task.kind, task.target)
            task.state, task.reason = "failed", "it has failed; the server's log has the reason"
        finally:
            task.ended = time.time()

    def _work(self, task: Task, work: Work) -> Mapping[str, Any]:
        async def main() -> Mapping[str, Any]:
            # A thread does not help against a large document: it holds the interpreter lock while it is decoded.
            async with (
                connected(self._settings, task.kind) as client,
                Offload.running(self._settings, for_requests=False) as offload,
            ):
                return await work(Stores.of(client, self._settings, offload), task)

        return event_loop.run(main())


def restoring(collection: str, position: Position, into: str) -> Work:
    """Return the work that restores a collection at a position into a new one."""

    async def restore(stores: Stores, task: Task) -> Mapping[str, Any]:
        restoring = Restore(stores)
        await restoring.unfinished()
        source = await restoring.source(collection, position)
        # Some of these events may be of other collections.
        task.total = source.snapshot.documents + position.seq - source.snapshot.seq
        made = await restoring.run(source, into, task.advance)
        return {"into": made.into, "position": str(made.position), "documents": made.documents}

    return restore


def verifying(collections: Sequence[str]) -> Work:
    """Return the work that verifies the log and these collections, or all."""

    async def verify(stores: Stores, task: Task) -> Mapping[str, Any]:
        return (await prove(stores, collections, task, max_chains=_MAX_CHAINS)).summary()

    return verify
