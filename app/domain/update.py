"""The smallest MongoDB update that turns one stored document into another. Pure.

It is exact only for the very document it was made from: whoever applies it must make sure (by the filter, or by a
transaction) that the document is still that one.

Source: https://www.mongodb.com/docs/manual/core/dot-dollar-considerations/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from app.domain.values import same

Update = dict[str, dict[str, Any]]
"""`{"$set": {path: value}, "$unset": {path: ""}}`, each only where it is not empty."""

MAX_PATHS: Final = 1000
"""A change of more paths than this is cheaper as a whole document, for MongoDB too."""


def minimal_update(before: Mapping[str, Any], after: Mapping[str, Any]) -> Update | None:
    """The update from `before` to `after`; `{}` where they are the same.

    A field whose name no path can express (empty, with a dot, with a leading `$`) is written with the object that it
    is in; None where that object is the document itself, or where the update would have more than `MAX_PATHS` paths.
    Arrays of one length are changed element by element, others are written whole. Nothing in an array is ever unset:
    MongoDB would leave a null in its place.
    """
    sets: dict[str, Any] = {}
    unsets: dict[str, str] = {}
    if not _object(before, after, "", sets, unsets) or len(sets) + len(unsets) > MAX_PATHS:
        return None
    return {name: paths for name, paths in (("$set", sets), ("$unset", unsets)) if paths}


def _object(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str, sets: dict[str, Any], unsets: dict[str, str]
) -> bool:
    """Add what changes in an object. False, with nothing added, where a name of it can't be part of a path."""
    removed = [name for name in before if name not in after]
    changed = [name for name, value in after.items() if name not in before or not same(before[name], value)]
    if not (all(map(_addressable, removed)) and all(map(_addressable, changed))):
        return False
    unsets.update((f"{prefix}{name}", "") for name in removed)
    for name in changed:
        if name in before:
            _value(before[name], after[name], f"{prefix}{name}", sets, unsets)
        else:
            sets[f"{prefix}{name}"] = after[name]
    return True


def _addressable(name: str) -> bool:
    # A name of digits is fine: the path means a field or an element by what the document has there, and we know that.
    return bool(name) and not name.startswith("$") and "." not in name


def _value(before: Any, after: Any, path: str, sets: dict[str, Any], unsets: dict[str, str]) -> None:
    """Add the change of one field or element that exists before and after, and differs."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        # With no name in common the object is written whole, which also keeps its order.
        if before.keys() & after.keys() and _object(before, after, f"{path}.", sets, unsets):
            return
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        changed = [index for index, item in enumerate(after) if not same(before[index], item)]
        if len(changed) < len(after) or len(after) == 1:
            for index in changed:
                _value(before[index], after[index], f"{path}.{index}", sets, unsets)
            return
    sets[path] = after
