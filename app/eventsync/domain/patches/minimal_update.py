"""The smallest MongoDB update that turns one stored document into another. Pure.

It is exact only for the document that it was made from. The caller must ensure, by the filter or by a transaction, that
the stored document is still the same.

Source: https://www.mongodb.com/docs/manual/core/dot-dollar-considerations/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from eventsync.domain.bson_scan.opaque import is_text
from eventsync.domain.values.extended_json import same

Update = dict[str, dict[str, Any]]
"""`{"$set": {path: value}, "$unset": {path: ""}}`, without empty members."""

MAX_PATHS: Final = 1000
"""With more paths than this, a whole document is cheaper, also for MongoDB."""

MAX_LETTERS: Final = 256 * 1024
"""With more letters of paths than this, too: a document can repeat a long path for each of its fields."""


def minimal_update(before: Mapping[str, Any], after: Mapping[str, Any]) -> Update | None:
    """Return the update from `before` to `after`; `{}` if they are the same.

    A field whose name no path can express (empty, with a dot, with a leading `$`, not UTF-8) is written with the object
    that it is in; None where that object is the document itself, or where the update would have more than `MAX_PATHS`
    paths.
    Arrays of one length are changed element by element, others are written whole. Nothing in an array is ever unset:
    MongoDB would leave a null in its place.
    """
    changes = _Changes()
    if not changes.object(before, after) or changes.letters > MAX_LETTERS:
        return None
    sets, unsets = dict(changes.sets), dict.fromkeys(changes.unsets, "")
    return {name: paths for name, paths in (("$set", sets), ("$unset", unsets)) if paths}


class _Changes:
    """Walks two documents side by side, once. Where no path can express a change, its parent is written whole."""

    __slots__ = ("_way", "letters", "sets", "unsets")

    def __init__(self) -> None:
        self.sets: list[tuple[str, Any]] = []
        self.unsets: list[str] = []
        self.letters = 0
        self._way: list[str] = []

    def object(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
        """Add what changes in an object. False, with nothing added, where it has to be written whole."""
        savepoint = self._savepoint()
        for name in before:
            if name not in after:
                if not _addressable(name):
                    return self._undo(savepoint)
                self.unsets.append(self._path(name))
        for name, value in after.items():
            was = before.get(name, _ABSENT)
            kind = type(value)
            if kind is type(was) and kind in _LEAVES and value == was:
                continue  # by far the commonest
            if not (self._set(name, value) if was is _ABSENT else self._value(was, value, name)):
                return self._undo(savepoint)
            if len(self.sets) + len(self.unsets) > MAX_PATHS or self.letters > MAX_LETTERS:
                return self._undo(savepoint)
        return True

    def _value(self, before: Any, after: Any, name: str) -> bool:
        """Add the change of a field or element that exists before and after, if it differs. False: no path can."""
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            is_expressed = self._in_object(before, after, name)
        elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
            is_expressed = self._in_array(before, after, name)
        else:
            is_expressed = same(before, after)
        return is_expressed or self._set(name, after)

    def _in_object(self, before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> bool:
        # With no name in common the object is written whole, which also keeps its order.
        if not _share(before, after):
            return False
        savepoint = self._savepoint()
        self._way.append(name)
        is_expressed = self.object(before, after)
        self._way.pop()
        return is_expressed and (self._savepoint() == savepoint or _addressable(name) or self._undo(savepoint))

    def _in_array(self, before: list[Any], after: list[Any], name: str) -> bool:
        savepoint, changed = self._savepoint(), 0
        self._way.append(name)
        for index, (was, item) in enumerate(zip(before, after, strict=True)):
            if type(item) is type(was) and type(item) in _LEAVES and item == was:
                continue
            sets = len(self.sets) + len(self.unsets)
            # An index always makes a path.
            self._value(was, item, str(index))
            changed += len(self.sets) + len(self.unsets) > sets
            if len(self.sets) > MAX_PATHS or self.letters > MAX_LETTERS:
                break
        self._way.pop()
        if self._savepoint() == savepoint:
            return True
        many = len(self.sets) + len(self.unsets) > MAX_PATHS or self.letters > MAX_LETTERS
        whole = many or (changed == len(after) and changed > 1) or not _addressable(name)
        return not whole or self._undo(savepoint)

    def _set(self, name: str, value: Any) -> bool:
        if not _addressable(name):
            return False
        self.sets.append((self._path(name), value))
        return True

    def _path(self, name: str) -> str:
        path = ".".join([*self._way, name])
        self.letters += len(path)
        return path

    def _savepoint(self) -> tuple[int, int, int]:
        return len(self.sets), len(self.unsets), self.letters

    def _undo(self, savepoint: tuple[int, int, int]) -> bool:
        sets, unsets, self.letters = savepoint
        del self.sets[sets:], self.unsets[unsets:]
        return False


_LEAVES: Final = frozenset({str, int})
_ABSENT: Final = object()


def _share(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return True if two objects have a name in common, or are both empty."""
    for name in after:
        if name in before:
            return True
    return not (before or after)


def _addressable(name: str) -> bool:
    # A name of digits is fine: the path means a field or an element by what the document has there, and we know that.
    return bool(name) and not name.startswith("$") and "." not in name and is_text(name)
