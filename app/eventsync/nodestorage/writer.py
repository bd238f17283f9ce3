"""Execution of operations: as a single write, or in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from bson.errors import BSONError
from pymongo.errors import DuplicateKeyError, PyMongoError

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.domain.ids import IdText, format_id
from eventsync.domain.values.extended_json import JsonText
from eventsync.errors import Conflict, EventsyncError, NotFound, PatchFailed, RateLimited, TooLarge, VersionMismatch
from eventsync.mongodb.errors import duplicate_fields, refusal, translated_write
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.deciding import Decider, Decision
from eventsync.nodestorage.documents import Collections, FoundDocument
from eventsync.nodestorage.group_commit import DeleteGroups, GroupCommit, WriteGroups
from eventsync.nodestorage.idempotency import Idempotency, IdempotencyRecords
from eventsync.nodestorage.intent import Insert, Intent, PlannedWrite
from eventsync.nodestorage.operations import WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.recent import RecentDocuments
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.retry import Lost, is_transient, retried
from eventsync.nodestorage.transactions import Session, Transactions


class OperationWriter:
    """Writes to `collections` and, for a write with an idempotency key, to `records` in the same transaction."""

    def __init__(
        self,
        collections: Collections,
        records: IdempotencyRecords,
        transactions: Transactions,
        policy: WritePolicy,
        decider: Decider,
        recent: RecentDocuments,
    ) -> None:
        self._collections = collections
        self._records = records
        self._transactions = transactions
        self._policy = policy
        self._decider = decider
        self._document_locks = DocumentLocks()
        self._recent = recent
        write_groups = WriteGroups(collections, decider, policy, recent)
        delete_groups = DeleteGroups(collections, decider, transactions, self._deleted)
        self._writes = GroupCommit(write_groups.attempt, policy, chains=True)
        self._deletes = GroupCommit(delete_groups.attempt, policy, chains=False)

    async def one(self, operation: WriteOperation, author: Author, idempotency: Idempotency | None) -> WriteResult:
        """Carry out one operation."""
        return await self.decided(await self.prepared(operation, author), author, idempotency)

    async def prepared(self, operation: WriteOperation, author: Author) -> Decision:
        """Check an operation as far as it does not depend on the stored document."""
        return await self._decider.prepared(operation, author)

    async def decided(self, decision: Decision, author: Author, idempotency: Idempotency | None) -> WriteResult:
        """Carry out an operation that was prepared."""
        intent = decision.intent
        with translated_write(_doing(intent)):
            if idempotency is None:
                groups = self._deletes if intent.transacts else self._writes
                if (result := await groups.write(decision, author)) is not None:
                    return result
            if idempotency is None and not intent.transacts:
                async with self._document_locks.of(name_of(intent), within=self._policy.deadline):
                    return await retried(lambda: self._alone(decision, author), self._policy)
            [result] = await self._together([decision], author, idempotency)
            return result

    async def all(
        self, operations: Sequence[WriteOperation], author: Author, idempotency: Idempotency | None
    ) -> list[WriteResult]:
        """Carry out several operations in one transaction."""
        decisions = []
        for index, operation in enumerate(operations):
            with _numbered(index):
                decisions.append(await self._decider.prepared(operation, author))
        with translated_write("the transaction can't be made"):
            return await self._together(decisions, author, idempotency, numbered=True)

    async def _deleted(self, decision: Decision, author: Author) -> WriteResult:
        """Make one delete in a transaction of its own."""
        [result] = await self._together([decision], author, None)
        return result

    async def _alone(self, decision: Decision, author: Author) -> WriteResult:
        """Make one attempt without a transaction. Raises `Lost`."""
        intent = decision.intent
        documents = self._collections.of(intent.collection)
        self._recent.drop(intent.collection, format_id(intent.id))
        raw, twin = await documents.find(intent.id) if intent.reads else FoundDocument(None)
        need(DOCUMENT_WEIGHT * (0 if raw is None else len(raw.raw)))
        change = await self._decider.decide(decision, raw, author)
        _check_twin(intent, change, twin)
        if change.write is None:
            return change.result
        if raw is not None and not await documents.can_compare(raw):
            [result] = await self._together([decision], author, None)
            return result
        with _lost_if_taken(intent):
            await documents.write(change, raw)
        return change.result

    async def _together(
        self, decisions: Sequence[Decision], author: Author, idempotency: Idempotency | None, *, numbered: bool = False
    ) -> list[WriteResult]:
        """Carry out everything in one transaction, or return the results recorded under the key."""

        async def body(session: Session) -> list[WriteResult]:
            if idempotency and (recorded := await self._records.find(idempotency, session)):
                return recorded
            results = []
            budget = _Budget(self._policy.transaction_bytes)
            for index, decision in enumerate(decisions):
                with _numbered(index if numbered else None):
                    results.append(await self._step(decision, author, session, budget))
            if idempotency:
                await self._records.insert(idempotency, results, session)
            return results

        try:
            if idempotency:
                await self._records.check_room()
            return await self._transactions.run(body)
        except (Conflict, NotFound, VersionMismatch, PatchFailed, RateLimited, DuplicateKeyError):
            # Another request with the same key may have caused this error, and may have left a record meanwhile.
            # (Before the first key is recorded, the collection does not exist. Reading it then does not fix the
            # transaction's snapshot, so a document that the next read misses may have been deleted in between.)
            if idempotency and (recorded := await self._records.find(idempotency)):
                return recorded
            raise

    async def _step(self, decision: Decision, author: Author, session: Session, budget: _Budget) -> WriteResult:
        intent = decision.intent
        documents = self._collections.of(intent.collection)
        self._recent.drop(intent.collection, format_id(intent.id))
        raw, twin = await documents.find(intent.id, session) if intent.reads else FoundDocument(None)
        before = 0 if raw is None else len(raw.raw)
        budget.take(before)
        change = await self._decider.decide(decision, raw, author)
        _check_twin(intent, change, twin)
        # A growing document counts with its new size. A large document that is written as a whole counts once more.
        after = change.result.document
        budget.take(max(change.size, len(after.text) - before if isinstance(after, JsonText) else 0))
        with _refused(intent), _lost_if_taken(intent):
            await documents.write(change, raw, session)
        return change.result


class DocumentLocks:
    """A lock per document, which exists only while a writer holds it or waits for it.

    Writers in one process take turns instead of racing each other. This saves work and makes waiting fair, but decides
    nothing: MongoDB decides races with other processes.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, document: str, *, within: float) -> AsyncIterator[None]:
        """Hold the lock of `document`. Raises `Conflict` after `within` seconds of waiting."""
        lock = self._locks.setdefault(document, asyncio.Lock())
        try:
            async with asyncio.timeout(within):
                await lock.acquire()
        except TimeoutError as error:
            raise Conflict(f"other writers of {document} took longer than {within:g} s; try again later") from error
        try:
            yield
        finally:
            lock.release()


class _Budget:
    """A limit on the documents of one transaction, because MongoDB keeps them in its cache until the end.

    If the cache is too small, the transaction fails repeatedly, as if it were losing races.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left = max_bytes

    def take(self, size: int) -> None:
        """Take `size` bytes. Raises `TooLarge`, except for the first document, and `Unavailable` as `need` does."""
        if size > self._left < self._max_bytes:
            raise TooLarge(
                f"the documents of the transaction have more than {self._max_bytes} bytes in all; split it up"
            )
        self._left -= max(0, size)
        need(DOCUMENT_WEIGHT * (self._max_bytes - self._left))


def name_of(intent: Intent) -> str:
    """Return the name of the intent's document in messages and among locks."""
    return f"{intent.collection}/{format_id(intent.id)}"


def _check_twin(intent: Intent, change: PlannedWrite, twin: IdText | None) -> None:
    """Raise `Conflict` if another document prevents the insert of this one."""
    if twin is not None and isinstance(change.write, Insert):
        raise Conflict(
            f"{name_of(intent)} can't be made: MongoDB takes its id for the same as {twin}, which exists", existing=twin
        )


def _doing(intent: Intent) -> str:
    return f"{name_of(intent)} can't be written"


@contextmanager
def _numbered(index: int | None) -> Iterator[None]:
    """Add the number of the operation to the message of an `EventsyncError`."""
    try:
        yield
    except EventsyncError as error:
        if index is not None:
            error.args = (f"operation {index}: {error.message}", *error.args[1:])
        raise


@contextmanager
def _refused(intent: Intent) -> Iterator[None]:
    """Translate a refusal by MongoDB here, where the operation that caused it is known."""
    try:
        yield
    except (PyMongoError, BSONError) as error:
        if not is_transient(error) and (refused := refusal(_doing(intent), error)):
            raise refused from error
        raise


@contextmanager
def _lost_if_taken(intent: Intent) -> Iterator[None]:
    """Raise `Lost` if the id was free when it was read and is taken now."""
    try:
        yield
    except DuplicateKeyError as error:
        if intent.reads and duplicate_fields(error) == ["_id"]:
            raise Lost from error
        raise
