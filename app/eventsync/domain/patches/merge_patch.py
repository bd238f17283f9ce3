"""Merge patch over documents of BSON values. null removes; an Extended JSON wrapper is a value, never merged into.

Source: https://www.rfc-editor.org/rfc/rfc7396
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any, cast

from eventsync.domain.patches.json_patch import Apply
from eventsync.domain.stamp import FIELD
from eventsync.domain.values.extended_json import Document, JsonText, from_tree, parse_json
from eventsync.domain.values.json_document import converted
from eventsync.errors import Malformed


@dataclass(frozen=True, slots=True)
class MergePatch:
    """A merge patch as a client sent it: `patch` is the parsed JSON, or a `JsonText`."""

    patch: Any

    def parsed(self) -> MergePatch:
        """Return the same, with its JSON parsed. Raises `Malformed`."""
        return MergePatch(parse_json(self.patch.text)) if isinstance(self.patch, JsonText) else self

    def prepared(self) -> Apply:
        """Check the patch and convert its values. Raises `Malformed`; what it returns can't fail."""
        if not isinstance(self.patch, dict) or _is_wrapper(self.patch):
            raise Malformed("a merge patch of a document is an object of its fields")
        for name in ("_id", FIELD):
            if name in self.patch:
                raise Malformed(f"{name} can't be patched")
        changes = _merge_tree(self.patch)
        return lambda document: _merge(document, changes)

    def touched(self) -> Container[str]:
        """Return the fields of a document that the checked patch may change."""
        return cast("dict[str, Any]", self.patch).keys()


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A value, and the JSON that it was read from."""

    tree: Any
    value: Any


def _is_wrapper(tree: dict[str, Any]) -> bool:
    return any(name.startswith("$") for name in tree)


def _merge_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """The patch with its values as `_Leaf`. A dict in it is always an object to merge, None always a removal."""
    if any("\0" in name for name in tree):
        raise Malformed("a field name must not contain a null character")
    return {name: None if item is None else _merge_value(item) for name, item in tree.items()}


def _merge_value(item: Any) -> Any:
    return _merge_tree(item) if isinstance(item, dict) and not _is_wrapper(item) else _Leaf(item, from_tree(item))


def _merge(target: Any, changes: dict[str, Any]) -> Document:
    merged: Document = dict(target) if isinstance(target, Mapping) else {}
    for name, change in changes.items():
        if change is None:
            merged.pop(name, None)
        elif isinstance(change, dict):
            merged[name] = _merge(merged.get(name), change)
        else:
            merged[name] = converted(merged.get(name), change.tree, change.value)
    return merged
