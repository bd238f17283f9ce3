"""The collections that a log follows, and the activation of those that are tracked from now on.

A collection becomes active at a point of the change stream from which on each of its changes has its images. The next
event names it; `eventsync.stores.log.tracking` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bson.timestamp import Timestamp

from eventsync.domain.positions import Seq
from eventsync.errors import EventsyncError
from eventsync.stores.log.logs import Log, LogLost
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.faults import Faults, LastingFault
from eventsync_workers.sequencing.images import Images, enable_images
from eventsync_workers.sequencing.log_writer import LogWriter

logger = logging.getLogger(__name__)


_Place = tuple[Seq, Timestamp | None]
"""The seq and the cluster time at which a collection became active."""


@dataclass(frozen=True, slots=True)
class Activation:
    """Collections to activate once the stream was read up to `time`, after which their changes have images.

    Without any, it only makes the stream be opened again, without collections that were untracked. `has_dropped` is
    True if there are such.
    """

    names: tuple[str, ...]
    time: Timestamp
    has_dropped: bool


class ActiveCollections:
    """The active collections of a term, and those about to become active."""

    def __init__(self, stores: Stores, log: Log, faults: Faults, *, images: bool) -> None:
        self._stores = stores
        self._log = log
        self._faults = faults
        self._images = images
        self._reasons: dict[str, str] = {}
        """The reasons recorded against collections that were checked again because of them."""
        self._followed: dict[str, _Place] = {}
        """The active collections, and where each of them became active."""
        self.pending: Activation | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the active collections, sorted."""
        return tuple(self._followed)

    async def load(self, writer: LogWriter) -> None:
        """Read which collections are active in the log, have `writer` follow them, and enable their images.

        Everything that `writer` has converted must be appended, or given up. Those that an event of another worker has
        made void are activated again.
        """
        places = {item.name: item for item in await self._stores.tracking.active(self._log.id)}
        void = await self._void(places.values(), writer.seq)
        if void:
            await self._deactivate(dict.fromkeys(void, "a deposed worker has not followed it, so it begins again"))
        active = [name for name in places if name not in void]
        images = await self.enable_images(active)
        # Somebody has made it a capped collection, or replaced it by a view. The others must be followed.
        await self._deactivate({name: images.refused[name] for name in images.impossible})
        if active := [name for name in active if name not in images.impossible]:
            # Before the audit could miss the mark of a registry that has active collections.
            async with self._stores.logs.leading(self._log.id) as session:
                await self._stores.tracking.mark(self._log.id, active, session)
        self._followed = {name: _place(places[name]) for name in active}
        writer.follow(name for name in active if places[name].tracked_from == writer.seq)

    async def _void(self, active: Iterable[TrackedCollection], head: Seq) -> list[str]:
        """Return the collections that the event behind their activation does not name.

        At the head there is no such event yet: this term writes it, or is fenced out.
        """
        bases = {item.name: item.tracked_from for item in active if item.fenced and item.tracked_from < head}
        named = await self._stores.events.activated(self._log.id, {Seq(base + 1) for base in bases.values()})
        # An event that MongoDB does not have was archived, long after the activation was confirmed.
        return [name for name, base in bases.items() if name not in named.get(Seq(base + 1), {name})]

    async def enable_images(self, names: Sequence[str] | None = None) -> Images:
        """Enable the images of `names`, or of all active collections; record which of them can't have any."""
        names = self.names if names is None else names
        images = await enable_images(self._stores.data, names, wanted=self._images)
        self._faults.note_locks(names, images.locked)
        if await self._stores.tracking.refuse(images.refused):
            for name, reason in images.refused.items():
                logger.warning("%s can't be tracked: %s", name, reason)
        return images

    # --- collections that can't be followed -----------------------------------------------------------------------

    async def exclude(self, name: str, error: EventsyncError) -> None:
        """Deactivate a collection that can't be followed any more. Raises `error` if it still can."""
        if name not in await self._deactivate_impossible([name]):
            raise error

    async def confine(self, error: LastingFault) -> None:
        """Deactivate a collection that had the same fault several times in a row. Raises `error` before that."""
        if not self._faults.lasts(error):
            raise error
        logger.error("ALARM: %s; it is not followed for now, the other collections are", error.diagnosis)
        await self._stores.tracking.refuse({error.collection: error.message})
        await self._deactivate({error.collection: error.message})

    async def restart(self, name: str) -> None:
        """Deactivate a collection whose documents the log does not know. It is activated again behind the head."""
        await self._deactivate({name: "its documents are not known before its first snapshot, so it begins again"})

    async def _deactivate_impossible(self, names: Sequence[str]) -> frozenset[str]:
        """Check active collections again; deactivate and return those that can't be followed any more."""
        images = await self.enable_images(names)
        # A reason that no longer holds would be shown for ever.
        await self._stores.tracking.accept(set(names) - images.refused.keys())
        await self._deactivate({name: images.refused[name] for name in images.impossible})
        return images.impossible

    async def _deactivate(self, reasons: Mapping[str, str]) -> None:
        """Deactivate collections. `reasons` says why, by name. Raises `Fenced`: a successor may follow them."""
        if not reasons:
            return
        async with self._stores.logs.leading(self._log.id) as session:
            await self._stores.tracking.deactivate(reasons, session)
        for name, reason in reasons.items():
            logger.warning("log %s: %s is no longer tracked: %s", self._log.id, name, reason)
        self._followed = {name: place for name, place in self._followed.items() if name not in reasons}

    async def still_active(self) -> tuple[str, ...]:
        """Return those of `names` that are active by the registry. The stream may have changes of the others, too."""
        active = {item.name for item in await self._stores.tracking.active(self._log.id)}
        return tuple(name for name in self.names if name in active)

    # --- changes of the registry ----------------------------------------------------------------------------------

    async def check_registry(self) -> None:
        """Prepare an activation if collections were tracked or untracked, unless one is pending. Raises `LogLost`."""
        # One at a time: the time of an activation holds for the collections whose images were enabled before it.
        if self.pending is not None:
            return
        listed = await self._stores.tracking.read()
        new = [item.name for item in listed if not self._follows(item) and not self._faults.confines(item.name)]
        dropped = set(self.names) - {item.name for item in listed}
        if dropped and not await self._stores.tracking.is_marked():
            raise LogLost("the registry of tracked collections was dropped or emptied")
        active = {item.name: item.refused for item in listed if item.log == self._log.id}
        dropped |= await self._check_suspects(active)
        if new or dropped:
            images = await self.enable_images(new)
            if (ready := tuple(name for name in new if name not in images.refused)) or dropped:
                # Those that were tracked again since are no longer active either.
                for name in sorted(set(self.names) - active.keys()):
                    logger.info("log %s: %s is no longer tracked: it was untracked", self._log.id, name)
                self.pending = Activation(ready, images.time, bool(dropped))

    def _follows(self, item: TrackedCollection) -> bool:
        """Return True if a collection is followed from where it is active. A deposed worker may have activated it."""
        return item.log == self._log.id and self._followed.get(item.name) == _place(item)

    async def _check_suspects(self, active: Mapping[str, str | None]) -> frozenset[str]:
        """Check each collection again against which somebody, such as the snapshotter, has recorded a new reason."""
        suspects = {name: reason for name, reason in active.items() if reason and self._reasons.get(name) != reason}
        self._reasons |= suspects
        return await self._deactivate_impossible(list(suspects)) if suspects else frozenset()

    async def restarted(self) -> list[str]:
        """Return the pending collections that may have been active in this log before, sorted."""
        pending = self.pending.names if self.pending is not None else ()
        return await self._stores.tracking.once_active(self._log.id, pending) if pending else []

    async def activate(self, seq: Seq, time: Timestamp) -> None:
        """Activate the pending collections behind event `seq`. `time` is the cluster time of the checkpoint there.

        That checkpoint must be recorded: a client that sees the collection active relies on it. No client of a
        collection that was active before may be at `seq`: it lacks the changes made in between.
        """
        if self.pending is not None and self.pending.names:
            names = self.pending.names
            async with self._stores.logs.leading(self._log.id) as session:
                # The audit takes active collections without the mark for those of a dropped registry.
                await self._stores.tracking.mark(self._log.id, names, session)
                await self._stores.tracking.activate(names, self._log.id, seq, time, session)
            logger.info("log %s: tracking %s from %d", self._log.id, ", ".join(names), seq)
        self.pending = None


def _place(item: TrackedCollection) -> _Place:
    return item.tracked_from, item.time


def change_pipeline(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the aggregation pipeline for the changes of `names`, and for those of the whole database.

    The latter name no collection.
    """
    listed = {"$in": list(names)}
    of_database = {"operationType": {"$in": ["dropDatabase", "invalidate"]}}
    return [{"$match": {"$or": [{"ns.coll": listed}, {"to.coll": listed}, of_database]}}]
