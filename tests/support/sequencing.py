"""A sequenced collection: from when on it is tracked, what it is at a position, what its events say."""

from __future__ import annotations

from typing import Any

import orjson

from eventsync.domain.positions import LogId
from eventsync.domain.shapes import Shape
from eventsync.stores.stores import Stores
from support.replay import Replay, tracked


def brief(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return op, id, base, version and op_id of an event."""
    return event["op"], event["id"], event["base"], event["version"], event.get("op_id")


async def began(stores: Stores, *names: str) -> LogId:
    """Ask for collections, and wait until they are tracked."""
    await stores.tracking.ask(names)
    return await tracked(stores, *names)


async def snapshot(stores: Stores, log: LogId, name: str) -> Replay:
    """The collection at the newest checkpoint, ready to take the events after it."""
    async with stores.snapshots.live.open(log, Shape(name)) as taken:
        replay = Replay(seq=taken.position.seq)
        async for batch in taken.batches:
            for document in batch:
                row = orjson.loads(document.row)
                replay.rows[name, document.id] = row["version"], row["doc"]
    return replay
