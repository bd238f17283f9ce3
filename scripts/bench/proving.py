"""How long `eventsync verify` takes on a large log, and how much memory: `python -m scripts.bench.proving --help`.

The log is a real one: updates in bulk of a tracked collection, while a worker runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pymongo import UpdateOne

from eventsync.mongodb.client import connect
from eventsync.settings import PREFIX, Settings
from eventsync.stores.stores import Stores
from scripts.bench.deployment import Deployment, fresh_mongod, running

_BULK = 1000
_AHEAD = 20_000
"""Most changes that the writer is ahead of the log: what is not sequenced yet has to stay in the oplog."""

_COLLECTION = "docs"


def main() -> None:
    """Exit code of `eventsync verify`, or 1 where the log was not ready in time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=480, help="longest time for making the log")
    options = parser.parse_args()
    with fresh_mongod() as deployment:
        settings = Settings(mongodb_uri=deployment.uri, database="bench", collections=(_COLLECTION,))
        began = time.monotonic()
        with running("worker", settings, deployment.directory):
            made = asyncio.run(_make(settings, options.documents, options.events, began + options.seconds))
            print(f"{made} events over {options.documents} documents in {time.monotonic() - began:.0f} s", flush=True)
            sys.exit(_verify(settings, deployment))


async def _make(settings: Settings, documents: int, events: int, deadline: float) -> int:
    """Write until the log has so many events, or until `deadline`; returns how many it has."""
    choose = random.Random(1)
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        await _until(lambda: _is_tracked(stores), deadline)
        docs = stores.data[_COLLECTION]
        written = 0
        while written < events and time.monotonic() < deadline:
            count = min(_BULK, events - written)
            if written < documents:
                rows = [_document(n) for n in range(written, min(written + count, documents))]
                written += len((await docs.insert_many(rows, ordered=False)).inserted_ids)
            else:
                result = await docs.bulk_write([_update(choose, documents) for _ in range(count)], ordered=False)
                written += result.modified_count
            while written - await _head(stores) > _AHEAD and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the event is in another process
        await _until(lambda: _has(stores, written), deadline + 60)
        return await _head(stores)


def _document(number: int) -> dict[str, Any]:
    return {"_id": number, "n": 0, "name": f"document {number}", "tags": ["a", "b"], "at": {"x": 1.5, "y": number}}


def _update(choose: random.Random, documents: int) -> UpdateOne:
    return UpdateOne({"_id": choose.randrange(documents)}, {"$inc": {"n": 1}, "$set": {"at.x": choose.random()}})


async def _until(check: Any, deadline: float) -> None:
    while not await check():
        if time.monotonic() > deadline:
            sys.exit("the log was not ready in time")
        await asyncio.sleep(0.1)


async def _is_tracked(stores: Stores) -> bool:
    log = await stores.logs.current()
    return log is not None and _COLLECTION in await stores.stored.positions(log.id)


async def _has(stores: Stores, count: int) -> bool:
    return await _head(stores) >= count


async def _head(stores: Stores) -> int:
    log = await stores.logs.current()
    tail = await stores.events.tail(log.id) if log else None
    return tail.seq if tail else 0


def _verify(settings: Settings, deployment: Deployment) -> int:
    """Run the command; print what it said, how long it took and its peak RSS, which is `VmHWM` of proc(5)."""
    environment = os.environ | {
        f"{PREFIX}MONGODB_URI": deployment.uri,
        f"{PREFIX}DATABASE": settings.database,
        "PYTHONPATH": str(Path.cwd()),
    }
    began, peak = time.monotonic(), 0
    process = subprocess.Popen([sys.executable, "-m", "eventsync", "verify"], env=environment, cwd=deployment.directory)
    while process.poll() is None:
        peak = _peak(process.pid) or peak
        time.sleep(0.1)
    print(f"verify: {time.monotonic() - began:.1f} s, peak RSS {peak / 1024:.0f} MiB")
    return process.returncode


def _peak(pid: int) -> int:
    """In KiB; 0 once the process has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


if __name__ == "__main__":
    main()
