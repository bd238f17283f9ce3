"""`python -m scripts.bench.peers.watching URI DATABASE`: a bare change stream, PyMongo's `watch`, and one reader.

The least that a client can be told in: no log, no order across servers, nothing after a disconnect.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import orjson
import uvloop
from pymongo import AsyncMongoClient
from pymongo.asynchronous.change_stream import AsyncChangeStream

from scripts.bench.crowd.client import SHAPE

_WAIT_MS = 200


class Watcher:
    """Notes how late each change comes, in ms from when it was meant to be made."""

    def __init__(self) -> None:
        self.delays: list[float] = []

    async def watch(self, stream: AsyncChangeStream[Any]) -> None:
        while stream.alive:
            change = await stream.try_next()
            if change is not None:
                self.delays.append((time.monotonic() - change["fullDocument"]["at"]) * 1000)


async def main(uri: str, database: str) -> None:
    """Each line of the input asks for the delays since the line before, and is answered once there are so many."""
    client: AsyncMongoClient[Any] = AsyncMongoClient(uri)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    watcher = Watcher()
    async with client, await client[database][SHAPE].watch(max_await_time_ms=_WAIT_MS) as stream:
        watching = asyncio.create_task(watcher.watch(stream), name="watch")
        async for line in reader:
            count, deadline = orjson.loads(line)["count"], time.monotonic() + 30.0
            while len(watcher.delays) < count and time.monotonic() < deadline:  # noqa: ASYNC110 - few look, and rarely
                await asyncio.sleep(0.02)
            sys.stdout.buffer.write(orjson.dumps({"delays": watcher.delays}) + b"\n")
            sys.stdout.buffer.flush()
            watcher.delays.clear()
        watching.cancel()


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
