"""End to end: from a write's intended time to the clients, beside its acknowledgement.

A real worker and server, over WebSocket and SSE, in an open loop; a fresh server for each case. Each write makes a
document of 300 bytes. A client that misses an event, or has one twice, fails the run.
"""

from __future__ import annotations

import argparse
from typing import Final

from scripts.bench.clients.exactness import SHAPE
from scripts.bench.clients.processes import load_generator
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.report import Figures, Goal, Rows, Table, alternating, percentiles
from scripts.bench.stage import Stage, staged
from scripts.bench.writers import Write, inserting, open_loop, posting, received

_WARM: Final = 0.5

_LATENCY: Final = """\
Milliseconds from a write's intended time until each client has its event (*p50*, *p95*, *p99* over all clients), and
until the write was acknowledged (*ack*); *of ack*: the one over the other, in the same round. *HTTP*: `POST` to the
server that serves the clients; *MongoDB*: `insert_one` by another process. CPU is a share of one core."""

_HTTP, _MONGODB = "HTTP → websocket", "MongoDB → websocket"
GOALS: Final = (
    Goal("end to end by HTTP, p50 of the acknowledgement", "Latency", _HTTP, "p50 of ack", 2.5),
    Goal("… p99", "Latency", _HTTP, "p99 of ack", 3.0),
    Goal("end to end of MongoDB's writes, p50", "Latency", _MONGODB, "p50 of ack", 2.5),
    Goal("… p99", "Latency", _MONGODB, "p99 of ack", 3.0),
)


OPTIONS: Final = {
    "rounds": (3, "rounds"),
    "seconds": (3.0, "how long a round of one case takes"),
    "loads": (("20x100", "100x100", "200x100", "100x300"), "clients x writes/s"),
}
QUICK: Final = "--rounds 1 --seconds 1 --loads 20x100"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    cases = [(load, transport) for load in options.loads for transport in ("websocket", "sse")]
    rows = Rows()
    async with load_generator() as clients, staged(deployment, clients, "end_to_end", 0) as stage:
        for _, (load, transport) in alternating(options.rounds, cases):
            count, rate = map(int, load.split("x"))
            async with stage.serving() as pid, posting(stage.settings.port) as post:
                await stage.begin(clients, overtaking=True)
                await clients.ask("open", transport=transport, count=count, seq=await stage.head(), timed=True)
                for name, write in (("HTTP", post), ("MongoDB", inserting(stage.stores.data[SHAPE]))):
                    await _writes(stage, pid, write, round(_WARM * rate), rate)
                    figures = await _writes(stage, pid, write, round(options.seconds * rate), rate)
                    rows.note(f"{name} → {transport}, {count} at {rate}/s", figures)
    return [Table("Latency", _LATENCY, rows)]


async def _writes(stage: Stage, pid: int, write: Write, count: int, rate: float) -> Figures:
    """Measure how late `count` writes are everywhere. Raises `WrongError` if one is missing or came twice."""
    head, cpu = await stage.head(), Cpu(server=pid, clients=stage.clients.pid)
    acks, late, _ = await received(stage.clients, head, open_loop(write, head + 1, count, rate))
    used, ack = cpu.used(), percentiles(acks, "ack ")
    ratios = {f"{name} of ack": late[name] / ack[f"ack {name}"] for name in ("p50", "p99")}
    shares = {
        "server CPU %": 100 * used["server"] * rate / count,
        "clients' CPU %": 100 * used["clients"] * rate / count,
    }
    return late | ack | ratios | shares
