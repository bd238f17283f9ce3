"""A log that a test writes itself, without a sequencer: for jobs that only count and copy what is there."""

from __future__ import annotations

from bson.int64 import Int64

from eventsync.domain.positions import LogId, Seq
from eventsync.stores.stores import Stores


async def begun(stores: Stores, *names: str) -> LogId:
    """A log in which these collections are active; its checkpoint says that 0 is what they are now."""
    await stores.ensure_indexes()
    for name in set(names) - set(await stores.data.list_collection_names()):
        await stores.data.create_collection(name)
    now = (await stores.data.command("ping"))["operationTime"]
    log = (await stores.logs.begin(None, cluster="c", reason="r", token="82AA", time=now)).id
    await stores.tracking.ask(names)
    await stores.tracking.activate(names, log, Seq(0))
    return log


async def append(stores: Stores, log: LogId, collection: str, count: int = 1, size: int = 1) -> Seq:
    """So many more events of a collection, of about `size` bytes each, and a checkpoint behind them."""
    tail = await stores.events.tail(log)
    first = (tail.seq if tail else 0) + 1
    now = (await stores.data.command("ping"))["operationTime"]
    row = {"t": "82AB", "s": now, "c": collection, "i": "int:1", "v": Int64(0), "b": f'{{"x":"{"x" * size}"}}'}
    await stores.log["events"].insert_many(
        [row | {"_id": {"l": log, "n": Int64(seq)}} for seq in range(first, first + count)]
    )
    return await checkpoint(stores, log, Seq(first + count - 1))


async def checkpoint(stores: Stores, log: LogId, seq: Seq) -> Seq:
    """`seq` is what the collections are now."""
    now = (await stores.data.command("ping"))["operationTime"]
    await stores.logs.checkpoint(log, seq, "82AB", now)
    return seq
