"""The oplog rolls over while no worker runs: the stream's history is really lost, not only said to be."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bson.timestamp import Timestamp

from app.stores.mongodb import Client, connect
from support.chaos.checker import check
from support.chaos.cluster import running_cluster
from support.chaos.fleet import Fleet
from support.chaos.history import Effect, Recorder
from support.chaos.observed import gather, read_rows
from support.chaos.run import COLLECTIONS, settings_for
from support.chaos.violation import Violation
from support.systems import tracked

_FILLER = "x" * 200_000
_PATIENCE = 30.0


async def roll_over(directory: Path) -> list[Violation]:
    """Sequence some, end the worker, change and delete some, lose the history, start it again: what is wrong then."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(running_cluster(directory, 1, oplog=1))
        settings = settings_for(cluster.uri)
        fleet = Fleet(settings, directory, workers=1, servers=1)
        stack.push_async_callback(fleet.stop)
        fleet.start("worker1", "serve1")
        await tracked(fleet.urls[0], COLLECTIONS)
        client = await stack.enter_async_context(connect(settings, "load"))
        recorder = Recorder()
        for number in range(20):
            await _put(recorder, client, f"before-{number}", str(number))
        await _sequenced(client, settings.log_db, "before-19")
        await fleet.end("worker1")
        for number in range(10, 30):
            await _put(recorder, client, f"while-{number}", str(number))
        for number in range(5):
            await _delete(recorder, client, f"gone-{number}", str(number))
        await _lose(client)
        fleet.start("worker1")
        await tracked(fleet.urls[0], COLLECTIONS)
        await _put(recorder, client, "after", "30")
        late: list[Violation] = []
        try:
            await _sequenced(client, settings.log_db, "after")
        except TimeoutError:
            message = "what was written after the history was lost is not in the log"
            late.append(Violation("progress", message, tuple(fleet.last_lines("worker1", 5))))
        evidence = await gather(
            client,
            recorder.history(),
            database=settings.database,
            log_database=settings.log_db,
            collections=COLLECTIONS,
            oplog=False,
        )
        return [*late, *check(evidence, repaired=True)]


async def _put(recorder: Recorder, client: Client, operation: str, key: str) -> None:
    recorder.invoke(operation, "behind", [Effect(("orders", key), operation)])
    await client["chaos"]["orders"].update_one({"_id": key}, {"$set": {"mark": operation}}, upsert=True)
    recorder.end(operation, "ok")


async def _delete(recorder: Recorder, client: Client, operation: str, key: str) -> None:
    recorder.invoke(operation, "behind", [Effect(("orders", key), None)])
    await client["chaos"]["orders"].delete_one({"_id": key})
    recorder.end(operation, "ok")


async def _sequenced(client: Client, log_database: str, mark: str) -> None:
    """Wait until the log has the write. Raises `TimeoutError`."""
    async with asyncio.timeout(_PATIENCE):
        while mark not in {row.mark for row in await read_rows(client, log_database)}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _lose(client: Client) -> None:
    """Write elsewhere until the oplog no longer reaches back to now. Raises `TimeoutError`."""
    now: Timestamp = (await client.admin.command("ping"))["operationTime"]
    deadline = time.monotonic() + _PATIENCE
    while True:
        first = await client["local"]["oplog.rs"].find_one(sort=[("$natural", 1)])
        if first is not None and first["ts"] > now:
            return
        if time.monotonic() > deadline:
            raise TimeoutError("the oplog does not roll over")
        await client["filler"]["filler"].insert_many([{"x": _FILLER} for _ in range(20)])
        await client["filler"]["filler"].delete_many({})
