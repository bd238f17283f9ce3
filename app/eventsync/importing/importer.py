"""The import itself: batches of documents, several under way at a time, and the place up to which all are done."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from eventsync.errors import Malformed, TooLarge, Unavailable
from eventsync.importing.items import Item, ItemMaker, Mode, if_absent, tag_of
from eventsync.importing.progress import ProgressFile, State
from eventsync.importing.records import Place, Record
from eventsync.importing.targets import ItemAnswer, Target

_BATCH_ITEMS: Final = 500
_BATCH_BYTES: Final = 512 * 1024
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Documents that were written and that failed, before an interruption and since. `complete`: there are no more."""

    written: int
    failed: int
    complete: bool


@dataclass(slots=True)
class _Batch:
    """Documents that follow each other: the writes to make, and the errors by line."""

    end: Place
    items: list[Item] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    size: int = 0
    written: int = 0
    is_done: bool = False

    @property
    def is_full(self) -> bool:
        return len(self.items) >= _BATCH_ITEMS or self.size >= _BATCH_BYTES


class ImportReport(Protocol):
    """Receives the progress of an import."""

    def failed(self, line: int, error: str) -> None:
        """Report a document that was refused."""

    def advanced(self, done: Place, written: int) -> None:
        """Report the place before which all is done, and the number of documents written so far."""


class Importer:
    """Writes documents to `target`, `parallel` batches at a time, and keeps the progress.

    Without any success for `timeout` seconds, an unavailable target ends the import.
    """

    def __init__(
        self, target: Target, mode: Mode, progress: ProgressFile, report: ImportReport, *, parallel: int, timeout: float
    ) -> None:
        self._target = target
        self._mode = mode
        self._progress = progress
        self._report = report
        self._parallel = parallel
        self._timeout = timeout
        self._state = State()
        self._doubtful = 0
        """Documents before this offset may have been written before an interruption."""
        self._under_way: deque[_Batch] = deque()
        self._tasks: dict[asyncio.Task[None], set[bytes]] = {}
        """Each batch that is being written, and the keys of its documents."""
        self._success = 0.0
        self._stopping = False

    async def run(self, records: Iterable[Record], state: State, *, stop_on_error: bool = False) -> Totals:
        """Import the documents after `state.done`. Raises `Malformed` if the file can't be split, and `Unavailable`.

        With `stop_on_error`, no batch begins after the first error.
        """
        self._state, self._doubtful = state, state.sent
        self._success = asyncio.get_running_loop().time()
        try:
            for batch in self._batches(records):
                await self._room(batch)
                if self._stopping and stop_on_error:
                    break
                self._start(batch)
            await self._wait_for(asyncio.ALL_COMPLETED)
        except BaseException:
            await self._abort()
            raise
        finally:
            # Before anything was sent, there is nothing to resume.
            if state.sent:
                self._progress.save(state)
        return Totals(state.written, state.failed, complete=not (self._stopping and stop_on_error))

    # --- batches ------------------------------------------------------------------------------------------------

    def _batches(self, records: Iterable[Record]) -> Iterator[_Batch]:
        maker = ItemMaker(self._mode, self._state.seed)
        batch = _Batch(self._state.done)
        for record in records:
            if batch.items and batch.size + len(record.raw) > _BATCH_BYTES:
                yield batch
                batch = _Batch(record.end)
            batch.end = record.end
            batch.size += len(record.raw)
            try:
                item = maker.make(record)
            except Malformed as error:
                batch.errors.append((record.begin.line, f"{error.code}: {error.message}"))
            else:
                is_doubtful = item.method == "POST" and record.begin.offset < self._doubtful
                batch.items.append(if_absent(item) if is_doubtful else item)
            if batch.is_full:
                yield batch
                batch = _Batch(record.end)
        yield batch

    async def _room(self, batch: _Batch) -> None:
        """Wait until the batch may begin: not before another one that writes the same document has ended."""
        keys = {item.key for item in batch.items}
        while len(self._tasks) >= self._parallel or not all(map(keys.isdisjoint, self._tasks.values())):
            await self._wait_for(asyncio.FIRST_COMPLETED)

    async def _wait_for(self, when: str) -> None:
        if self._tasks:
            done, _ = await asyncio.wait(self._tasks, return_when=when)
            for task in done:
                del self._tasks[task]
                task.result()

    def _start(self, batch: _Batch) -> None:
        # Written down before the batch is sent: after a crash, these documents may or may not be there.
        self._progress.before_sending(self._state, batch.end.offset)
        self._under_way.append(batch)
        task = asyncio.create_task(self._load(batch), name="write a batch")
        self._tasks[task] = {item.key for item in batch.items}

    async def _abort(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _load(self, batch: _Batch) -> None:
        await self._write_all(batch)
        batch.is_done = True
        self._stopping = self._stopping or bool(batch.errors)
        # Progress moves over batches in the order of the file, although they end in any order.
        while self._under_way and self._under_way[0].is_done:
            done = self._under_way.popleft()
            self._state.done = done.end
            self._state.written += done.written
            self._state.failed += len(done.errors)
            for line, error in sorted(done.errors):
                self._report.failed(line, error)
        self._report.advanced(self._state.done, self._state.written)
        self._progress.advanced(self._state)

    # --- writes -------------------------------------------------------------------------------------------------

    async def _write_all(self, batch: _Batch) -> None:
        """Write the documents of a batch until none has to be tried again."""
        pending, wait = batch.items, _FIRST_WAIT
        while pending:
            answers = await self._answers(pending)
            if any(not answer.retryable for answer in answers):
                self._success = asyncio.get_running_loop().time()
            again = self._settle(batch, pending, answers)
            if any(answer.retryable for answer in answers):
                self._check_time(answers)
                await asyncio.sleep(random.uniform(0, wait))
                wait = min(2 * wait, _LONGEST_WAIT)
            pending = again

    async def _answers(self, items: Sequence[Item]) -> list[ItemAnswer]:
        """Write documents. Those that are too many or too large for one request are divided."""
        try:
            return await self._target.write(items)
        except Unavailable as error:
            return [ItemAnswer(error.code, error.diagnosis, retryable=True)] * len(items)
        except TooLarge as error:
            if len(items) == 1:
                return [ItemAnswer(error.code, error.message)]
            half = len(items) // 2
            return await self._answers(items[:half]) + await self._answers(items[half:])

    def _settle(self, batch: _Batch, items: Sequence[Item], answers: Sequence[ItemAnswer]) -> list[Item]:
        """Count what is done, and return what has to be written again."""
        again: list[Item] = []
        keys: set[bytes] = set()
        for item, answer in zip(items, answers, strict=True):
            # A later write of the same document must stay the later one.
            is_overtaken = item.key in keys and self._mode is not Mode.INSERT
            follow = item if is_overtaken else self._following(item, answer)
            if follow is not None:
                again.append(follow)
                keys.add(item.key)
            elif not answer.code or self._is_ours(item, answer):
                batch.written += 1
            elif not (item.method == "DELETE" and answer.code == "not_found"):
                batch.errors.append((item.record.begin.line, f"{answer.code}: {answer.detail}"))
        return again

    def _following(self, item: Item, answer: ItemAnswer) -> Item | None:
        """Return the write to make after this answer, or None if there is none."""
        if answer.retryable:
            # An insert whose outcome is unknown must find out that it was made.
            return if_absent(item) if item.method == "POST" and answer.begun else item
        if self._mode is Mode.MERGE:
            if item.method == "PATCH" and answer.code == "not_found":
                return if_absent(item)
            if item.if_absent and answer.code == "version_mismatch":
                # It exists by now, so it can be merged into. Without an `_id` it is this import's own.
                known = ItemMaker(self._mode, self._state.seed).make(item.record)
                return known if known.method == "PATCH" else None
        return None

    @staticmethod
    def _is_ours(item: Item, answer: ItemAnswer) -> bool:
        """Return True if the document that prevents an insert is the one that the same insert has made."""
        return item.if_absent and answer.code == "version_mismatch" and answer.etag == tag_of(item)

    def _check_time(self, answers: Sequence[ItemAnswer]) -> None:
        if asyncio.get_running_loop().time() - self._success > self._timeout:
            reason = next(answer.detail for answer in answers if answer.retryable)
            raise Unavailable(f"nothing could be written for {self._timeout:g} s: {reason}")
