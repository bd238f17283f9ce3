"""The difference of two documents as an RFC 6902 JSON Patch, linear in the size of what changed.

Exact by construction: `patch(before) == after` in value and BSON type (a property test holds it to that).
Arrays are compared by their common beginning and end, which is what appends, removals and edits in place leave.

Source: https://www.rfc-editor.org/rfc/rfc6902
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from app.domain.values import same

Operation = dict[str, Any]
"""One operation: `op`, `path` and, for `add` and `replace`, a BSON `value`."""


def diff(before: Mapping[str, Any], after: Mapping[str, Any], names: Collection[str] | None = None) -> list[Operation]:
    """The operations that turn `before` into `after`; empty where they are the same.

    With `names`, the caller knows that all fields of the two but these are the same.
    """
    patch: list[Operation] = []
    if names is not None:
        before = {name: value for name, value in before.items() if name in names}
        after = {name: value for name, value in after.items() if name in names}
    _objects(before, after, "", patch)
    return patch


def escape(segment: str) -> str:
    """One reference token of a JSON Pointer (RFC 6901 section 3)."""
    return segment.replace("~", "~0").replace("/", "~1")


def _objects(before: Mapping[str, Any], after: Mapping[str, Any], path: str, patch: list[Operation]) -> None:
    patch.extend({"op": "remove", "path": f"{path}/{escape(name)}"} for name in before if name not in after)
    for name, value in after.items():
        here = f"{path}/{escape(name)}"
        if name in before:
            _values(before[name], value, here, patch)
        else:
            patch.append({"op": "add", "path": here, "value": value})


def _values(before: Any, after: Any, path: str, patch: list[Operation]) -> None:
    if same(before, after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        _objects(before, after, path, patch)
    elif isinstance(before, list) and isinstance(after, list):
        _arrays(before, after, path, patch)
    else:
        patch.append({"op": "replace", "path": path, "value": after})


def _arrays(before: list[Any], after: list[Any], path: str, patch: list[Operation]) -> None:
    head = _common(before, after)
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
    count = 0
    for a, b in zip(left, right, strict=False):
        if not same(a, b):
            break
        count += 1
    return count
