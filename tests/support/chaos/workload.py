"""Writers of every kind, from one seed. Each write is recorded; faults are borne, and leave an unknown outcome."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain

from eventsync.mongodb.client import Client
from support.chaos.api_writer import ApiWriter, Burst
from support.chaos.behind_writer import BehindWriter
from support.chaos.history import Key, Recorder

_BURST, _MORE = 12, 12
"""Writes at the same time to one server, and documents besides those that all writers share."""

IDS = ("o1", "o2", "o3", "int:7", "int:8", "65a000000000000000000001")


class Workload:
    """So many writers of each kind, on the same few documents: conflicts are wanted. A burst for each server."""

    def __init__(
        self, recorder: Recorder, client: Client, urls: Sequence[str], database: str, names: Sequence[str], seed: int
    ) -> None:
        self.statuses: Counter[int] = Counter()
        keys = [(name, key) for name in names for key in IDS]
        versions: dict[Key, int] = {}

        def api(name: str, url: str, of: Sequence[Key], keyed: float) -> ApiWriter:
            choose = random.Random(f"{seed} {name}")
            return ApiWriter(name, recorder, url, of, choose, self.statuses, versions, keyed=keyed)

        more = [*keys, *((name, f"b{n}") for name in names for n in range(_MORE))]
        single = [api(f"api{n}", urls[n % len(urls)], keys, 0.5) for n in range(3)]
        bursts = [[api(f"burst{n}.{m}", url, more, 0.1) for m in range(_BURST)] for n, url in enumerate(urls)]
        behind = [
            BehindWriter(f"behind{n}", recorder, client, database, keys, random.Random(f"{seed} behind {n}"))
            for n in range(3)
        ]
        self._pause = random.Random(f"{seed} pauses")
        self._steps: list[Callable[[], Awaitable[None]]] = [writer.write for writer in single]
        self._steps += [Burst(writers).write for writers in bursts]
        self._steps += [writer.write for writer in behind]
        self._writers = [*single, *chain.from_iterable(bursts)]
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
