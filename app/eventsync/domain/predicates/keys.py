"""The keys of documents: for each definition, one function that is made for its parameters and paths.

A worker asks for the keys of each change. Nearly all values that decide are texts, integers or ObjectIds in a field of
the document, or the only item of an array there. Their keys are remembered, and found by a few look-ups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import product
from math import prod
from typing import Any, Final, Self

from bson.int64 import Int64
from bson.objectid import ObjectId

from eventsync.domain.predicates.matching import Check
from eventsync.domain.predicates.ordering import MISSING, NULLISH, rank_of, value_bytes

KEY_BYTES: Final = 16
MAX_KEYS: Final = 1_000
"""Most keys of one document by default, and most of a route."""

NO_KEYS: Final[frozenset[bytes]] = frozenset()

Find = Callable[[Mapping[str, Any]], frozenset[bytes]]
"""Returns the keys of a document that can be read. Raises `Undecidable` if a value that decides can't be."""

_KEPT: Final = 16_384
_SHORT: Final = 64
"""So many results are kept by a definition, for texts of so many characters."""

_FAST: Final[Mapping[type, int]] = {str: 15, int: 10, Int64: 10, ObjectId: 35}
"""Types whose equal values are equal to Python and to MongoDB, and unequal to those of the other types here."""

_ARRAY: Final = 25
_FEW: Final = (2, 3)
"""Numbers of parameters for which all combinations of such types are listed."""


class Unrouted(frozenset[bytes]):
    """No keys, for a reason that an operator should know: `too_many_keys` or `unreadable`."""

    reason: str

    def __new__(cls, reason: str) -> Self:
        made = super().__new__(cls)
        made.reason = reason
        return made


@dataclass(frozen=True, slots=True)
class Branch:
    """The residual (None if there is none), and the path of each parameter, sorted by name, with the ranks it takes."""

    residual: Check | None
    paths: tuple[str, ...]
    ranks: tuple[frozenset[int], ...]
    values: tuple[Callable[[Mapping[str, Any]], list[Any]], ...]

    def tokens(self, document: Mapping[str, Any]) -> Iterable[bytes] | None:
        """Return what the keys are made of, or None if there are too many."""
        if self.residual is not None and not self.residual(document):
            return ()
        found = [
            {value_bytes(None if value is MISSING else value) for value in values(document) if rank_of(value) in ranks}
            for values, ranks in zip(self.values, self.ranks, strict=True)
        ]
        return map(b"".join, product(*found)) if prod(map(len, found)) <= MAX_KEYS else None


class KeyMaker:
    """Makes the keys of one definition, and remembers those of common values."""

    __slots__ = ("_hasher", "kept")

    def __init__(self, seed: bytes) -> None:
        # Copies of it cost half of new ones.
        self._hasher = blake2b(seed, digest_size=KEY_BYTES)
        self.kept: dict[Any, frozenset[bytes]] = {}
        """The key of each value that is remembered, all of them of the types in `_FAST`."""

    def key(self, token: bytes) -> bytes:
        """Return the key for the bytes of a value, or of one value after the other."""
        hasher = self._hasher.copy()
        hasher.update(token)
        key: bytes = hasher.digest()
        return key

    def keep(self, *values: Any) -> frozenset[bytes]:
        """Return the key for a value of each parameter, and remember it."""
        made = frozenset((self.key(b"".join(map(value_bytes, values))),))
        if sum(len(value) for value in values if type(value) is str) <= _SHORT:
            if len(self.kept) >= _KEPT:
                self.kept.clear()
            self.kept[values if len(values) > 1 else values[0]] = made
        return made


def finder(branches: tuple[Branch, ...], maker: KeyMaker) -> Find:
    """Return the function that finds the keys of a document."""
    if len(branches[0].paths) != 1:
        return _by_several(branches, maker)
    finds = [_by_one(branch, maker) for branch in branches]
    return finds[0] if len(finds) == 1 else _by_any(finds)


def _by_one(branch: Branch, maker: KeyMaker) -> Find:
    """Return the finder for a branch with one parameter."""
    (path,), (ranks,) = branch.paths, branch.ranks
    find_all = _by_values(branch, maker)
    if "." not in path:
        return _in_field(branch, maker, find_all)
    if not NULLISH.isdisjoint(ranks):
        return find_all
    name = path.partition(".")[0]
    return lambda document: find_all(document) if name in document else NO_KEYS


def _by_values(branch: Branch, maker: KeyMaker) -> Find:
    """Return the finder for a branch with one parameter that takes any values at the path."""
    (ranks,), (values,), residual, kept, keep = branch.ranks, branch.values, branch.residual, maker.kept, maker.keep
    fast = _fast(ranks)

    def find(document: Mapping[str, Any]) -> frozenset[bytes]:
        if residual is not None and not residual(document):
            return NO_KEYS
        found: set[bytes] = set()
        for value in values(document):
            if type(value) in fast:
                found |= kept.get(value) or keep(value)
            elif rank_of(value) in ranks:
                found.add(maker.key(value_bytes(None if value is MISSING else value)))
            if len(found) > MAX_KEYS:
                return Unrouted("too_many_keys")
        return frozenset(found)

    return find


def _in_field(branch: Branch, maker: KeyMaker, find_all: Find) -> Find:
    """Return the finder for a branch with one parameter, in a field of the document; `find_all` is for odd values."""
    (name,), (ranks,), residual, kept, keep = branch.paths, branch.ranks, branch.residual, maker.kept, maker.keep
    fast = _fast(ranks)
    takes_null, takes_arrays = not NULLISH.isdisjoint(ranks), _ARRAY in ranks

    def find(document: Mapping[str, Any]) -> frozenset[bytes]:
        value = document.get(name)
        if type(value) is list and len(value) == 1 and not takes_arrays:
            (value,) = value
        if type(value) in fast:
            if residual is None or residual(document):
                return kept.get(value) or keep(value)
            return NO_KEYS
        return NO_KEYS if value is None and not takes_null else find_all(document)

    return find


def _fast(ranks: frozenset[int]) -> frozenset[type]:
    return frozenset(kind for kind, rank in _FAST.items() if rank in ranks)


def _by_any(finds: list[Find]) -> Find:
    """Return the finder for branches with one parameter, which may be the same value in several of them."""

    def find(document: Mapping[str, Any]) -> frozenset[bytes]:
        union = NO_KEYS
        for each in finds:
            found = each(document)
            if type(found) is Unrouted:
                return found
            if found:
                union = union | found if union else found
        return union if len(union) <= MAX_KEYS else Unrouted("too_many_keys")

    return find


def _by_several(branches: tuple[Branch, ...], maker: KeyMaker) -> Find:
    """Return the finder for branches without parameters, or with more than one."""

    def find(document: Mapping[str, Any]) -> frozenset[bytes]:
        found: set[bytes] = set()
        for branch in branches:
            tokens = branch.tokens(document)
            if tokens is None:
                return Unrouted("too_many_keys")
            found.update(tokens)
        if len(found) > MAX_KEYS:
            return Unrouted("too_many_keys")
        return frozenset(map(maker.key, found))

    are_fields = len(branches) == 1 and not any("." in path for path in branches[0].paths)
    return _in_fields(branches[0], maker, find) if are_fields and len(branches[0].paths) in _FEW else find


def _in_fields(branch: Branch, maker: KeyMaker, find_all: Find) -> Find:
    """Return the finder for a branch with a few parameters, each in a field; `find_all` is for odd values."""
    names, residual, kept, keep = branch.paths, branch.residual, maker.kept, maker.keep
    fast = frozenset(product(*(_fast(ranks) for ranks in branch.ranks)))

    def find(document: Mapping[str, Any]) -> frozenset[bytes]:
        values = tuple([document.get(name) for name in names])
        if tuple(map(type, values)) in fast:
            return (kept.get(values) or keep(*values)) if residual is None or residual(document) else NO_KEYS
        return find_all(document)

    return find
