"""Pauses: how fast `/healthz` answers while each route of a server is asked for the worst that it allows.

The requests are those of `tests/integration/api/worst_requests.py`, with documents of 600,000 lists (8 MB), of control
characters (58 MB of JSON), 16 of 1 MB, and of 100,000 lists.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any, Final

import httpx
import uvloop
from pymongo import AsyncMongoClient

from eventsync.dev import mongod
from eventsync.settings import Settings
from integration.api.worst_requests import SETTINGS, WORST, Client, grow, is_grown
from scripts.bench.clients.processes import asked, obey
from scripts.bench.deployment import Deployment, running
from scripts.bench.report import Goal, Rows, Table, percentiles
from scripts.bench.stage import until
from support.systems import tracked

_PERIOD: Final = 0.01
_PATIENCE: Final = 600.0

_HEALTH: Final = """\
ms from a question's intended time to its answer, asked 100 times a second by another process, over a new connection
each time, while one client makes the requests of the row, again and again. MongoDB, the worker, helper processes and
both clients share the CPUs. *asked*: how many."""

GOALS: Final = (Goal("`/healthz` while a route is asked for its worst, p99 ms", "Answers", "", "p99", 100.0),)

OPTIONS: Final = {
    "rounds": (3, "rounds"),
    "seconds": (1.0, "how long each route is asked, at least"),
    "only": ("", "only routes whose name has this in it"),
}
QUICK: Final = "--rounds 1 --seconds 0.1 --only state-vectors"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the table. Raises `UnexpectedError` where a route answers otherwise than it should."""
    settings = Settings(mongodb_uri=deployment.uri, database="bench", port=mongod.free_port(), **SETTINGS)
    url, rows = f"http://127.0.0.1:{settings.port}", Rows()
    with running("worker", settings, deployment.directory), running("serve", settings, deployment.directory):
        await tracked(url, SETTINGS["collections"])
        async with (
            httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as http,
            AsyncMongoClient[Any](deployment.uri) as mongodb,
            asked(sys.executable, "-m", "scripts.bench.pauses", str(settings.port)) as probe,
        ):
            client = Client(http, url)
            await grow(client, mongodb[settings.database]["things"])
            await until("the events of the large document", lambda: is_grown(client), _PATIENCE)
            # In this order: what a request leaves is what later ones are the worst for.
            for (method, path), ask in [*WORST.items()] * options.rounds:
                if options.only in (name := f"{method} {path}"):
                    await probe.ask("take")
                    over = time.monotonic() + options.seconds
                    await ask(client)
                    while time.monotonic() < over:
                        await ask(client)
                    rows.note(name, await probe.ask("take"))
    return [Table("Answers", _HEALTH, rows)]


class Probe:
    """Asks a server whether it is healthy, from a process of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._took: list[float] = []
        self._asking = asyncio.create_task(self._ask_always(), name="probe")

    async def _ask_always(self) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(due - time.monotonic())
                group.create_task(self._ask(due), name="ask")
                due += _PERIOD

    async def _ask(self, due: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % self._port)
        if not (await reader.readline()).startswith(b"HTTP/1.1 200 "):
            raise OSError("the server is not healthy")
        self._took.append((time.monotonic() - due) * 1000)
        writer.close()

    async def take(self) -> dict[str, float]:
        """Return the figures since the last time. Raises what has ended the questions."""
        if self._asking.done():
            self._asking.result()
        took, self._took = self._took, []
        return (percentiles(took) | {"max": max(took)} if took else {}) | {"asked": float(len(took))}


async def main(port: int) -> None:
    """Run until the end of the input."""
    await obey(Probe(port))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
