"""The difference of two documents as an RFC 6902 JSON Patch, linear in the size of what changed.

Exact by construction: `patch(before) == after` in value and BSON type (a property test holds it to that).
Arrays are compared by their common beginning and end, which is what appends, removals and edits in place leave.

Source: https://www.rfc-editor.org/rfc/rfc6902
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import bson

from app.domain.values import CODEC, same

Operation = dict[str, Any]
"""One operation: `op`, `path` and, for `add` and `replace`, a BSON `value`."""

Touched = Mapping[str, int]
"""Fields that may differ. The number counts only where one is an array: its items before that index are the same."""

_FEW: Final = 4
"""Items that are compared faster one by one than by their encoding."""


def diff(before: Mapping[str, Any], after: Mapping[str, Any], touched: Touched | None = None) -> list[Operation]:
    """The operations that turn `before` into `after`; empty where they are the same.

    With `touched`, the caller knows that all other fields of the two are the same.
    """
    patch: list[Operation] = []
    if touched is None:
        _objects(before, after, "", patch)
        return patch
    _removals(after, "", [name for name in before if name in touched], patch)
    for name, value in after.items():
        if (first := touched.get(name)) is not None:
            _field(before, name, value, f"/{escape(name)}", patch, first)
    return patch


def escape(segment: str) -> str:
    """One reference token of a JSON Pointer (RFC 6901 section 3)."""
    return segment.replace("~", "~0").replace("/", "~1")


def _objects(before: Mapping[str, Any], after: Mapping[str, Any], path: str, patch: list[Operation]) -> None:
    _removals(after, path, before, patch)
    for name, value in after.items():
        _field(before, name, value, f"{path}/{escape(name)}", patch)


def _removals(after: Mapping[str, Any], path: str, names: Iterable[str], patch: list[Operation]) -> None:
    patch.extend({"op": "remove", "path": f"{path}/{escape(name)}"} for name in names if name not in after)


def _field(before: Mapping[str, Any], name: str, value: Any, path: str, patch: list[Operation], first: int = 0) -> None:
    if name in before:
        _values(before[name], value, path, patch, first)
    else:
        patch.append({"op": "add", "path": path, "value": value})


def _values(before: Any, after: Any, path: str, patch: list[Operation], first: int = 0) -> None:
    """`first`: so many items at the beginning are known to be the same, where both are arrays."""
    # Without asking first whether they are the same: that would go through all that is in them, at every level again.
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        _objects(before, after, path, patch)
    elif isinstance(before, list) and isinstance(after, list):
        _arrays(before, after, path, patch, first)
    elif not same(before, after):
        patch.append({"op": "replace", "path": path, "value": after})


def _arrays(before: list[Any], after: list[Any], path: str, patch: list[Operation], first: int) -> None:
    head = min(first, len(before), len(after))
    head += _common(before[head:], after[head:])
    tail = _common(before[head:][::-1], after[head:][::-1])
    was, now = before[head : len(before) - tail], after[head : len(after) - tail]
    shared = min(len(was), len(now))
    for index in range(shared):
        _values(was[index], now[index], f"{path}/{head + index}", patch)
    # From the back, so that each index still means what it meant in `before`.
    patch.extend({"op": "remove", "path": f"{path}/{head + index}"} for index in range(len(was) - 1, shared - 1, -1))
    patch.extend(
        {"op": "add", "path": f"{path}/{head + index}", "value": now[index]} for index in range(shared, len(now))
    )


def _common(left: list[Any], right: list[Any]) -> int:
    """How many leading items are the same."""
    count = _alike(left, right)
    for a, b in zip(islice(left, count, None), islice(right, count, None), strict=False):
        if not same(a, b):
            break
        count += 1
    return count


def _alike(left: Sequence[Any], right: Sequence[Any]) -> int:
    """So many leading items are certainly the same; there may be more.

    (What Python finds equal, and BSON writes alike, is the same: three times as fast as to walk through both.)
    """
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count if count >= _FEW and _encoded(left[:count]) == _encoded(right[:count]) else 0


def _encoded(items: Sequence[Any]) -> bytes:
    return bson.encode({"": items}, codec_options=CODEC)
