"""`python -m scripts.bench.peers.plain PORT`: Starlette on uvicorn, written well: a task and a queue per client.

The message is encoded once for all; no client waits for another; uvicorn has its fastest WebSocket protocol, its C
parser and uvloop, and no compression.
"""

from __future__ import annotations

import sys

import uvloop

from scripts.bench.peers import frames
from scripts.bench.peers.driver import Driver
from scripts.bench.peers.queues import Queues
from scripts.bench.peers.starlette_server import serving


async def main(port: int) -> None:
    """Until the end of the input."""
    queues = Queues(lambda: frames.live(driver.head))
    driver = Driver(lambda messages: queues.put(message.decode() for message in messages))
    async with serving(queues.endpoint, port):
        await driver.obey()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
