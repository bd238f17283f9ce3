"""The operations that `NodeStorage` carries out, one at a time or several in a transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from eventsync.domain.condition import Condition
from eventsync.domain.patches.json_patch import JsonPatch
from eventsync.domain.patches.merge_patch import MergePatch
from eventsync.domain.values.extended_json import Document, JsonText
from eventsync.domain.values.json_document import ABSENT, JsonDocument

Edit = Callable[[Document], Document] | JsonPatch | MergePatch
"""An edit of a document. A function gets a copy of it (with `_id`, without `_sync`), may modify the copy, and returns
the new document. It runs again after a lost race, so it must depend on nothing but its argument.
"""


@dataclass(slots=True)
class Create:
    """Create a document. Without `_id` it gets `id`, or an ObjectId if `id` is `ABSENT`."""

    collection: str
    document: Document | JsonDocument
    id: Any = ABSENT


@dataclass(slots=True)
class Update:
    """Edit the document `id`, which must exist and satisfy `condition`."""

    collection: str
    id: Any
    edit: Edit
    condition: Condition | None = None


@dataclass(slots=True)
class Replace:
    """Replace the whole document `id`; with `upsert`, create it if it does not exist.

    A `condition` with tags to match requires a stored document, so `upsert` then creates nothing.
    """

    collection: str
    id: Any
    document: Document | JsonDocument
    condition: Condition | None = None
    upsert: bool = False


@dataclass(slots=True)
class Delete:
    """Delete the document `id`, which must exist and satisfy `condition`."""

    collection: str
    id: Any
    condition: Condition | None = None


WriteOperation = Create | Update | Replace | Delete


def text_bytes(operation: WriteOperation) -> int:
    """Return the bytes of unparsed JSON in an operation."""
    content = _content(operation)
    return len(content) if isinstance(content, JsonText) else 0


def parsed(operation: WriteOperation) -> WriteOperation:
    """Return the same operation with its JSON parsed. Raises `Malformed`."""
    if isinstance(operation, Create | Replace) and isinstance(operation.document, JsonDocument):
        return replace(operation, document=operation.document.parsed())
    if isinstance(operation, Update) and isinstance(operation.edit, JsonPatch | MergePatch):
        return replace(operation, edit=operation.edit.parsed())
    return operation


def is_portable(operation: WriteOperation) -> bool:
    """Return True if another process can carry out the operation: it contains JSON, and no function or Python
    document.
    """
    if isinstance(operation, Update):
        return isinstance(operation.edit, JsonPatch | MergePatch)
    return isinstance(operation, Delete) or isinstance(operation.document, JsonDocument)


def _content(operation: WriteOperation) -> Any:
    if isinstance(operation, Create | Replace):
        return operation.document.tree if isinstance(operation.document, JsonDocument) else None
    edit = operation.edit if isinstance(operation, Update) else None
    if isinstance(edit, JsonPatch):
        return edit.operations
    return edit.patch if isinstance(edit, MergePatch) else None
