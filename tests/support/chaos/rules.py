"""Declared shapes of a run: those that stay, one that changes, and what each stands for in MongoDB's own words."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eventsync.domain.predicates.definitions import Definition, define
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.errors import Unavailable
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from support.waiting import eventually

_STEADY = (
    define("on_board", "orders", {"board": "$board"}, {"board": ["text", "int", "null"]}),
    define("readable", "orders", {"readers": "$reader", "state": {"$ne": "closed"}}, {"reader": ["text"]}),
    define("both", "stock", {"board": "$board", "state": "$state"}, {"board": ["text", "int"], "state": ["text"]}),
    define("any_of", "stock", {"readers": {"$in": "$readers"}}, {"readers": ["text"]}),
    define("plain", "bulk", {"n": "$n"}, {"n": ["int", "null"]}),
)
VARIANTS = (
    define("changing", "orders", {"board": "$value"}, {"value": ["text"]}),
    define("changing", "orders", {"board": "$value", "state": "open"}, {"value": ["text"]}),
    define("changing", "orders", {"board": {"$gte": "a"}, "readers": "$value"}, {"value": ["text"]}),
)
"""The definitions of the shape that changes. Its value is a board of two of them, and a reader of the third."""

FILTERS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "on_board?board=a": ({"board": "a"},),
    "on_board?board=int:7": ({"board": 7},),
    "on_board?board=null:": ({"board": None},),
    "readable?reader=u1": ({"readers": "u1", "state": {"$ne": "closed"}},),
    "both?board=a&state=open": ({"board": "a", "state": "open"},),
    "any_of?readers=u1&readers=u3": ({"readers": {"$in": ["u1", "u3"]}},),
    "plain?n=int:1": ({"n": 1},),
    "plain?n=null:": ({"n": None},),
    "changing?value=a": (
        {"board": "a"},
        {"board": "a", "state": "open"},
        {"board": {"$gte": "a"}, "readers": "a"},
    ),
}
"""The filter of each shape that is followed, one for each of its definitions. Written by hand, not by the product."""


def routing(choose: random.Random) -> dict[str, Any]:
    """Return some of the fields by which documents are routed, with random values: documents enter and leave."""
    fields: dict[str, tuple[Any, ...]] = {
        "board": ("a", "a", "b", 7, 7.0, None),
        "readers": (["u1", "a"], ["u1", "u2"], ["u2", "u3", "a"], [], "u1", None),
        "state": ("open", "closed"),
    }
    return {name: choose.choice(values) for name, values in fields.items() if choose.random() < 0.6}


@dataclass(frozen=True, slots=True)
class Bound:
    """A shape by one definition: the filter that finds its documents, and the scope that positions name it by.

    `last`: the definition is the one that was declared last.
    """

    shape: str
    collection: str
    filter: Mapping[str, Any]
    scope: str
    last: bool = True


def bound(shape: str, definition: Definition, query: Mapping[str, Any], *, last: bool = True) -> Bound:
    """Return a shape by this definition. Of the product it takes the scope alone, which is a name."""
    route = definition.bind_shape(RoutedShape.parse(shape))
    return Bound(shape, definition.collection, query, route.scope, last)


@dataclass
class Rules:
    """Declares the shapes of these collections. `changes`: how often each shape was declared otherwise, or not at all.

    `variant` is the present definition of the shape that changes; None while it is taken away.
    """

    stores: Stores
    collections: Collection[str]
    variant: int | None = 0
    changes: Counter[str] = field(default_factory=Counter)

    async def apply(self, variant: int | None, *, seconds: float = 30.0) -> None:
        """Declare the shapes, until MongoDB has taken that. Raises `TimeoutError`."""
        self.changes["changing"] += variant != self.variant
        self.variant = variant
        await eventually(self._applied, seconds, pause=0.1)

    async def activated(self, *, seconds: float = 30.0) -> None:
        """Declare them as they are now, until all are active in the newest log. Raises `TimeoutError`."""
        await eventually(self._active, seconds, pause=0.1)

    def parts(self) -> Iterator[Bound]:
        """Yield every shape that can be followed, by each definition that it may have had."""
        last = VARIANTS[self.variant or 0]
        for shape, queries in FILTERS.items():
            definitions = [each for each in (*_STEADY, *VARIANTS) if each.name == shape.partition("?")[0]]
            for definition, query in zip(definitions, queries, strict=True):
                if definition.collection in self.collections:
                    yield bound(shape, definition, query, last=definition is last or definition in _STEADY)

    def _declared(self) -> list[Definition]:
        changing = [] if self.variant is None else [VARIANTS[self.variant]]
        return [each for each in (*_STEADY, *changing) if each.collection in self.collections]

    async def _applied(self) -> bool:
        try:
            await self.stores.definitions.apply(map(Declaration.of, self._declared()))
        except Unavailable:
            return False
        return True

    async def _active(self) -> bool:
        if not await self._applied():
            return False
        try:
            log = await self.stores.logs.current()
            return log is not None and len(await self.stores.definitions.active(log.id)) == len(self._declared())
        except Unavailable:
            return False
