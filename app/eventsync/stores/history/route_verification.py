"""The proof that the routes in a log are those of its documents, and what MongoDB finds by the routes' filters."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from itertools import islice
from typing import Final

from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.predicates.definitions import Route
from eventsync.domain.route_checks import ActiveKeys, RouteCheck
from eventsync.domain.shapes import Shape
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import decode
from eventsync.stores.history.log_state import LogState
from eventsync.stores.history.verification import Progress, VerifiedPoint
from eventsync.stores.log.registry import DefinitionStore
from eventsync.stores.log.tracking import TrackingStore
from eventsync.stores.snapshots.live_snapshots import SnapshotReader

_SAMPLES: Final = 20
"""Documents whose routes are read by their filters."""


class RouteVerification:
    """Checks the active definitions of a collection from the newest snapshot before their activation, if it is kept."""

    def __init__(
        self, state: LogState, snapshots: SnapshotReader, definitions: DefinitionStore, tracking: TrackingStore
    ) -> None:
        self._state = state
        self._snapshots = snapshots
        self._definitions = definitions
        self._tracking = tracking

    async def check(self, point: VerifiedPoint, collection: str, progress: Progress) -> str | None:
        """Return the first fault, or None.

        Raises `Damaged`, `NoBase`, `UnknownShape` for a definition of another version, and `Unavailable`.
        """
        active = await self._active(point.log, collection, point.seq)
        if not active:
            return None
        samples = await self._samples(point, collection, active)
        check = RouteCheck(list(active.values()), samples)
        since = min(each.since for each in active.values())
        walk = self._state.walk(point.log, collection, point.seq, since=since, watch=check.take)
        async with aclosing(walk) as batches:
            async for rows in batches:
                check.finish({text: (version, document) for text, version, document in rows})
                progress(len(rows))
                if check.wrong is not None:
                    return check.wrong
        for key, (route, _) in samples.items():
            if wrong := await self._compare(point, route, check.found[key]):
                return wrong
        return None

    async def _active(self, log: LogId, collection: str, up_to: Seq) -> Mapping[str, ActiveKeys]:
        begun = {item.name: item.tracked_from for item in await self._tracking.active(log)}
        shapes = [shape for shape in await self._definitions.active(log) if shape.collection == collection]
        since = {shape.name: Seq(max(shape.base, begun.get(collection, up_to))) for shape in shapes}
        return {
            shape.name: ActiveKeys(shape.definition(), since[shape.name])
            for shape in shapes
            if since[shape.name] <= up_to
        }

    async def _samples(
        self, point: VerifiedPoint, collection: str, active: Mapping[str, ActiveKeys]
    ) -> dict[bytes, tuple[Route, ActiveKeys]]:
        """Return routes of the first documents, by their keys."""
        documents = []
        async with aclosing(self._snapshots.read(collection, point.time)) as found:
            async for raw in found:
                documents.append(unversioned(decode(raw))[1])
                if len(documents) == _SAMPLES:
                    break
        return {
            route.key: (route, each)
            for each in active.values()
            for document in documents
            for route in islice(each.definition.routes_of(document), 1)
            if len(route.keys) == 1
        }

    async def _compare(self, point: VerifiedPoint, route: Route, by_events: set[IdText]) -> str | None:
        """Compare the documents of a route by the events with those that MongoDB finds."""
        shape = Shape(route.shape.name, None, route.shape, route)
        by_filter: set[IdText] = set()
        async with aclosing(self._snapshots.documents(shape, point.time, {})) as batches:
            async for batch in batches:
                by_filter |= {document.id for document in batch}
        if not (differing := by_events ^ by_filter):
            return None
        text = min(differing)
        where = "by its events, but MongoDB does not find it" if text in by_events else "in MongoDB, not by its events"
        return f"{route.collection}/{text} is in {route.shape} {where}"
