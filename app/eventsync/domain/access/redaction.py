"""Redaction: hidden fields, in documents and in patches alike.

A path is names joined by dots, and `*` stands for any one name. Between two names any number of array indexes is
skipped, as MongoDB does: `lines.cost` hides the field in every item of an array. A patch does not tell an array from an
object whose names are digits, so those are skipped, too.

The invariant: for a patch of `domain.patches.diff`, which only adds, removes and replaces,
`strip(before) + redact(patch) == strip(after)`. It holds for BSON values and for their Extended JSON. No path ends at
an index, therefore the items of an array are all hidden or all shown, and their indexes stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, TypeAlias

from bson.code import Code
from bson.dbref import DBRef

from eventsync.domain.bson_scan.ambiguous import like
from eventsync.domain.bson_scan.opaque import Opaque, readable
from eventsync.domain.patches.diff import Operation
from eventsync.domain.patches.json_pointer import unescape
from eventsync.domain.predicates.ordering import ARRAY, OBJECT
from eventsync.domain.predicates.parsing import check_path
from eventsync.domain.stamp import FIELD
from eventsync.domain.values.extended_json import same
from eventsync.errors import InvalidPredicate

MAX_PATHS: Final = 64
"""Most paths of `hide`, and of `fixed`, and most names of `fields`."""

ANY: Final = "*"

_ID: Final = "_id"
_OPAQUE: Final = "$opaque"
_OWN: Final = frozenset({FIELD, _OPAQUE})
"""Top-level names that are never shown: the stamp, and a document that can't be read field by field."""

_WRAPPERS: Final = frozenset(
    {"$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal", "$binary", "$uuid", "$timestamp",
     "$regularExpression", "$minKey", "$maxKey", "$code", "$symbol", "$undefined", _OPAQUE}
)  # fmt: skip
"""The name in an object that is the Extended JSON of one value."""

_WRAPPED: Final = _WRAPPERS | {"base64", "subType", "t", "i", "pattern", "options", "type"}
"""Names within such an object. Whatever has others is searched for hidden fields."""

_CONTAINERS: Final = frozenset({"03", "04"})


class _Hidden:
    """The type of `_HIDDEN`."""

    __slots__ = ()


_HIDDEN: Final = _Hidden()
"""The state at a path and below it."""


def is_index(name: str) -> bool:
    """Return True for a name that may be the index of an array's item."""
    return name.isascii() and name.isdigit()


def check_redacted(path: Any, place: str) -> tuple[str, ...]:
    """Return the names of a path of `hide` or `fixed`. Raises `InvalidPredicate`."""
    check_path(path, place)
    names = tuple(path.split("."))
    if names[0] == _ID:
        raise InvalidPredicate(place, "_id names the document, and is always shown")
    if any(ANY in name and name != ANY for name in names):
        raise InvalidPredicate(place, "* stands alone, for any one name of a path")
    if any(map(is_index, names[1:])):
        raise InvalidPredicate(
            place, "an index is no name here, because the items of an array move; * is every item, and every name"
        )
    return names


# --- paths as an automaton ----------------------------------------------------------------------------------------

_Rest: TypeAlias = tuple[str, ...]


class _State:
    """A place in a document: what is left of the paths that lead through it."""

    __slots__ = ("_after", "_made", "_names", "_rests")

    def __init__(self, rests: frozenset[_Rest], made: dict[frozenset[_Rest], _State]) -> None:
        """`made` has the states that are kept, which are shared."""
        self._rests = rests
        self._names = frozenset(rest[0] for rest in rests)
        self._made = made
        self._after: dict[str, _State | _Hidden | None] = {}

    def after(self, name: str) -> _State | _Hidden | None:
        """Return the state at a member of an object or array, or None if nothing in it is hidden."""
        if not name.isascii():
            name = readable(name)
        # All names that no path has are alike, and so are all indexes.
        name = name if name in self._names else "0" if is_index(name) else ""
        if name not in self._after:
            self._after[name] = self._follow(name)
        return self._after[name]

    def _follow(self, name: str) -> _State | _Hidden | None:
        found = {rest[1:] for rest in self._rests if rest[0] in (name, ANY)}
        if () in found:
            return _HIDDEN
        if is_index(name):
            found |= self._rests
        if not found:
            return None
        rests = frozenset(found)
        if rests not in self._made:
            self._made[rests] = _State(rests, self._made)
        return self._made[rests]


class Paths:
    """A set of paths, followed together through a document."""

    __slots__ = ("_heads", "_made", "names")

    def __init__(self, names: Iterable[tuple[str, ...]]) -> None:
        self.names = frozenset(names)
        self._heads: dict[str, _State | _Hidden | None] = {}
        """The states at the top-level fields that are named; at `*` that of all others."""
        self._made: dict[frozenset[_Rest], _State] = {}
        heads = {path[0] for path in self.names}
        for head in heads | {ANY}:
            rests = frozenset(path[1:] for path in self.names if path[0] in (head, ANY))
            self._heads[head] = _HIDDEN if () in rests else _State(rests, self._made) if rests else None

    def at(self, name: str) -> _State | _Hidden | None:
        """Return the state at a top-level field. An index is a name like others there."""
        if name == _ID:
            return None
        if not name.isascii():
            name = readable(name)
        return self._heads[name] if name in self._heads and name != ANY else self._heads[ANY]

    def touch(self, path: Sequence[str]) -> bool:
        """Return True if the field path of a filter leads to, above or below one of these.

        A filter enters the items of an array without naming them, so `*` may stand for nothing there.
        """
        if not path or path[0] == _ID:
            return False
        rests = {each[1:] for each in self.names if each[0] in (path[0], ANY)}
        for name in path[1:]:
            rests = _widened(rests)
            if () in rests:
                return True
            rests = {rest[1:] for rest in rests if rest[0] in (name, ANY)} | (rests if is_index(name) else set())
        return bool(rests)

    # --- documents

    def without(self, value: Any, state: _State) -> Any:
        """Return a value without what is below these paths. `state` is the one at the value."""
        if isinstance(value, list):
            inner = state.after("0")
            if inner is _HIDDEN:
                return []
            return [self.without(item, inner) for item in value] if isinstance(inner, _State) else value
        if (inside := _inside(value)) is not None:
            # Without a hidden field in it, it stays a reference or code.
            shown = self._members(inside, state)
            return value if same(shown, inside) else shown
        if isinstance(value, Mapping):
            if _is_wrapper(value):
                return None if _is_unreadable(value) else value
            return self._members(value, state)
        # A container that can't be read may hold anything.
        return None if type(value) is Opaque and value.kind in {OBJECT, ARRAY} else value

    def _members(self, value: Mapping[str, Any], state: _State) -> dict[str, Any]:
        shown = {}
        for name, item in value.items():
            inner = state.after(name)
            if inner is None:
                shown[name] = item
            elif isinstance(inner, _State):
                shown[name] = self.without(item, inner)
        return shown

    def only(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is at these paths and below them, and nothing else: equal for documents that agree in it."""
        return self._only_members((name, item, self.at(name)) for name, item in document.items())

    def _only_members(self, members: Iterable[tuple[str, Any, _State | _Hidden | None]]) -> dict[str, Any]:
        found = {}
        for name, item, state in members:
            if state is _HIDDEN:
                found[name] = item
            elif isinstance(state, _State) and (inner := self._only(item, state)):
                found[name] = inner
        return found

    def _only(self, value: Any, state: Any) -> Any:
        if (inside := _inside(value)) is not None:
            value = inside
        if isinstance(value, list):
            inner = state.after("0")
            # An item without any of these paths may come and go.
            return value if inner is _HIDDEN else [found for item in value if (found := self._only(item, inner))]
        if isinstance(value, Mapping) and not _is_wrapper(value):
            return self._only_members((name, item, state.after(name)) for name, item in value.items())
        return value if type(value) is Opaque and value.kind in {OBJECT, ARRAY} else None


def _widened(rests: set[_Rest]) -> set[_Rest]:
    """Return what may be left of paths if `*` may stand for nothing."""
    found = set(rests)
    for rest in rests:
        stars = next((at for at, name in enumerate(rest) if name != ANY), len(rest))
        found |= {rest[at:] for at in range(1, stars + 1)}
    return found


def _inside(value: Any) -> Mapping[str, Any] | None:
    """Return the document that a reference or code is in JSON, or None for all other values."""
    if isinstance(value, DBRef):
        return value.as_doc()
    if isinstance(value, Code) and value.scope is not None:
        return {"$code": str(value), "$scope": value.scope}
    return None


def _is_wrapper(value: Any) -> bool:
    """Return True for the Extended JSON of one value. A plain object that looks like one is taken for one."""
    if len(value) != 1 or not value.keys() <= _WRAPPERS:
        return False
    (inner,) = value.values()
    if not isinstance(inner, Mapping):
        return not isinstance(inner, list)
    return inner.keys() <= _WRAPPED and not any(isinstance(item, Mapping | list) for item in inner.values())


def _is_unreadable(value: Mapping[str, Any]) -> bool:
    inner = value.get(_OPAQUE)
    return isinstance(inner, Mapping) and inner.get("type") in _CONTAINERS


# --- redaction ----------------------------------------------------------------------------------------------------


_WALKED: Final = 1024
_SHORT: Final = 128
"""So many JSON Pointers are remembered by a redaction, of so many characters."""


class Redaction:
    """Hidden fields: the paths of `hide`, and with `fields`, all top-level fields that it does not name.

    `_id` is always shown. `digest` is equal for redactions that hide the same.
    """

    __slots__ = ("_paths", "_walked", "digest", "fields", "hide")

    def __init__(self, hide: Iterable[tuple[str, ...]] = (), fields: Iterable[str] | None = None) -> None:
        self.fields = None if fields is None else frozenset(fields)
        self.hide = frozenset(path for path in hide if self.fields is None or path[0] == ANY or path[0] in self.fields)
        self._paths = Paths(self.hide)
        self._walked: dict[str, _State | _Hidden | None] = {}
        shown = "" if self.fields is None else f"fields {sorted(self.fields)}"
        self.digest = blake2b(f"{sorted(self.hide)} {shown}".encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def __reduce__(self) -> tuple[Any, ...]:
        return Redaction, (self.hide, self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Redaction) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __bool__(self) -> bool:
        """Return True if anything can be hidden."""
        return bool(self.hide) or self.fields is not None

    @property
    def paths(self) -> list[str]:
        """The hidden paths, for people: `hide`, and for `fields` all others."""
        others = [] if self.fields is None else [f"all but {', '.join(sorted(self.fields)) or '_id'}"]
        return [*map(".".join, sorted(self.hide)), *others]

    @classmethod
    def union(cls, redactions: Iterable[Redaction]) -> Redaction:
        """Return the redaction that hides what any of these hides.

        Equal ones are shared: thousands of principals hide the same, and the ways through documents are remembered.
        """
        found = frozenset(redactions)
        return next(iter(found)) if len(found) == 1 else _united(found)

    def is_within(self, other: Redaction) -> bool:
        """Return True if all that is hidden here is surely hidden by `other`, too."""
        if self.fields is not None and not (other.fields is not None and other.fields <= self.fields):
            return False
        return all(path in other.hide or _is_left_out(path, other.fields) for path in self.hide)

    def strip(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return a new document without what is hidden. Give it without its stamp, which is never shown."""
        shown: dict[str, Any] = {}
        for name, item in document.items():
            state = self._at(name)
            if state is None:
                shown[name] = item
            elif isinstance(state, _State):
                shown[name] = self._paths.without(item, state)
        # No filter matches a document that can't be read field by field.
        return like(document, shown)

    def redact(self, patch: Sequence[Operation]) -> list[Operation]:
        """Return the operations that do the same to the stripped document."""
        redacted: list[Operation] = []
        for operation in patch:
            path = operation["path"]
            state = self._walk(path) if path else None
            if state is _HIDDEN:
                continue
            if "value" not in operation or (path and state is None):
                redacted.append(operation)
            elif isinstance(state, _State):
                redacted.append(operation | {"value": self._paths.without(operation["value"], state)})
            else:  # the document as a whole
                redacted.append(operation | {"value": self.strip(operation["value"])})
        return redacted

    def hides(self, path: str | Sequence[str]) -> bool:
        """Return True if the field path of a filter or sort is hidden, or leads above or below something hidden."""
        names = path.split(".") if isinstance(path, str) else path
        if self.fields is not None and names and names[0] != _ID and names[0] not in self.fields:
            return True
        return (bool(names) and names[0] in _OWN) or self._paths.touch(names)

    def is_touched(self, operation: Operation, old: Any) -> bool:
        """Return True if an operation adds something hidden, or removes or replaces what may contain it.

        `old` is the value that it removes or replaces. The answer does not depend on what is hidden in that.
        """
        state = self._walk(operation["path"])
        if not isinstance(state, _State):
            return state is _HIDDEN
        if operation["op"] != "add" and _is_container(old):
            return True
        return operation["op"] != "remove" and not same(
            self._paths.without(operation["value"], state), operation["value"]
        )

    def _at(self, name: str) -> _State | _Hidden | None:
        if name == _ID:
            return None
        if name in _OWN or (self.fields is not None and name not in self.fields):
            return _HIDDEN
        return self._paths.at(name)

    def _walk(self, pointer: str) -> _State | _Hidden | None:
        """Return the state at the end of a JSON Pointer. Those of short ones are remembered: most patches are alike."""
        if pointer in self._walked:
            return self._walked[pointer]
        _, head, *rest = map(unescape, pointer.split("/"))
        state = self._at(head)
        for name in rest:
            if not isinstance(state, _State):
                break
            state = state.after(name)
        if len(pointer) <= _SHORT:
            if len(self._walked) >= _WALKED:
                self._walked.clear()
            self._walked[pointer] = state
        return state


@lru_cache(maxsize=1024)
def _united(redactions: frozenset[Redaction]) -> Redaction:
    named = [each.fields for each in redactions if each.fields is not None]
    hide = frozenset[tuple[str, ...]]().union(*(each.hide for each in redactions))
    return Redaction(hide, frozenset.intersection(*named) if named else None)


def _is_container(value: Any) -> bool:
    return (
        isinstance(value, Mapping | list)
        or _inside(value) is not None
        or (type(value) is Opaque and value.kind in {OBJECT, ARRAY})
    )


def _is_left_out(path: tuple[str, ...], fields: frozenset[str] | None) -> bool:
    return fields is not None and path[0] != ANY and path[0] not in fields
