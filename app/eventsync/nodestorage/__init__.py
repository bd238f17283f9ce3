"""Versioned writes of the user's documents, each with the exact difference that it made.

A write reads the document, decides what it becomes (`intent`, pure), and writes the smallest `$set` / `$unset` that
gets it there, together with `_sync: {v, op, by}`: one `find` and one `findAndModify`, and no write at all where nothing
changes. The filter names the version that was read and compares the whole document (`documents`), so neither another
API write nor a write behind the API's back can be overwritten unseen. A lost race is read and decided again, with
jittered waits, within `WritePolicy`'s bounds (`retry`); a caller that gave a `condition` gets `VersionMismatch` as
soon as the document does not satisfy it. Writers in the same process don't even race: they take turns,
document by document (`turns`).

Four kinds of write run in a MongoDB transaction (`transactions`), which then is what keeps races out: several
operations at once (`transact`), all writes with an idempotency key (its record commits with the write, see
`idempotency`), deletes (a last update stamps the document, so that the change stream tells who deleted it, in which
operation), and documents that a filter can't compare well: over 256 KiB, or in a collection with a collation.

"The same document" is MongoDB's own equality: an outside write that changes nothing but the type of a number (5 to
5.0), in the milliseconds between our read and our write, to a field that our write sets too, is not noticed.

Everything is read and written with majority concern, whatever the given database object says. PyMongo's async API and
Motor both work: only calls that they share are used.
"""

from eventsync.domain.condition import Condition
from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.values.json_document import JsonDocument
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.idempotency import Idempotency
from eventsync.nodestorage.node import Node
from eventsync.nodestorage.operations import Create, Delete, Edit, Replace, Update, WriteOperation
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.storage import NodeStorage

__all__ = [
    "Author",
    "Condition",
    "Create",
    "Delete",
    "Edit",
    "Idempotency",
    "JsonDocument",
    "JsonPatch",
    "MergePatch",
    "Node",
    "NodeStorage",
    "Replace",
    "Update",
    "WriteOperation",
    "WritePolicy",
    "WriteResult",
]
