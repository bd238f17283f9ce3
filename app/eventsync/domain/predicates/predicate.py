"""A filter without parameters, compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventsync.domain.bson_scan.ambiguous import is_decidable
from eventsync.domain.predicates.matching import matcher
from eventsync.domain.predicates.nodes import canonical, paths_of
from eventsync.domain.predicates.ordering import Undecidable
from eventsync.domain.predicates.parsing import parse


class Predicate:
    """A filter that MongoDB and this process evaluate alike.

    `filter` is the filter for `find`, with the collation `{"locale": "simple"}`. `canonical` is equal for filters that
    differ only in spelling. `paths` are those of an index that would serve it, in their order.
    """

    __slots__ = ("_check", "_fields", "canonical", "filter", "paths")

    def __init__(self, filter: Mapping[str, Any]) -> None:  # noqa: A002 - MongoDB's word
        node = parse(filter)
        self.filter = filter
        self.canonical = canonical(node)
        self.paths = tuple(dict.fromkeys(paths_of(node)))
        self._check = matcher(node)
        self._fields = frozenset(path.partition(".")[0] for path in self.paths)

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Return True if the filter matches a document. False if that can't be known (`Undecidable`)."""
        try:
            return self._check(document) and (type(document) is dict or is_decidable(document, self._fields))
        except Undecidable:
            return False


def compile_filter(filter: Mapping[str, Any]) -> Predicate:  # noqa: A002 - MongoDB's word
    """Compile a filter of BSON values. Raises `InvalidPredicate` for the first thing in it that is refused."""
    return Predicate(filter)
