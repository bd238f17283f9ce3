"""Versioned writes of the user's documents. Each result carries the exact difference that the write made.

A write reads the document, decides the new state (`intent`, pure), and sends the smallest `$set` / `$unset` that
produces it, together with `_sync: {v, op, by}`. A write that changes nothing sends nothing. The write compares the
whole stored document with the one that was read, so it never overwrites a change that it has not read, whether that
change came through the API or not.

Writes that arrive together are a group (`lanes`, `group_commit`): one `find`, one `insert` and one `update` for all of
them, with the exact outcome of each (`grouped_write`). A document that this process has written or read last needs no
`find` (`recent`): the write itself compares the guess, and a wrong guess costs one more round.

Many independent writes (`bulk`) are carried out at the same time, those of one document in order.

After a lost race the document is read and decided again, with jittered waits, within the bounds of `WritePolicy`
(`retry`). A write with a `condition` raises `VersionMismatch` as soon as the document does not satisfy it. Writers in
one process do not race: they take turns for each document.

Four kinds of write run in a MongoDB transaction (`transactions`), which excludes races:

- several operations at once (`transact`), which take one `find`, and a command for the writes of one kind that follow
  each other (`transaction_steps`);
- a write with an idempotency key, because its record commits with the write (`idempotency`);
- a delete, because it first stamps the document, so that the change stream shows the author and the operation; deletes
  that arrive together share a transaction;
- a document that a filter compares badly: one over 256 KiB, or in a collection with a collation.

Documents are compared by MongoDB's equality, and by their size. One outside write goes unnoticed: a write between our
read and our write that changes only the type of a number to another of the same size (an int64 5 to 5.0), in a field
that our write sets too.

Ad hoc reads (`queries`) find documents by a filter, in any order, where an index serves them.

All reads and writes use majority concern, whatever the given database object says. The package uses only calls that
PyMongo's async API and Motor share, so both work.
"""

from eventsync.domain.condition import Condition
from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.values.json_document import JsonDocument
from eventsync.nodestorage.author import Author, Guard
from eventsync.nodestorage.bulk import BulkWrite
from eventsync.nodestorage.deciding import TEXT_WEIGHT
from eventsync.nodestorage.documents import stored_node
from eventsync.nodestorage.idempotency import Idempotency
from eventsync.nodestorage.node import Node
from eventsync.nodestorage.operations import Create, Delete, Edit, Replace, Update, WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.queries import BY_ID, PageEnd, Sort
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.storage import NodeStorage, Visible

__all__ = [
    "BY_ID",
    "TEXT_WEIGHT",
    "Author",
    "BulkWrite",
    "Condition",
    "Create",
    "Delete",
    "Edit",
    "Guard",
    "Idempotency",
    "JsonDocument",
    "JsonPatch",
    "MergePatch",
    "Node",
    "NodeStorage",
    "PageEnd",
    "Replace",
    "Sort",
    "Update",
    "Visible",
    "WriteOperation",
    "WritePolicy",
    "WriteResult",
    "stored_node",
]
