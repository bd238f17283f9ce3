"""Writers of every kind, from one seed. Each write is recorded; faults are borne, and leave an unknown outcome."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from eventsync.mongodb.client import Client
from support.chaos.api_writer import ApiWriter
from support.chaos.behind_writer import BehindWriter
from support.chaos.history import Recorder

IDS = ("o1", "o2", "o3", "int:7", "int:8", "65a000000000000000000001")


class Workload:
    """So many writers of each kind, on the same few documents: conflicts are wanted."""

    def __init__(
        self, recorder: Recorder, client: Client, urls: Sequence[str], database: str, names: Sequence[str], seed: int
    ) -> None:
        self.statuses: Counter[int] = Counter()
        keys = [(name, key) for name in names for key in IDS]
        api = [
            ApiWriter(f"api{n}", recorder, urls[n % len(urls)], keys, random.Random(f"{seed} api {n}"), self.statuses)
            for n in range(3)
        ]
        behind = [
            BehindWriter(f"behind{n}", recorder, client, database, keys, random.Random(f"{seed} behind {n}"))
            for n in range(3)
        ]
        self._pause = random.Random(f"{seed} pauses")
        self._steps: list[Callable[[], Awaitable[None]]] = [writer.write for writer in api]
        self._steps += [writer.write for writer in behind]
        self._writers = api
        self._last = behind[0]

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop`; what has begun then is ended first."""
        async with asyncio.TaskGroup() as group:
            for step in self._steps:
                group.create_task(self._repeat(step, stop))
        for writer in self._writers:
            await writer.close()

    async def _repeat(self, step: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        while not stop.is_set():
            await step()
            # Not as fast as possible: the machine is to run the system under test, too.
            await asyncio.sleep(self._pause.uniform(0.0, 0.03))

    async def finish(self, name: str, mark: str) -> None:
        """One last write to the collection, which is acknowledged."""
        await self._last.finish(name, mark)
