"""The difference of two documents as an RFC 6902 JSON Patch, linear in the size of the two.

Exact by construction: `patch(before) == after` in value and BSON type (a property test checks it).
Arrays are compared by their common beginning and end, which appends, removals and edits in place leave unchanged.

The finest patch of a hostile document can take many times the document's size, by long paths of many fields or nested
arrays. Beyond a limit the patch becomes coarser, and stays exact.

Source: https://www.rfc-editor.org/rfc/rfc6902
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.patches.json_pointer import escape
from eventsync.domain.values.extended_json import same

Operation = dict[str, Any]
"""One operation: `op`, `path` and, for `add` and `replace`, a BSON `value`."""

Touched = Mapping[str, int]
"""Fields that may differ. The number counts only where one is an array: its items before that index are the same."""

_FEW: Final = 4
"""Up to this number, items are compared faster one by one than by their encoding."""

_MAX_ARRAYS: Final = 4
"""Nested arrays that are compared item by item. Each level compares its whole content once more."""

_MAX_LETTERS: Final = 8 * 1024 * 1024
_OPERATION: Final = 64
"""A patch over `_MAX_LETTERS` letters of paths, plus this number for each operation, replaces whole fields instead."""

_LEAVES: Final = frozenset({str, int})


class _TooFine(Exception):
    """The patch would have more than `_MAX_LETTERS`."""


def diff(before: Mapping[str, Any], after: Mapping[str, Any], touched: Touched | None = None) -> list[Operation]:
    """Return the operations that turn `before` into `after`, none if they are the same.

    With `touched`, the caller knows that all other fields of the two are the same.
    """
    try:
        return _Difference().of(before, after, touched)
    except _TooFine:
        return _coarse(before, after, touched)


def _coarse(before: Mapping[str, Any], after: Mapping[str, Any], touched: Touched | None) -> list[Operation]:
    """Return a patch that replaces whole top-level fields. Its paths are no longer than the document."""
    patch: list[Operation] = [{"op": "remove", "path": f"/{escape(name)}"} for name in before if name not in after]
    for name, value in after.items():
        if touched is not None and name not in touched:
            continue
        if name not in before:
            patch.append({"op": "add", "path": f"/{escape(name)}", "value": value})
        elif not same(before[name], value):
            patch.append({"op": "replace", "path": f"/{escape(name)}", "value": value})
    return patch


class _Difference:
    """Walks two documents in parallel. `_way` is the current path, which is encoded only for an operation."""

    __slots__ = ("_arrays_around", "_left", "_patch", "_way")

    def __init__(self) -> None:
        self._patch: list[Operation] = []
        self._way: list[str | int] = []
        self._left = _MAX_LETTERS
        self._arrays_around = 0

    def of(self, before: Mapping[str, Any], after: Mapping[str, Any], touched: Touched | None) -> list[Operation]:
        if touched is None:
            self._objects(before, after)
            return self._patch
        self._removals(after, [name for name in before if name in touched])
        for name, value in after.items():
            if (first := touched.get(name)) is not None:
                self._field(before, name, value, first)
        return self._patch

    def _add(self, op: str, last: str | int) -> Operation:
        path = "".join([f"/{escape(part) if isinstance(part, str) else part}" for part in (*self._way, last)])
        self._left -= len(path) + _OPERATION
        if self._left < 0:
            raise _TooFine
        operation = {"op": op, "path": path}
        self._patch.append(operation)
        return operation

    def _objects(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        self._removals(after, before)
        for name, value in after.items():
            self._field(before, name, value)

    def _removals(self, after: Mapping[str, Any], names: Iterable[str]) -> None:
        for name in names:
            if name not in after:
                self._add("remove", name)

    def _field(self, before: Mapping[str, Any], name: str, value: Any, first: int = 0) -> None:
        if name in before:
            self._values(before[name], value, name, first)
        else:
            self._add("add", name)["value"] = value

    def _values(self, before: Any, after: Any, last: str | int, first: int = 0) -> None:
        """Compare two values. In two arrays, the `first` leading items are known to be the same."""
        kind = type(after)
        if kind in _LEAVES and type(before) is kind:
            if before != after:
                self._add("replace", last)["value"] = after
            return
        # Do not compare containers first: that would walk their whole content at each level.
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            self._way.append(last)
            self._objects(before, after)
            self._way.pop()
        elif isinstance(before, list) and isinstance(after, list) and self._arrays_around < _MAX_ARRAYS:
            self._way.append(last)
            self._arrays_around += 1
            self._arrays(before, after, first)
            self._arrays_around -= 1
            self._way.pop()
        elif not same(before, after):
            self._add("replace", last)["value"] = after

    def _arrays(self, before: list[Any], after: list[Any], first: int) -> None:
        head = min(first, len(before), len(after))
        head += _common(before[head:], after[head:])
        tail = _common(before[head:][::-1], after[head:][::-1])
        was, now = before[head : len(before) - tail], after[head : len(after) - tail]
        shared = min(len(was), len(now))
        for index in range(shared):
            self._values(was[index], now[index], head + index)
        # Backwards, so that the remaining indexes stay valid.
        for index in range(len(was) - 1, shared - 1, -1):
            self._add("remove", head + index)
        for index in range(shared, len(now)):
            self._add("add", head + index)["value"] = now[index]


def _common(left: list[Any], right: list[Any]) -> int:
    """Return the number of leading items that are the same."""
    count = _alike(left, right)
    for a, b in zip(islice(left, count, None), islice(right, count, None), strict=False):
        if not same(a, b):
            break
        count += 1
    return count


def _alike(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return a lower bound of the number of leading items that are the same.

    (Items that are equal in Python and have the same BSON are the same; this is three times as fast as a walk.)
    """
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count if count >= _FEW and _encoded(left[:count]) == _encoded(right[:count]) else 0


def _encoded(items: Sequence[Any]) -> bytes:
    return encode({"": items})
