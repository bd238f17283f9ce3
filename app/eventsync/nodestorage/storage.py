"""`NodeStorage`: the only way in which eventsync changes a document of the user."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.slices import Slices
from eventsync.domain.condition import Condition
from eventsync.domain.values.extended_json import Document, JsonText
from eventsync.domain.values.json_document import JsonDocument
from eventsync.errors import Malformed, TooLarge
from eventsync.mongodb.errors import translated
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.deciding import Decider
from eventsync.nodestorage.documents import Collections
from eventsync.nodestorage.idempotency import Idempotency, IdempotencyRecords
from eventsync.nodestorage.node import Node
from eventsync.nodestorage.operations import Create, Delete, Edit, Replace, Update, WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.transactions import Transactions
from eventsync.nodestorage.writer import OperationWriter


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """A page of documents in the order of their ids. `more`: there may be others behind them."""

    nodes: list[Node]
    more: bool


class NodeStorage:
    """Versioned reads and writes of the documents in `database`.

    `database` is a PyMongo `AsyncDatabase` or a Motor database; `operations` is the collection of idempotency records,
    of the same client. Read and write concerns are set here; the driver's `retryWrites` is best left on.

    Every write raises `Malformed` and `TooLarge` for what it is asked, `Conflict` when it lost against other writers
    until the policy's bound, and `Unavailable`; its message says whether the outcome is unknown. A write with a
    `condition` raises `VersionMismatch` if the state that it would replace does not satisfy it.
    """

    def __init__(self, database: Any, operations: Any, policy: WritePolicy, offload: Offload | None = None) -> None:
        """`offload` does what takes long; without it, all is done at once."""
        self._policy = policy
        self._records = IdempotencyRecords(operations, policy)
        offload = offload or inline()
        self._collections = Collections(database, offload)
        self._decider = Decider(policy, offload)
        transactions = Transactions(database.client, policy)
        self._writer = OperationWriter(self._collections, self._records, transactions, policy, self._decider)

    async def ensure_indexes(self) -> None:
        """Make the index that lets idempotency keys expire."""
        await self._records.ensure_indexes()

    # --- reads --------------------------------------------------------------------------------------------------

    async def get(self, collection: str, id: Any) -> Node | None:
        """The document, or None. Majority-committed. The document of a large one is a `JsonText`."""
        with translated(f"a document of {collection} can't be read"):
            raw = await self._collections.of(collection).read(id)
        need(DOCUMENT_WEIGHT * (0 if raw is None else len(raw.raw)))
        return None if raw is None else await self._decider.node(raw)

    async def find(self, collection: str, *, after: Any | None, limit: int, encoded: bool = False) -> list[Node]:
        """Up to `limit` documents behind the id `after` (None: from the first), in the order of their ids.

        Where they are wanted `encoded`, their documents are `JsonText`; else those of large ones are.
        """
        return (await self.page(collection, after=after, limit=limit, most_bytes=sys.maxsize, encoded=encoded)).nodes

    async def page(
        self, collection: str, *, after: Any | None, limit: int, most_bytes: int, skip: int = 0, encoded: bool = False
    ) -> DocumentPage:
        """Find documents as `find` does, behind `skip` more of them. A page ends once it has `most_bytes`."""
        with translated(f"{collection} can't be read"):
            found, more = await self._collections.of(collection).page(after, limit, most_bytes, skip)
        slices, nodes, size = Slices(), [], 0
        for raw in found:
            node = await (self._decider.encoded(raw) if encoded else self._decider.node(raw))
            nodes.append(node)
            size += len(node.document) if isinstance(node.document, JsonText) else 0
            if size >= most_bytes:
                return DocumentPage(nodes, more=True)
            await slices.did(len(raw.raw))
        return DocumentPage(nodes, more)

    # --- writes -------------------------------------------------------------------------------------------------

    async def find_one_and_update(
        self,
        collection: str,
        id: Any,
        edit: Edit,
        condition: Condition | None = None,
        *,
        author: Author,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        """Edit a document. What does not change it writes nothing and makes no version.

        Raises `NotFound`, and `PatchFailed` for a patch that does not apply.
        """
        return await self._writer.one(Update(collection, id, edit, condition), author, idempotency)

    async def create(
        self,
        collection: str,
        document: Document | JsonDocument,
        *,
        author: Author,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        """Insert a document; without `_id` it gets an ObjectId. Raises `Conflict` where it exists."""
        return await self._writer.one(Create(collection, document), author, idempotency)

    async def replace(
        self,
        collection: str,
        id: Any,
        document: Document | JsonDocument,
        condition: Condition | None = None,
        *,
        upsert: bool,
        author: Author,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        """Make `document` the whole document; see `Replace`. Raises `NotFound` without `upsert`."""
        operation = Replace(collection, id, document, condition, upsert)
        return await self._writer.one(operation, author, idempotency)

    async def delete(
        self,
        collection: str,
        id: Any,
        condition: Condition | None = None,
        *,
        author: Author,
        idempotency: Idempotency | None = None,
    ) -> WriteResult:
        """Delete a document. Its last version is one above that before. Raises `NotFound`."""
        return await self._writer.one(Delete(collection, id, condition), author, idempotency)

    async def transact(
        self, operations: Sequence[WriteOperation], *, author: Author, idempotency: Idempotency | None = None
    ) -> list[WriteResult]:
        """All of the operations, in their order, or none of them.

        An operation sees what those before it did. An error that one of them raises names it, counted from 0.
        """
        if not operations:
            raise Malformed("a transaction has at least one operation")
        if len(operations) > (most := self._policy.transaction_operations):
            raise TooLarge(f"a transaction may have {most} operations, not {len(operations)}")
        return await self._writer.all(operations, author, idempotency)
