"""A filter without parameters, compiled once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventsync.domain.bson_scan.opaque import UnreadableDocument
from eventsync.domain.predicates.matching import Check, matcher
from eventsync.domain.predicates.nodes import canonical, paths_of
from eventsync.domain.predicates.ordering import Undecidable
from eventsync.domain.predicates.parsing import parse


class Predicate:
    """A filter that MongoDB and this process evaluate alike.

    `filter` is the filter for `find`, with the collation `{"locale": "simple"}`. `canonical` is equal for filters that
    differ only in spelling. `paths` are those of an index that would serve it, in their order.
    """

    __slots__ = ("_check", "canonical", "filter", "paths")

    def __init__(self, filter: Mapping[str, Any]) -> None:  # noqa: A002 - MongoDB's word
        node = parse(filter)
        self.filter = filter
        self.canonical = canonical(node)
        self.paths = tuple(dict.fromkeys(paths_of(node)))
        self._check = matcher(node)

    def matches(self, document: Mapping[str, Any]) -> bool:
        """Return True if the filter matches a document. False if that can't be known (`Undecidable`)."""
        return decide(self._check, document)


def decide(check: Check, document: Mapping[str, Any]) -> bool:
    """Return the decision of a compiled filter; False for a document that can't be read as far as it takes."""
    try:
        return check(document) and not isinstance(document, UnreadableDocument)
    except Undecidable:
        return False


def compile_filter(filter: Mapping[str, Any]) -> Predicate:  # noqa: A002 - MongoDB's word
    """Compile a filter of BSON values. Raises `InvalidPredicate` for the first thing in it that is refused."""
    return Predicate(filter)
