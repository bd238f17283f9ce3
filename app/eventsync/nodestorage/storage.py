"""`NodeStorage`: the only part of eventsync that changes the user's documents."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson.raw_bson import RawBSONDocument

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.concurrency.offload import Offload, inline
from eventsync.concurrency.slices import Slices
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.bson_scan.ambiguous import checked
from eventsync.domain.condition import Condition
from eventsync.domain.ids import IdText, format_id, stored_id
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.predicates.predicate import Predicate
from eventsync.domain.values.extended_json import Document, JsonText, decode
from eventsync.domain.values.json_document import JsonDocument
from eventsync.domain.views import View
from eventsync.errors import EventsyncError, Malformed, TooLarge
from eventsync.mongodb.errors import translated
from eventsync.nodestorage.author import Author, Guard
from eventsync.nodestorage.bulk import BulkWrite, BulkWriter
from eventsync.nodestorage.deciding import Decider
from eventsync.nodestorage.documents import Collections
from eventsync.nodestorage.group_commit import GROUPED_BYTES
from eventsync.nodestorage.idempotency import Idempotency, IdempotencyRecords
from eventsync.nodestorage.node import Node
from eventsync.nodestorage.operations import Create, Delete, Edit, Replace, Update, WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.queries import BY_ID, PageEnd, Queries, Sort
from eventsync.nodestorage.recent import RecentDocuments
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.transactions import Transactions
from eventsync.nodestorage.writer import OperationWriter
from eventsync.settings import Settings

_READ_AT_ONCE: Final = 1024 * 1024
"""Most bytes of the documents that `readable` reads at once; more are read one by one."""


@dataclass(frozen=True, slots=True)
class Visible:
    """The readable part of a collection: the documents that `filter` finds, and of these what `guard` shows.

    Without a filter, the guard alone decides. `redaction` is what it hides of each document. Equal for equal `digest`.
    """

    guard: Guard
    filter: Mapping[str, Any] | None
    redaction: Redaction | None
    digest: bytes


@dataclass(frozen=True, slots=True)
class DocumentPage:
    """A page of documents. With `more`, others may follow; `end` is where a page of an ad hoc read ends then.

    `passed` has the id of each document that was read for a page in id order, or None for one that is not shown.
    """

    nodes: list[Node]
    more: bool
    end: PageEnd | None = None
    passed: Sequence[Any] = ()


class NodeStorage:
    """Versioned reads and writes of the documents in `database`.

    `database` is a PyMongo `AsyncDatabase` or a Motor database. `operations` is the collection of idempotency records,
    of the same client. This class sets read and write concerns; leave the driver's `retryWrites` on.

    Every write raises `Malformed` and `TooLarge` for a bad request, `Conflict` if it loses against other writers up to
    the policy's bound, and `Unavailable`, whose message says if the outcome is unknown. A write with a
    `condition` raises `VersionMismatch` if the state that it would replace does not satisfy it.
    """

    def __init__(
        self,
        database: Any,
        operations: Any,
        policy: WritePolicy,
        offload: Offload | None = None,
        *,
        query_timeout: float = Settings.model_fields["query_timeout"].default,
    ) -> None:
        """`offload` does long computations; without it, they run on the event loop. `query_timeout` is the
        maximum time that MongoDB works on one page of `find`, `page` and `query`, in seconds.
        """
        self._policy = policy
        self._records = IdempotencyRecords(operations, policy)
        offload = offload or inline()
        self._collections = Collections(database, offload)
        self._queries = Queries(database, query_timeout)
        self._query_timeout = query_timeout
        self._decider = Decider(policy, offload)
        transactions = Transactions(database.client, policy)
        self._recent = RecentDocuments(policy.cache_bytes)
        self._writer = OperationWriter(
            self._collections, self._records, transactions, policy, self._decider, self._recent
        )

    @property
    def retries(self) -> int:
        """The number of attempts of writes that were made again after they lost a race."""
        return self._policy.retries.count

    async def ensure_indexes(self) -> None:
        """Create the index that expires idempotency keys."""
        await self._records.ensure_indexes()

    # --- reads --------------------------------------------------------------------------------------------------

    async def get(self, collection: str, id: Any, guard: Guard | None = None) -> Node | None:
        """Return the majority-committed document, or None. The content of a large one is a `JsonText`.

        With a `guard`, it is what that shows of the document.
        """
        with translated(f"a document of {collection} can't be read"):
            raw = await self._collections.of(collection).read(id)
        need(DOCUMENT_WEIGHT * (0 if raw is None else len(raw.raw)))
        # Most writers read a document before they change it, so this read spares the write its own.
        if raw is not None and len(raw.raw) <= GROUPED_BYTES:
            self._recent.put(collection, format_id(id), raw)
        return None if raw is None else await self._decider.node(raw, guard)

    async def readable(self, collection: str, ids: Sequence[IdText], guard: Guard) -> set[IdText]:
        """Return those of a few ids that `get` finds a document for."""
        documents, found = self._collections.of(collection), set[IdText]()
        wanted = {text: stored_id(text) for text in ids}
        with translated(f"documents of {collection} can't be read"):
            raws = await documents.find_within(list(wanted.values()), _READ_AT_ONCE) if wanted else {}
            for text, value in wanted.items():
                raw = await documents.read(value) if raws is None else raws.get(text)
                if raw is not None and await self._decider.node(raw, guard) is not None:
                    found.add(text)
        return found

    async def find(self, collection: str, *, after: Any | None, limit: int, encoded: bool = False) -> list[Node]:
        """Return up to `limit` documents after the id `after` (None: from the first), in id order.

        With `encoded`, the content of each is a `JsonText`; otherwise only that of large ones is.
        """
        return (await self.page(collection, after=after, limit=limit, max_bytes=sys.maxsize, encoded=encoded)).nodes

    async def page(
        self,
        collection: str,
        *,
        after: Any | None,
        limit: int,
        max_bytes: int,
        skip: int = 0,
        encoded: bool = False,
        visible: Visible | None = None,
    ) -> DocumentPage:
        """Find documents as `find` does, after skipping `skip` of them. A page ends once it has `max_bytes`.

        With `visible`, find only those that may be read, and show of them what may be seen.
        """
        granted = None if visible is None else visible.filter
        with translated(f"{collection} can't be read"):
            raws, more = await self._collections.of(collection).page(
                after, limit, max_bytes, self._query_timeout, skip=skip, granted=granted
            )
        found, is_full = await self._nodes(raws, max_bytes, visible, encoded=encoded)
        passed = [None if node is None else node.id for node in found]
        return DocumentPage(list(filter(None, found)), more or is_full, passed=passed)

    async def query(
        self,
        collection: str,
        *,
        where: Predicate | None = None,
        route: Route | View | None = None,
        visible: Visible | None = None,
        sort: Sort = BY_ID,
        after: PageEnd | None = None,
        limit: int,
        max_bytes: int,
    ) -> DocumentPage:
        """Find the documents that `where` matches, in an order, behind `after`. The content of each is a `JsonText`.

        With `route`, find only those of a declared shape; with `visible`, as `page` does. A page ends once it has
        `max_bytes`. Raises `IndexNeeded` if MongoDB would read the whole collection for it, `TooComplex` if it takes
        too long, and `InvalidPredicate`.
        """
        granted = None if visible is None else visible.filter
        while True:
            raws, ends, more = await self._queries.page(
                collection, where, sort, after, limit, max_bytes, route=route, granted=granted
            )
            found, is_full = await self._nodes(raws, max_bytes, visible, route, encoded=True)
            more = more or is_full
            shown = [(node, end) for node, end in zip(found, ends, strict=False) if node is not None]
            if shown or not more or visible is None:
                break
            # No page may end at a document that is not shown.
            after = ends[len(found) - 1]
        last = shown[-1][1] if visible is not None and shown else ends[len(found) - 1] if found else None
        return DocumentPage([node for node, _ in shown], more, last if more else None)

    async def _nodes(
        self,
        raws: Sequence[RawBSONDocument],
        max_bytes: int,
        visible: Visible | None,
        route: Route | View | None = None,
        *,
        encoded: bool,
    ) -> tuple[list[Node | None], bool]:
        """Return the nodes of stored documents, in order, until their JSON has `max_bytes`, and True if it has.

        Those that are not shown, or that have too many keys to be in a route, are None.
        """
        slices, nodes, size = Slices(), list[Node | None](), 0
        guard = None if visible is None else visible.guard
        for raw in raws:
            if route is not None and not route.admits(checked(decode(raw.raw), bytes(raw.raw))):
                node = None
            else:
                node = await (self._decider.encoded(raw, guard) if encoded else self._decider.node(raw, guard))
            nodes.append(node)
            size += len(node.document) if node is not None and isinstance(node.document, JsonText) else 0
            if size >= max_bytes:
                return nodes, True
            await slices.did(len(raw.raw))
        return nodes, False

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
        """Edit a document. An edit that changes nothing writes nothing and makes no version.

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
        """Insert a document; without `_id` it gets an ObjectId. Raises `Conflict` if it exists."""
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
        """Replace the whole document; see `Replace`. Without `upsert`, raises `NotFound` if it does not exist."""
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
        """Delete a document. The deletion raises its version by one. Raises `NotFound`."""
        return await self._writer.one(Delete(collection, id, condition), author, idempotency)

    async def transact(
        self, operations: Sequence[WriteOperation], *, author: Author, idempotency: Idempotency | None = None
    ) -> list[WriteResult]:
        """Carry out all of the operations in order, or none of them.

        Each operation sees the effects of those before it. An error names its operation, counted from 0.
        """
        if not operations:
            raise Malformed("a transaction has at least one operation")
        if len(operations) > (max_operations := self._policy.transaction_operations):
            raise TooLarge(f"a transaction may have {max_operations} operations, not {len(operations)}")
        return await self._writer.all(operations, author, idempotency)

    def bulk(
        self, writes: AsyncIterable[BulkWrite | EventsyncError], *, within: float
    ) -> AsyncGenerator[list[WriteResult | EventsyncError]]:
        """Carry out operations that do not depend on each other, many at a time; those of one document in order.

        Yields the outcomes in order, some at a time. An error among the writes keeps its place, so that a caller may
        pass on what it could not read. Operations that have not begun by the policy's deadline have no outcome; those
        under way after `within` seconds are cancelled. Close the generator.
        """
        return BulkWriter(self._writer, self._policy, within).run(writes)
