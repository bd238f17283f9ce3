"""A server's copy of the registry in memory: which declared shapes it serves, and their compiled definitions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from eventsync.concurrency.waiting import set_within
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Definition, Route
from eventsync.domain.predicates.routed_shape import RoutedShape, is_shape_name
from eventsync.domain.shapes import Shape
from eventsync.errors import NotTracked, Unavailable, UnknownShape
from eventsync.stores.log.registry import DeclaredShape, Registry
from eventsync.stores.log.tracking import Tracking

Fill = Callable[[Definition, RoutedShape], RoutedShape]
"""Returns a shape with the values of all parameters of its definition."""


@dataclass(frozen=True, slots=True)
class ActiveDefinition:
    """A declared shape that is active in the current log. Events after `since` carry its keys."""

    shape: DeclaredShape
    since: Seq


@dataclass(frozen=True, slots=True)
class ShapeCounts:
    """Numbers of declared shapes in each state. `waited`: seconds that the first of those that wait has waited."""

    active: int
    waiting: int
    refused: int
    waited: float


class Definitions:
    """A server's copy of the registry. The feed replaces it as a whole when the registry or the log changes."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking
        self._declared: Mapping[str, DeclaredShape] = MappingProxyType({})
        self._active: Mapping[str, DeclaredShape] = MappingProxyType({})
        self._proven: frozenset[tuple[str, int]] = frozenset()
        """Activations, by name and revision, that the event behind them has confirmed."""
        self._void: frozenset[tuple[str, int]] = frozenset()
        """Activations that the event behind them has contradicted."""
        self._compiled: dict[str, tuple[DeclaredShape, Definition]] = {}
        """The definitions that were bound, by name, each with the shape that it was compiled from."""
        self._inactive_since: dict[tuple[str, int], float] = {}
        """When shapes that are not active were first seen so, by name and number of their declaration."""
        self._known = False
        self._changed = asyncio.Event()

    def replace(self, log: LogId | None, registry: Registry) -> bool:
        """Replace the copy with `registry`, of which the shapes in `log` are active. Return True if others are now."""
        self._known = True
        self._declared = MappingProxyType({shape.name: shape for shape in registry.shapes})
        self._compiled = {name: item for name, item in self._compiled.items() if self._declared.get(name) == item[0]}
        known = {_activation(shape) for shape in registry.shapes}
        self._proven &= known
        self._void &= known
        return self._activate({shape.name: shape for shape in registry.shapes if log and shape.log == log})

    def _activate(self, active: Mapping[str, DeclaredShape]) -> bool:
        active = {name: shape for name, shape in active.items() if _activation(shape) not in self._void}
        are_others = active != self._active
        self._active = MappingProxyType(active)
        known, now = self._inactive_since, time.monotonic()
        inactive = [(name, shape.number) for name, shape in self._declared.items() if name not in active]
        self._inactive_since = {key: known.get(key, now) for key in inactive}
        # A new event in place of `clear`: this one stays set for waiters that have not run yet.
        self._changed.set()
        self._changed = asyncio.Event()
        return are_others

    # --- activations that are confirmed by the event behind them --------------------------------------------------

    @property
    def unproven(self) -> Seq | None:
        """The first event that is to confirm an activation, or None if all are confirmed."""
        bases = [shape.base for shape in self._active.values() if _activation(shape) not in self._proven]
        return Seq(min(bases) + 1) if bases else None

    def prove(self, seq: Seq, revision: float) -> bool:
        """Note that the writer of event `seq` knew the registry's `revision`. Return True if that voids an activation.

        Call it before the event is published: no client may take an event without keys for one without news.
        """
        judged = [shape for shape in self._active.values() if shape.base + 1 == seq]
        self._proven |= {_activation(shape) for shape in judged if shape.revision <= revision}
        if void := {_activation(shape) for shape in judged if shape.revision > revision}:
            self._void |= void
            return self._activate(self._active)
        return False

    # --- what is declared -----------------------------------------------------------------------------------------

    @property
    def declared(self) -> Sequence[DeclaredShape]:
        """All declared shapes, by name."""
        return list(self._declared.values())

    def counts(self) -> ShapeCounts:
        """Count the declared shapes by their states. A shape of a collection that is not tracked waits, too."""
        refused = sum(shape.refused is not None for shape in self._declared.values())
        active = sum(map(self.is_active, self._active))
        begun = [begun for (name, _), begun in self._inactive_since.items() if self._declared[name].refused is None]
        waited = time.monotonic() - min(begun) if begun else 0.0
        return ShapeCounts(active, len(self._declared) - active - refused, refused, waited)

    def is_active(self, name: str) -> bool:
        """Return True if a shape is declared, active, and of an active collection."""
        shape = self._active.get(name)
        return shape is not None and shape.collection in self._tracking

    def resolve(self, name: str) -> ActiveDefinition:
        """Return the definition of a declared shape.

        Raises `UnknownShape` if it is not declared or was refused, `NotTracked` if its collection is not tracked, and
        `Unavailable` while one of the two is not active yet.
        """
        if not self._known:
            raise _unknown()
        if (shape := self._declared.get(name)) is None:
            raise UnknownShape(f"no shape {name!r} is declared; `eventsync rules show` lists all")
        tracked_from = self._tracking.tracked_from(shape.collection)
        if shape.refused is not None:
            raise UnknownShape(f"the shape {name!r} can't be served: {shape.refused}")
        if (active := self._active.get(name)) is None:
            raise Unavailable(f"the shape {name!r} is about to become active: is a worker running?")
        return ActiveDefinition(active, Seq(max(active.base, tracked_from)))

    def collection_of(self, name: str) -> str | None:
        """Return the collection of a shape, active or not; None if it is not declared. Raises `Unavailable`."""
        if not self._known:
            raise _unknown()
        shape = self._declared.get(name)
        return None if shape is None else shape.collection

    def not_a_collection(self, name: str) -> NotTracked | None:
        """Return the error for the name of a declared shape where a collection's is expected, or None for others."""
        if name not in self._declared:
            return None
        usage = f"write `{name}?` and its parameters, which `eventsync rules show` lists"
        return NotTracked(f"{name!r} is a declared shape, and no tracked collection: {usage}")

    def is_pending(self, name: str) -> bool:
        """Return True while a declared shape or its collection is about to become active."""
        shape = self._declared.get(name)
        if shape is None or shape.refused is not None:
            return not self._known
        return name not in self._active or self._tracking.is_pending(shape.collection)

    def bind(self, shape: Shape, fill: Fill | None = None) -> Shape:
        """Return a declared shape with its route. Raises as `resolve`, and `InvalidPredicate` for other parameters.

        `fill` adds the values of parameters that are taken from claims. Without it they are parameters like all others.
        """
        if shape.declared is None:
            return shape
        active = self.resolve(shape.name)
        definition, declared, route = self._definition(active.shape), shape.declared, shape.route
        if fill is not None and definition.claims:
            declared = fill(definition, declared)
        if (
            isinstance(route, Route)
            and (route.revision, route.since) == (active.shape.revision, active.since)
            and (route.shape is declared or route.shape == declared)
        ):
            return shape
        route = definition.bind_shape(declared, active.since, active.shape.revision)
        return Shape(shape.name, None, shape.declared, route)  # `replace` takes four times as long

    def _definition(self, shape: DeclaredShape) -> Definition:
        """Return the definition of an active shape, compiled once. Raises `UnknownShape` if it can't be read."""
        compiled = self._compiled.get(shape.name)
        if compiled is None or compiled[0] != shape:
            compiled = self._compiled[shape.name] = (shape, shape.definition())
        return compiled[1]

    def active(self) -> list[Definition]:
        """Return the definitions of the shapes that clients can subscribe to, by name."""
        found = []
        for name, shape in sorted(self._active.items()):
            if is_shape_name(name) and self.is_active(name):
                # One that this version can't read is refused to its clients.
                with suppress(UnknownShape):
                    found.append(self._definition(shape))
        return found

    def is_current(self, shape: Shape) -> bool:
        """Return True while events carry the keys of a bound shape without interruption since it was bound."""
        route = shape.route
        if route is None:
            return False
        for name, revision in route.activations:
            active = self._active.get(name)
            if active is None or active.revision != revision:
                return False
        return self._tracking.has_all_after(route.collection, Seq(route.since))

    async def until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait until `reached` returns True after a change of the registry or the log, for at most `seconds`."""
        deadline = time.monotonic() + seconds
        while not reached() and await set_within(self._changed, deadline - time.monotonic()):
            continue


def _unknown() -> Unavailable:
    return Unavailable("which shapes are declared is not known yet: MongoDB was not reached")


def _activation(shape: DeclaredShape) -> tuple[str, int]:
    return shape.name, shape.revision
