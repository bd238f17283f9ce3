"""Clients of the sync service without a transport, and a log whose past is archived or gone."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from bson.int64 import Int64

from eventsync.access.access import UNRESTRICTED
from eventsync.domain.plan import Answer
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.settings import Settings
from eventsync.stores.archive.touched import TouchedStore
from eventsync.stores.stores import Stores
from eventsync.sync.live.window import Subscribers
from eventsync.sync.service import SyncService
from eventsync.sync.sessions.subscription import Subscription
from support.replay import Key, Replay
from support.replica import Replica


@dataclass(frozen=True)
class Past:
    """States that the events of a log make, one for each seq between two transactions."""

    log: LogId
    head: Seq
    states: dict[Seq, dict[Key, Any]]

    @classmethod
    async def of(cls, stores: Stores, log: LogId) -> Past:
        replay, states = Replay(), {Seq(0): dict[Key, Any]()}
        async with aclosing(stores.events.read(log, Seq(0))) as events:
            async for event in events:
                replay.take(event)
                if event.closes:
                    states[event.seq] = dict(replay.rows)
        return cls(log, Seq(replay.seq), states)

    def of_shape(self, shape: Shape, seq: Seq) -> dict[str, Any]:
        rows = self.states[seq].items()
        return {text: row for (name, text), row in rows if name == shape.collection and shape.id in {None, text}}

    def client(self, shape: Shape, seq: Seq) -> Replica:
        """Somebody who has taken everything up to `seq`."""
        return Replica(str(shape), f"{self.log}:{seq}", self.of_shape(shape, seq))


async def serving(stores: Stores, settings: Settings, past: Past) -> SyncService:
    """A service that has come to the head, with nothing in its window."""
    service = SyncService(stores, settings)
    service.window.start(past.log, past.head)
    service.tracking.replace(past.log, await stores.tracking.read())
    return service


def subscription_to(
    service: SyncService, shape: Shape, position: Position | None, avoid: frozenset[Answer] = frozenset()
) -> Subscription:
    return Subscription(service.source, Subscribers(service.window), shape, position, lambda: UNRESTRICTED, avoid)


async def brought_up(service: SyncService, replica: Replica, *, force: Answer | None = None) -> list[str]:
    """Serve a client until it is live; returns the types of the messages. `force`: no other answer that is exact."""
    position = None if replica.position is None else Position.parse(replica.position)
    avoid = frozenset(Answer) - {force} if force else frozenset()
    subscription = subscription_to(service, Shape.parse(replica.shape), position, avoid)
    kinds = []
    async with aclosing(subscription.messages()) as messages:
        async for message in messages:
            assert message is not None
            kinds.append(message.kind)
            replica.take(orjson.loads(message.data))
            own = None if subscription.position is None else str(subscription.position)
            assert message.kind == "progress" or replica.position == own
            if replica.live:
                return kinds
    raise AssertionError("it ended")


async def compacted(stores: Stores, log: LogId, up_to: Seq, *, squash_floor: Seq | None = None) -> None:
    """Drop the events up to `up_to`, by the steps of the archiver and the compactor, with no segment in between."""
    touched = TouchedStore(stores.log)
    await touched.ensure_indexes()
    async with aclosing(stores.events.read(log, Seq(0), up_to)) as events:
        rows = [(event.collection, event.id, event.seq) async for event in events]
    await touched.touch(log, rows)
    await stores.tiers.raise_archived_up_to(log, up_to)
    await stores.tiers.raise_horizon(log, up_to)
    await stores.log["events"].delete_many({"_id": {"$lte": {"l": log, "n": Int64(up_to)}, "$gt": {"l": log}}})
    if squash_floor is not None:
        await stores.tiers.raise_squash_floor(log, squash_floor)
        await touched.remove_up_to(log, squash_floor)
