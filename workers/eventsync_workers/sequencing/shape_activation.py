"""The declared shapes by which a log's events are routed, and the activation of those that are to be.

A shape becomes active at a quiet point of the stream: everything that was read is appended, and a checkpoint names the
head. Each event after it carries the shape's keys. `eventsync.stores.log.registry` says how an activation is fenced.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from bson.timestamp import Timestamp

from eventsync.domain.positions import Seq
from eventsync.domain.predicates.definitions import Definition
from eventsync.domain.routes import Router
from eventsync.errors import UnknownShape
from eventsync.stores.log.logs import Log
from eventsync.stores.log.registry import DeclaredShape, Registry
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.log_writer import LogWriter

logger = logging.getLogger(__name__)

_Activation = tuple[str, int]
"""A shape's name and the revision of its activation; 0 for a shape that is not active."""


class ActiveShapes:
    """The shapes that a term routes by. `pending` are those to activate next; None if nothing is to be changed."""

    def __init__(self, stores: Stores, log: Log) -> None:
        self._stores = stores
        self._log = log
        self._routed: frozenset[_Activation] = frozenset()
        self.pending: tuple[DeclaredShape, ...] | None = None

    async def load(self, writer: LogWriter) -> None:
        """Let `writer`, which has converted nothing yet, route by the shapes that are active in the log.

        The log's head must have been read before: an activation that is not read now is not confirmed by any event of
        this writer. Those that an event of another worker has made void are activated again.
        """
        registry = await self._stores.definitions.read()
        active = registry.active(self._log.id)
        confirmed = [shape for shape in active if await self._is_confirmed(shape, writer.seq)]
        for name in sorted({shape.name for shape in active} - {shape.name for shape in confirmed}):
            logger.warning(
                "log %s: a deposed worker has not routed by %s, which is activated again", self._log.id, name
            )
        compiled = await self._compiled(confirmed)
        self.pending = None
        self._route(writer, registry, {shape: compiled[shape.name] for shape in confirmed if shape.name in compiled})

    async def _is_confirmed(self, shape: DeclaredShape, head: Seq) -> bool:
        """Return True if the event behind an activation names it, or if there is none, so that the next one will."""
        if shape.base >= head:
            return shape.base == head
        return await self._stores.events.known_revision(self._log.id, Seq(shape.base + 1)) >= shape.revision

    async def check_registry(self, collections: Collection[str]) -> None:
        """Prepare an activation if shapes were declared, changed or removed. `collections` are the active ones."""
        if self.pending is not None:
            return
        registry = await self._stores.definitions.read()
        new = [
            shape
            for shape in registry.shapes
            if shape.refused is None and shape.collection in collections and _activation(shape) not in self._routed
        ]
        compiled = await self._compiled(new) if new else {}
        ready = tuple(shape for shape in new if shape.name in compiled)
        gone = self._routed - set(map(_activation, registry.active(self._log.id)))
        for name in sorted({name for name, _ in gone} - {shape.name for shape in ready}):
            logger.info("log %s: events are no longer routed by %s", self._log.id, name)
        if ready or gone:
            self.pending = ready

    async def _compiled(self, shapes: Iterable[DeclaredShape]) -> dict[str, Definition]:
        """Return the definitions of shapes, by name. Those that can't be compiled are refused, with the reason."""
        compiled: dict[str, Definition] = {}
        refused: list[tuple[DeclaredShape, str]] = []
        for shape in shapes:
            try:
                compiled[shape.name] = shape.definition()
            except UnknownShape as error:
                logger.warning("log %s: %s", self._log.id, error.message)
                refused.append((shape, error.message))
        if refused:
            await self._stores.definitions.refuse(refused)
        return compiled

    async def activate(self, writer: LogWriter, time: Timestamp) -> None:
        """Activate the pending shapes behind the newest event. `time` is the cluster time of the checkpoint there.

        All that `writer` has converted must be appended, and that checkpoint must be recorded: clients that see a shape
        active rely on it. What this raises ends the term, because it is not known then what is active.
        """
        seq = writer.seq
        registry = await self._stores.definitions.activate(self.pending or (), self._log.id, seq, time)
        # A worker that is deposed without knowing it may have activated others. An activation behind this very event
        # is confirmed by the next one, so its shape is routed by; one behind an earlier event is void.
        active = registry.active(self._log.id)
        active = [shape for shape in active if shape.base == seq or _activation(shape) in self._routed]
        self._route(writer, registry, {shape: shape.definition() for shape in active})
        if names := [shape.name for shape in active if shape.base == seq]:
            logger.info("log %s: routing by %s from %d", self._log.id, ", ".join(names), seq)
        self.pending = None

    def _route(self, writer: LogWriter, registry: Registry, definitions: dict[DeclaredShape, Definition]) -> None:
        self._routed = frozenset(map(_activation, definitions))
        writer.route_by(Router(definitions.values(), registry.revision))


def _activation(shape: DeclaredShape) -> _Activation:
    return shape.name, shape.revision
