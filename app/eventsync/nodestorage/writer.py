"""Execution of operations: as a single write, or in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from bson.errors import BSONError
from pymongo.errors import DuplicateKeyError, PyMongoError

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.domain.ids import format_id
from eventsync.errors import Conflict, NotFound, PatchFailed, RateLimited, VersionMismatch
from eventsync.mongodb.errors import translated_write, write_error
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.commits import committing
from eventsync.nodestorage.deciding import Decider, Decision
from eventsync.nodestorage.documents import Collections, FoundDocument
from eventsync.nodestorage.group_commit import DeleteGroups, GroupCommit, WriteGroups
from eventsync.nodestorage.idempotency import Idempotency, IdempotencyRecords
from eventsync.nodestorage.operations import WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.recent import RecentDocuments
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.retry import retried, waited_too_long
from eventsync.nodestorage.transaction_steps import (
    TransactionSteps,
    check_twin,
    doing,
    lost_if_taken,
    name_of,
    numbered_error,
)
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
        delete_groups = DeleteGroups(collections, decider, transactions, self._in_transaction)
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
        try:
            # The record of a key has to be in the transaction of its write, which shares no group.
            if idempotency is not None:
                return await self._in_transaction(decision, author, idempotency)
            if (group := self.grouped(decision, author)) is not None and (result := await group) is not None:
                return result
        except (PyMongoError, BSONError) as error:
            raise write_error(doing(decision.intent), error, author.hides) from error
        return await self.alone(decision, author)

    def grouped(self, decision: Decision, author: Author) -> asyncio.Future[WriteResult | None] | None:
        """Give an operation to a group. Return None, or a future with the result None, if it has to go alone.

        The future may have an error of the driver.
        """
        groups = self._deletes if decision.intent.transacts else self._writes
        return groups.write(decision, author)

    async def alone(self, decision: Decision, author: Author) -> WriteResult:
        """Carry out an operation outside of groups."""
        intent = decision.intent
        with translated_write(doing(intent), author.hides):
            if intent.transacts:
                return await self._in_transaction(decision, author)
            async with self._document_locks.of(name_of(intent), within=self._policy.deadline):
                return await retried(lambda: self._alone(decision, author), self._policy)

    async def all(
        self, operations: Sequence[WriteOperation], author: Author, idempotency: Idempotency | None
    ) -> list[WriteResult]:
        """Carry out several operations in one transaction."""
        decisions = []
        for index, operation in enumerate(operations):
            with numbered_error(index):
                decisions.append(await self._decider.prepared(operation, author))
        with translated_write("the transaction can't be made", author.hides):
            return await self._together(decisions, author, idempotency, numbered=True)

    async def _in_transaction(
        self, decision: Decision, author: Author, idempotency: Idempotency | None = None
    ) -> WriteResult:
        """Make one write in a transaction of its own."""
        [result] = await self._together([decision], author, idempotency)
        return result

    async def _alone(self, decision: Decision, author: Author) -> WriteResult:
        """Make one attempt without a transaction. Raises `Lost`."""
        intent = decision.intent
        documents = self._collections.of(intent.collection)
        # However this attempt ends, the next write should not guess at the state before it.
        self._recent.drop(intent.collection, format_id(intent.id))
        raw, twin = await documents.find(intent.id) if intent.reads else FoundDocument(None)
        need(DOCUMENT_WEIGHT * (0 if raw is None else len(raw.raw)))
        change = await self._decider.decide(decision, raw, author)
        check_twin(intent, change, twin, author)
        if change.write is None:
            return change.result
        # No filter can name the state that was read. In a transaction MongoDB itself notices if it changes.
        if raw is not None and not await documents.can_compare(raw):
            return await self._in_transaction(decision, author)
        with lost_if_taken(intent), committing(documents.collection, "findAndModify", [author]):
            await documents.write(change, raw)
        return change.result

    async def _together(
        self, decisions: Sequence[Decision], author: Author, idempotency: Idempotency | None, *, numbered: bool = False
    ) -> list[WriteResult]:
        """Carry out everything in one transaction, or return the results recorded under the key."""

        async def body(session: Session) -> list[WriteResult]:
            if idempotency and (recorded := await self._records.find(idempotency, session)):
                return recorded
            steps = TransactionSteps(self._collections, self._decider, self._policy, session, author)
            results = await steps.run(decisions, numbered=numbered)
            if idempotency:
                await self._records.insert(idempotency, results, session)
            return results

        for decision in decisions:
            self._recent.drop(decision.intent.collection, format_id(decision.intent.id))
        try:
            if idempotency:
                await self._records.check_room()
            collection = self._collections.of(decisions[0].intent.collection).collection
            with committing(collection, "transaction", [author], size=len(decisions)):
                return await self._transactions.run(body)
        except (Conflict, NotFound, VersionMismatch, PatchFailed, RateLimited, DuplicateKeyError):
            # Another request with the same key may have caused this error, and may have left a record meanwhile.
            # (Before the first key is recorded, the collection does not exist. Reading it then does not fix the
            # transaction's snapshot, so a document that the next read misses may have been deleted in between.)
            if idempotency and (recorded := await self._records.find(idempotency)):
                return recorded
            raise


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
            raise waited_too_long(document, within) from error
        try:
            yield
        finally:
            lock.release()
