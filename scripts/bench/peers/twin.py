"""`python -m scripts.bench.peers.twin PORT URI DATABASE`: the naive server's better twin, one change stream for all.

Each change is encoded once, and put into a queue per client; no client waits for another. There is still no position,
no bound, and a looked-up document.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop
from pymongo import AsyncMongoClient

from scripts.bench.crowd.client import SHAPE
from scripts.bench.peers import frames
from scripts.bench.peers.queues import Queues
from scripts.bench.peers.starlette_server import serving, told_to_end


async def main(port: int, uri: str, database: str) -> None:
    """Until the end of the input."""
    queues = Queues(lambda: frames.live(0))
    client: AsyncMongoClient[Any] = AsyncMongoClient(uri)

    async def watch() -> None:
        seq = 0
        async with await client[database][SHAPE].watch(full_document="updateLookup") as stream:
            async for change in stream:
                seq += 1
                queues.put([frames.created(seq, change["fullDocument"]).decode()])

    async with client, serving(queues.endpoint, port):
        watching = asyncio.create_task(watch())
        await told_to_end()
        watching.cancel()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
