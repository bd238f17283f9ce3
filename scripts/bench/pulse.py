"""Probe of a busy server: ask `/healthz` at a fixed rate, over a new connection each time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_PERIOD = 0.05
_PATIENCE = 30.0


@dataclass
class Pulse:
    """`seconds` that each answer took; `refused`: questions without one, counted from the first answer on."""

    port: int
    seconds: list[float] = field(default_factory=list)
    refused: int = 0

    def figures(self) -> dict[str, float]:
        """In ms."""
        found = sorted(self.seconds)
        if not found:
            raise TimeoutError("/healthz was never answered")
        p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
        return {
            "healthz p50": found[len(found) // 2] * 1000,
            "healthz p99": p99 * 1000,
            "healthz max": found[-1] * 1000,
            "healthz failed": float(self.refused),
        }

    async def ask(self) -> None:
        """One question, from its intended time to the whole answer."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_PATIENCE):
                await _healthz(self.port)
        except (OSError, TimeoutError, EOFError):
            self.refused += bool(self.seconds)
        else:
            self.seconds.append(time.perf_counter() - began)


async def _healthz(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        if not (await reader.read()).startswith(b"HTTP/1.1 200"):
            raise EOFError
    finally:
        writer.close()


@asynccontextmanager
async def pulse(port: int, period: float = _PERIOD) -> AsyncIterator[Pulse]:
    """Ask every `period` seconds while the block runs, whether the last question is answered or not; then wait."""
    found, over = Pulse(port), asyncio.Event()

    async def run(group: asyncio.TaskGroup) -> None:
        due = time.perf_counter()
        while not over.is_set():
            group.create_task(found.ask(), name="ask /healthz")
            due += period
            await asyncio.sleep(due - time.perf_counter())

    async with asyncio.TaskGroup() as group:
        group.create_task(run(group), name="pulse")
        try:
            yield found
        finally:
            over.set()
