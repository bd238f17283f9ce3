"""One cell of the fan-out: a server, so many clients, events of each size one by one and in a burst."""

from __future__ import annotations

import time
from dataclasses import dataclass

from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess
from scripts.bench.deployment import cpu_seconds
from scripts.bench.fan_out_sources import Source

Figures = dict[str, float]

STEADY, BURST = "one by one", "burst"

_TIMED = 20
"""Clients that note how late events are: all of them would be busy with that."""

_WARM, _WARM_SIZE = 0.3, 300
"""Seconds, and bytes of an event."""

_LONGEST = 8.0
"""Seconds that single events go, whatever the number of clients."""

_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """Events to send: single ones, in all `seconds` times `deliveries`; bursts of so many deliveries."""

    seconds: float
    deliveries: float
    """A second, at most."""
    most: float
    """Events a second, at most: few clients get theirs for longer, or what one delivery costs would be lost in what the
    event costs."""
    burst: int

    def rate(self, clients: int) -> float:
        """Events a second."""
        return min(self.most, self.deliveries / clients)

    def count(self, clients: int, kind: str) -> int:
        """Events of a run."""
        if kind == BURST:
            return self.burst // clients
        return max(1, round(min(self.seconds * self.deliveries / clients, _LONGEST * self.rate(clients))))


@dataclass(frozen=True, slots=True)
class Run:
    """Cost and yield of a run of events."""

    deliveries: int
    seconds: float
    cpu: float
    client_cpu: float
    frames: int
    bytes: int

    def figures(self, alone: Run | None) -> Figures:
        """`alone`: the same events, to one client."""
        cpu, deliveries, frames = self.cpu, self.deliveries, self.frames
        if alone is not None:
            cpu, deliveries, frames = cpu - alone.cpu, deliveries - alone.deliveries, frames - alone.frames
        return {
            "µs a delivery": cpu / deliveries * 1e6,
            "µs a frame": cpu / frames * 1e6,
            "deliveries/s": self.deliveries / self.seconds,
            "server CPU %": 100 * self.cpu / self.seconds,
            "clients' CPU %": 100 * self.client_cpu / self.seconds,
            "bytes a delivery": self.bytes / self.deliveries,
            "events a frame": self.deliveries / self.frames,
        }


class Cell:
    """Clients of one server. Raises `WrongError` where one has not got each event once."""

    def __init__(self, source: Source, crowd: CrowdProcess, load: Load, transport: str) -> None:
        self._source = source
        self._crowd = crowd
        self._load = load
        self._transport = transport
        self.clients = 0

    async def open(self, clients: int) -> None:
        """Have so many clients, and warm up."""
        timed = max(0, min(_TIMED, clients) - self.clients)
        await self._open(timed, timed=True)
        await self._open(clients - self.clients, timed=False)
        await self._source.steady(round(_WARM * self._load.rate(clients)), self._load.rate(clients), _WARM_SIZE)
        await self._exact()
        await self._crowd.ask("delays")

    async def _open(self, count: int, *, timed: bool) -> None:
        if count:
            seq = self._source.head
            await self._crowd.ask("open", transport=self._transport, count=count, seq=seq, timed=timed)
            self.clients += count

    async def _exact(self) -> dict[str, int]:
        return await self._crowd.ask("exact", seq=self._source.head, seconds=_PATIENCE)

    async def run(self, size: int, kind: str, *, like: int, together: int = 1) -> Run:
        """The events that `like` clients are to be sent."""
        count, rate = self._load.count(like, kind), self._load.rate(like)
        before, pids = await self._exact(), (self._source.pid, self._crowd.pid)
        began, used = time.monotonic(), [cpu_seconds(pid) for pid in pids]
        if kind == BURST:
            await self._source.burst(count, size, together)
        else:
            await self._source.steady(count, rate, size)
        after = await self._exact()
        seconds, came = after["at"] - began, after["events"] - before["events"]
        if came != count * self.clients:
            raise WrongError(f"{count} events to {self.clients} clients were {came} deliveries")
        cpu, client_cpu = (cpu_seconds(pid) - so_far for pid, so_far in zip(pids, used, strict=True))
        frames, size_ = after["frames"] - before["frames"], after["bytes"] - before["bytes"]
        return Run(came, seconds, cpu, client_cpu, frames, size_)

    async def delays(self) -> Figures:
        """In ms, since this was asked last."""
        found = await self._crowd.ask("delays")
        return {"p50 ms": found["p50"], "p99 ms": found["p99"]}
