"""The operations that `NodeStorage` carries out, one at a time or several in a transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.domain.json_document import JsonDocument
from app.domain.merge_patch import MergePatch
from app.domain.patch import JsonPatch
from app.domain.values import Document

Edit = Callable[[Document], Document] | JsonPatch | MergePatch
"""How a document is to change. A function gets a copy of its own (with `_id`, without `_sync`), which it may modify,
and returns the new document; it runs again after a lost race, so it must depend on nothing but its argument.
"""


@dataclass(frozen=True, slots=True)
class Create:
    """A new document. Without `_id` it gets an ObjectId."""

    collection: str
    document: Document


@dataclass(frozen=True, slots=True)
class Update:
    """An edit of the document `id`, which must exist, at `expected_version` where that is given."""

    collection: str
    id: Any
    edit: Edit
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class Replace:
    """The whole document `id`. `upsert` creates it where there is none; `must_be_absent` does nothing but that."""

    collection: str
    id: Any
    document: Document | JsonDocument
    expected_version: int | None = None
    upsert: bool = False
    must_be_absent: bool = False


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of the document `id`, which must exist, at `expected_version` where that is given."""

    collection: str
    id: Any
    expected_version: int | None = None


WriteOperation = Create | Update | Replace | Delete
