"""Shapes: what a client subscribes to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from eventsync.domain.ids import IdText, format_id, parse_id
from eventsync.domain.names import check_collection
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.domain.views import View
from eventsync.errors import Malformed

Topic = str | tuple[str, IdText] | bytes
"""A collection, a document, or a key. (Shapes would take five times as long to make and to hash.)"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A collection (`orders`), one document of it (`orders/42`), or a declared shape (`my_orders?owner=7`).

    Equal shapes have equal text. A declared shape gets its route when it is bound by its definition. Any shape gets a
    view in place of a route if its reader may not see all of it.
    """

    name: str
    id: IdText | None = None
    declared: RoutedShape | None = None
    route: Route | View | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        if self.declared is not None:
            return str(self.declared)
        return self.name if self.id is None else f"{self.name}/{self.id}"

    @property
    def collection(self) -> str:
        """The collection. A declared shape has one once it is bound."""
        if self.declared is None:
            return self.name
        if self.route is None:
            raise ValueError(f"{self} is not bound")
        return self.route.collection

    @property
    def scope(self) -> str:
        """The scope in the shape's positions; empty for a collection or a document."""
        return "" if self.route is None else self.route.scope

    @property
    def topic(self) -> Topic:
        """The key of the shape in a window and in caches. Readers of one topic see the same.

        That of a declared shape depends on its definition, which may change, and that of a view on its reader's rules.
        """
        if self.route is not None:
            return self.route.key
        return self.collection if self.id is None else (self.name, self.id)

    @property
    def keys(self) -> frozenset[bytes] | None:
        """The keys by which its events are found; None if they are found by its document or its collection."""
        return None if self.route is None or self.id is not None else self.route.keys or None

    @property
    def is_selective(self) -> bool:
        """True if not all events that are found are seen."""
        route = self.route
        return route is not None and len(route.clauses) > (self.id is None)

    def is_followed_as(self, other: Shape) -> bool:
        """Return True if another bound shape, of equal text, has the same events, by the same activations."""
        one, two = self.route, other.route
        if one is None or two is None:
            return one is two
        return (one.key, one.since, one.activations) == (two.key, two.since, two.activations)

    @property
    def sources(self) -> Collection[Topic]:
        """The names that its events are kept by in a window: keys, or its document or collection."""
        if (keys := self.keys) is not None:
            return keys
        return ((self.name, self.id),) if self.id is not None else (self.collection,)

    @classmethod
    def parse(cls, text: object) -> Shape:
        """Read the text form and bring the id or the parameters into canonical form. Raises `Malformed`."""
        if not isinstance(text, str):
            raise Malformed("a shape is a string: a collection, collection/id, or name?parameter=value")
        collection, slash, rest = text.partition("/")
        # An id may contain a question mark, and a value of a parameter a slash.
        if "?" in collection:
            declared = RoutedShape.parse(text)
            return cls(declared.name, None, declared)
        check_collection(collection)
        return cls(collection, format_id(parse_id(rest)) if slash else None)


@dataclass(frozen=True, slots=True)
class InvalidShape(Shape):
    """A text that is no shape, in the place of the shape that a client asks for. Binding it raises `error`.

    So one such text is refused by its name, as a shape that does not exist is, and all other shapes are served.
    """

    error: Malformed = field(kw_only=True, compare=False, repr=False)


def asked_shape(text: object) -> Shape:
    """Return the shape of a text, or an `InvalidShape` for a text that is none. Raises `Malformed` without a text."""
    try:
        return Shape.parse(text)
    except Malformed as error:
        if not isinstance(text, str):
            raise
        return InvalidShape(text, error=error)
