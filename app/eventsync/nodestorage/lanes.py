"""Grouping of writes that arrive together.

A write that is alone goes at once. Writes that arrive while groups are under way go together with the next one. A
document is in one group at a time, and its writes keep their order. A group that hangs delays no later ones.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any, Final, NamedTuple

from eventsync.domain.ids import IdText
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.deciding import Decision
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.retry import lost_too_often, not_begun, pause_after, waited_too_long

_LATE: Final = 0.25
"""Seconds that a group may take before another one begins beside it.

An open transaction, of another program or a killed server, delays a group with one of its documents until it ends.
"""

_MAX_LATE: Final = 32
"""Maximum number of groups beyond the policy's that begin for this reason."""


class QueuedWrite:
    """A write that waits for its group, and then for its outcome.

    `done` gets the result, the error, or None if the write has to go alone.
    """

    __slots__ = ("attempts", "author", "began", "context", "decision", "done", "key")

    def __init__(self, decision: Decision, author: Author, key: IdText) -> None:
        self.decision = decision
        self.author = author
        self.key = key
        # A group runs in the context of no request. A delete that leaves its group runs in this one, which accounts for
        # the memory of its document.
        self.context = copy_context()
        self.done: asyncio.Future[WriteResult | None] = asyncio.get_running_loop().create_future()
        self.began = time.monotonic()
        self.attempts = 0

    @property
    def has_result(self) -> bool:
        """True if the write has a result, and no error."""
        return self.done.done() and not self.done.cancelled() and self.done.exception() is None

    def settle(self, outcome: WriteResult | BaseException | None) -> None:
        """Tell the writer, unless it has gone."""
        if self.done.done():
            return
        if isinstance(outcome, BaseException):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)

    def expire(self, within: float, *, is_behind: bool) -> None:
        """Give up a write that is not in a group yet. `is_behind`: others of its document are."""
        document = f"{self.decision.intent.collection}/{self.key}"
        self.settle(waited_too_long(document, within) if is_behind else not_begun(document, within))


class Retry(NamedTuple):
    """The writes of a group to try again, in their order. With `raced`, after a pause: another writer was faster."""

    writes: Sequence[QueuedWrite]
    raced: bool


Attempt = Callable[[Sequence[QueuedWrite]], Awaitable[Retry]]
"""Makes a group of writes, settles those whose outcome is certain, and returns the others."""


class Lane:
    """The writes of one collection."""

    def __init__(self, attempt: Attempt, policy: WritePolicy, *, chains: bool) -> None:
        """With `chains`, a group may have several writes of one document."""
        self._attempt = attempt
        self._policy = policy
        self._chains = chains
        self._ready: deque[QueuedWrite] = deque()
        self._behind: dict[IdText, deque[QueuedWrite]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._late: set[object] = set()
        """One of each group under way that takes longer than `_LATE`."""
        self._has_answered = False
        """True if a group has had a result since the newest one began: MongoDB answers."""
        self._is_starting = False
        self._expiry: asyncio.TimerHandle | None = None

    def write(self, decision: Decision, author: Author, key: IdText) -> asyncio.Future[WriteResult | None]:
        """Make a write with a group. The result is None if it has to go alone. A cancelled write may be made."""
        queued = QueuedWrite(decision, author, key)
        behind = self._behind.get(key)
        (self._ready if behind is None else behind).append(queued)
        self._start()
        # A write that has left the queue is beyond it: nobody would learn the outcome of one that is being made.
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().call_later(self._policy.deadline, self._expire)
        return queued.done

    def _expire(self) -> None:
        """Give up the writes that wait for too long, and come back when the next one has."""
        self._expiry = None
        deadline = self._policy.deadline
        now = time.monotonic()
        behind = [queued for queue in self._behind.values() for queued in queue]
        for queued in (*self._ready, *behind):
            if now - queued.began >= deadline:
                queued.expire(deadline, is_behind=queued.key in self._behind)
        began = min((queued.began for queued in (*self._ready, *behind) if not queued.done.done()), default=None)
        if began is not None:
            self._expiry = asyncio.get_running_loop().call_later(began + deadline - now, self._expire)

    def _start(self) -> None:
        """Begin a group if there may be one more. It takes the writes that are there when its task runs."""
        if self._ready and not self._is_starting and (operations := self._room()):
            # The task takes its writes when it runs. Until then, without the flag, each further write would start
            # another one.
            self._is_starting = True
            self._under_way += 1
            self._spawn(self._groups(operations))

    def _room(self) -> int:
        """Return the maximum number of writes of one more group, or 0 if none may begin."""
        if self._under_way < (groups := self._policy.groups):
            return self._policy.group_operations
        if not len(self._late) == self._under_way < groups + _MAX_LATE:
            return 0
        # Beside late groups a single write at first: perhaps MongoDB does not answer, and nobody learns its outcome. It
        # may also take that long for every group; single ones would then be so many that no large one may ever begin.
        return self._policy.group_operations if self._has_answered else 1

    def _pass(self, late: object) -> None:
        self._late.add(late)
        self._start()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # The work is for several requests, so it runs in the context of none.
        task = asyncio.create_task(work, context=Context(), name="write group")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _groups(self, operations: int) -> None:
        self._is_starting = False
        own = object()
        try:
            # Beside the group that MongoDB carries out, another one is read and decided (`_start` begins it).
            while own not in self._late and (group := self._take(operations)):
                operations = self._policy.group_operations
                self._has_answered = False
                self._start()
                timer = asyncio.get_running_loop().call_later(_LATE, self._pass, own)
                try:
                    await self._carry_out(group)
                finally:
                    timer.cancel()
        finally:
            self._late.discard(own)
            self._under_way -= 1
            self._start()

    def _take(self, operations: int) -> list[QueuedWrite]:
        """Return the next group, of at most so many writes, and hold its documents."""
        group: list[QueuedWrite] = []
        keys: set[IdText] = set()
        later: list[QueuedWrite] = []
        while self._ready and len(group) < operations:
            queued = self._ready.popleft()
            if queued.done.done():
                continue
            if (behind := self._behind.get(queued.key)) is not None:
                behind.append(queued)
            # A second delete of a document can be decided only on what the first one leaves.
            elif queued.key in keys and not self._chains:
                later.append(queued)
            else:
                keys.add(queued.key)
                group.append(queued)
        # Not before the end of the loop: a document's second write would wait behind its own group.
        self._behind.update((key, deque()) for key in keys)
        for queued in later:
            self._behind[queued.key].append(queued)
        return group

    async def _carry_out(self, group: Sequence[QueuedWrite]) -> None:
        """Attempt a group, and let go of its documents. Lost races are tried again by a task of their own."""
        retry = Retry((), raced=False)
        try:
            retry = await self._attempt(group)
            self._has_answered = self._has_answered or any(queued.has_result for queued in group)
        # An error that is no outcome of a single write is that of all. A cancellation says nothing of the outcomes, so
        # the writers are cancelled as well.
        except BaseException as error:
            for queued in group:
                if isinstance(error, Exception):
                    queued.settle(error)
                else:
                    queued.done.cancel()
            if not isinstance(error, Exception):
                raise
        finally:
            # Documents of lost races stay held, so that no later write overtakes the retry. The others let go of what
            # waits behind them: it goes to the front, because a document with many writers would otherwise queue again
            # after each group.
            again = [queued for queued in retry.writes if self._may_try_again(queued)]
            for key in {queued.key for queued in group} - {queued.key for queued in again}:
                self._ready.extendleft(reversed(self._behind.pop(key)))
            if again:
                pause = pause_after(max(queued.attempts for queued in again)) if retry.raced else 0.0
                self._spawn(self._after(pause, again))

    async def _after(self, pause: float, group: Sequence[QueuedWrite]) -> None:
        await asyncio.sleep(pause)
        await self._carry_out(group)
        self._start()

    def _may_try_again(self, queued: QueuedWrite) -> bool:
        queued.attempts += 1
        late = time.monotonic() - queued.began >= self._policy.deadline
        if late or queued.attempts >= self._policy.attempts:
            queued.settle(lost_too_often(queued.attempts))
        return not queued.done.done()
