"""End to end: from a write's intended time to the clients, beside its acknowledgement.

A real worker and server, over WebSocket and SSE, in an open loop. A client that misses an event, or has one twice,
fails the run.
"""

from __future__ import annotations

import argparse
from typing import Final

from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import crowd
from scripts.bench.deployment import Deployment, cpu_seconds, say
from scripts.bench.end_to_end_writers import SIZE, Write, open_loop, over_http, straight
from scripts.bench.percentiles import percentiles
from scripts.bench.report import Goal, Table, empty_rows, note
from scripts.bench.stage import Stage, staged

_WARM: Final = 0.5
_PATIENCE: Final = 30.0

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
    "loads": ("20x100,100x100,200x100,100x300", "clients x writes/s"),
}


def setup(options: argparse.Namespace) -> dict[str, str]:
    """Return what is the same for all figures."""
    return {
        "writes": f"documents of {SIZE} bytes into one collection",
        "rounds": f"{options.rounds} of {options.seconds:g} s, alternating; a fresh server each time",
    }


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    loads = [load.split("x") for load in options.loads.split(",")]
    cases = [(way, int(clients), float(rate)) for clients, rate in loads for way in ("websocket", "sse")]
    rows = empty_rows()
    async with crowd() as clients_, staged(deployment, clients_, "end_to_end", 0) as stage:
        for number in range(options.rounds):
            for transport, clients, rate in cases if number % 2 == 0 else reversed(cases):
                for name, figures in (await _case(stage, transport, clients, rate, options.seconds)).items():
                    say(f"{name}: " + ", ".join(f"{column} {value:.1f}" for column, value in figures.items()))
                    note(rows[name], figures)
    return [Table("Latency", _LATENCY, rows)]


async def _case(stage: Stage, transport: str, clients: int, rate: float, seconds: float) -> dict[str, dict[str, float]]:
    """Write both ways, with the same clients of one fresh server."""
    async with stage.serving() as pid, over_http(stage.settings.port) as post:
        head, found = await stage.log.head(), {}
        port, log = stage.settings.port, stage.log.name
        await stage.crowd.ask("begin", port=port, log=log, documents=0, overtaking=True)
        await stage.crowd.ask("open", transport=transport, count=clients, seq=head, timed=True)
        for name, write in (("HTTP", post), ("MongoDB", straight(stage.stores.data[SHAPE]))):
            warm, count = round(_WARM * rate), round(seconds * rate)
            await _writes(stage, pid, write, head, warm, rate)
            figures = await _writes(stage, pid, write, head + warm, count, rate)
            found[f"{name} → {transport}, {clients} at {rate:g}/s"] = figures
            head += warm + count
    return found


async def _writes(stage: Stage, pid: int, write: Write, head: int, count: int, rate: float) -> dict[str, float]:
    """Measure how late `count` writes are everywhere. Raises `WrongError` if one is missing or came twice."""
    crowd_, pids = stage.crowd, (pid, stage.crowd.pid)
    used = [cpu_seconds(one) for one in pids]
    acks = await open_loop(write, head + 1, count, rate)
    await crowd_.ask("exact", seq=head + count, seconds=_PATIENCE)
    server, clients = (cpu_seconds(one) - so_far for one, so_far in zip(pids, used, strict=True))
    late, ack = await crowd_.ask("delays"), percentiles(acks, "ack ")
    if len(acks) != count:
        raise WrongError(f"{count} writes were {len(acks)} acknowledged")
    ratios = {f"{name} of ack": late[name] / ack[f"ack {name}"] for name in ("p50", "p99")}
    shares = {"server CPU %": 100 * server * rate / count, "clients' CPU %": 100 * clients * rate / count}
    return {name: late[name] for name in ("p50", "p95", "p99")} | ack | ratios | shares
