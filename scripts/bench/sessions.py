"""Many clients of one server: idle ones, ones that never read, and all at once after a restart.

A real worker, real servers, and clients over loopback in a process of their own. A client that misses an event, has one
twice, or another than was written, fails the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from eventsync.settings import Settings
from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.report import Report, Table
from scripts.bench.sessions_idle import idle
from scripts.bench.sessions_silent import silents
from scripts.bench.sessions_stage import raise_open_files, staged
from scripts.bench.sessions_storm import Storms

_SMALL_WINDOW = 64 * 1024
"""Bytes of a window that holds about a hundred events."""

PHASES = ("idle", "silent", "storm")


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Many clients: memory of idle ones, clients that never read, everybody at once after a restart."""
    parser.add_argument("--only", choices=PHASES, help="one phase instead of all")
    parser.add_argument("--idle", default="1000,5000", help="numbers of idle connections, ascending (1000,5000)")
    parser.add_argument("--silent", type=int, default=200, help="clients that never read (200)")
    parser.add_argument("--megabytes", type=int, default=104, help="MiB of events that pass them (104)")
    parser.add_argument("--size", type=int, default=20 * 1024, help="bytes of each of these events (20480)")
    parser.add_argument("--pour-seconds", type=float, default=20.0, help="how long they take to pass (20)")
    parser.add_argument("--send-timeout", type=float, default=3.0, help="`send_timeout` of that server (3)")
    parser.add_argument("--clients", type=int, default=2000, help="clients of a storm (2000)")
    parser.add_argument("--documents", type=int, default=2000, help="documents that they follow (2000)")
    parser.add_argument("--new", type=int, default=500, help="clients of the bootstrap storm (500)")
    parser.add_argument("--missed", type=int, default=100, help="events that a storm's clients have missed (100)")
    parser.add_argument("--behind", type=int, default=500, help="clients of the storm from behind the window (500)")
    parser.add_argument("--missed-far", type=int, default=300, help="the same of those behind the window (300)")
    parser.add_argument("--rate", type=float, default=20.0, help="writes a second during a storm (20)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    files = raise_open_files()
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    return Report(
        "Sessions",
        "scripts/bench/run sessions",
        {
            "processes": "mongod (6.0.5, one node), a worker, a server, the clients in one process and the writer in "
            "another share the CPUs; all over loopback",
            "shape": "one collection, `docs`, on each connection",
            "storm": f"{options.documents:,} documents of 300 bytes; {options.missed} events missed, "
            f"{options.missed_far:,} by those behind a window of {_SMALL_WINDOW // 1024} KiB; "
            f"{options.rate:g} writes/s",
            "silent": f"{options.megabytes} MiB in events of {options.size / 1024:g} KiB, in "
            f"{options.pour_seconds:g} s; `send_timeout` {options.send_timeout:g} s",
            "settings": f"defaults else: window {Settings().window_bytes >> 20} MiB, "
            f"heartbeat {Settings().heartbeat:g} s, {Settings().max_bootstraps} bootstraps at a time",
            "open files": f"at most {files:,} (`RLIMIT_NOFILE`)",
        },
        tables,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    tables, phases = [], (options.only,) if options.only else PHASES
    async with crowd() as clients:
        if "idle" in phases:
            async with staged(deployment, clients, "idle", 0) as stage:
                tables.append(await idle(stage, [int(text) for text in options.idle.split(",")]))
        if "silent" in phases:
            async with staged(deployment, clients, "silent", 0) as stage:
                tables.append(await silents(stage, options))
        if "storm" in phases:
            tables += await _storms(deployment, clients, options)
    return tables


async def _storms(deployment: Deployment, clients: CrowdProcess, options: argparse.Namespace) -> list[Table]:
    count, new, missed = options.clients, options.new, options.missed
    async with staged(deployment, clients, "storm", options.documents) as stage:
        storms = Storms(stage, options.rate)
        await storms.restart("nobody", "websocket", clients=0, missed=missed)
        await storms.restart(f"{count:,} WebSocket", "websocket", clients=count, missed=missed)
        await storms.restart(f"{count:,} SSE", "sse", clients=count, missed=missed)
        await storms.restart(
            f"{options.behind:,} WebSocket, behind",
            "websocket",
            clients=options.behind,
            missed=options.missed_far,
            window_bytes=_SMALL_WINDOW,
        )
        await storms.bootstrap(f"{new:,} WebSocket, bootstrap", "websocket", clients=new)
        await storms.bootstrap(f"{new:,} SSE, bootstrap", "sse", clients=new)
        return storms.tables()
