"""How far events may leave MongoDB: what the archiver and the compactor both have to keep to."""

from __future__ import annotations

from eventsync.domain.policies.retention import allowed
from eventsync.domain.positions import LogId, Seq
from eventsync.stores.stores import Stores
from eventsync_workers.jobs.sealer import Step


async def removable(stores: Stores, log: LogId, target: Seq, step: Step) -> Seq:
    """The newest event up to `target` that may leave MongoDB, and that does not lie inside a transaction.

    What is up to there is tallied. It only grows: a collection that is tracked later begins after the log's tail.
    """
    tail = await stores.events.tail(log)
    if tail is None:
        return Seq(0)
    target = Seq(min(target, tail.seq - 1))
    bases = await stores.stored.positions(log)
    tracked = [item for item in await stores.tracking.read() if item.log == log]
    if any(bases.get(item.name, -1) < item.tracked_from for item in tracked):
        return Seq(0)
    await stores.counters.add(log, target, step)
    quiet = [await stores.counters.quiet_until(log, item.name, bases[item.name]) for item in tracked]
    return await stores.hot.whole_before(
        log, allowed(tail.seq, await stores.counters.counted_up_to(log), [target, *quiet])
    )
