"""Memory: what a connection, a document and an event take, each beside what it can't be less than.

A real worker and server. (Whether memory grows in an hour measures `scripts/bench/run hour`.)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Final

from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.fan_out_sources import beside
from scripts.bench.long_log import Rows, once
from scripts.bench.memory import Memory
from scripts.bench.report import Report, Table
from scripts.bench.sessions_stage import Stage, raise_open_files, say, settled, staged

_WINDOW: Final = 256 * 1024 * 1024
_TRANSPORTS: Final = ("websocket", "sse", "poll")

_CONNECTIONS: Final = """\
KiB (USS: pages that no other process shares) that a server has more by idle connection. *bare*: a uvloop server that
has shaken hands and keeps a transport, and nothing else: the least that a connection takes in Python."""

_DOCUMENTS: Final = """\
USS of a worker and a server that have tracked a collection of so many documents (300 bytes) from its beginning and are
at rest, in MiB. Neither keeps documents: what the worker has more is left from storing the first snapshot."""

_EVENTS: Final = """\
Bytes that a server has more by event in its window, beside the bytes of the event's body, which is what it is kept
for; one client follows the collection."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Memory: by idle connection, by tracked document, by event in the window, beside what each can't be less than."""
    parser.add_argument("--connections", type=int, default=1000, help="idle connections (1000)")
    parser.add_argument("--documents", default="1000,10000,100000", help="documents (1k, 10k, 100k)")
    parser.add_argument("--events", type=int, default=40_000, help="events in the window (40000)")
    parser.add_argument("--sizes", default="300,1024", help="bytes of their documents (300,1024)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    return Report(
        "Memory",
        "scripts/bench/run memory",
        {
            "processes": "mongod (6.0.5, one node), a worker, a server, the clients in one process; a fresh server for "
            "each figure",
            "settings": f"defaults else: window {_WINDOW >> 20} MiB, so that nothing leaves it",
        },
        tables,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    connections: Rows = {}
    documents: Rows = {}
    events: Rows = {}
    async with crowd() as clients:
        async with staged(deployment, clients, "memory", 0, window_bytes=_WINDOW) as stage:
            for transport in _TRANSPORTS:
                each = await _connection(stage, transport, options.connections)
                connections[transport] = once({"KiB": each})
            connections["bare"] = once({"KiB": await _bare(clients, options.connections)})
            for size in (int(text) for text in options.sizes.split(",")):
                events[f"{size:,} B"] = once(await _event(stage, options.events, size))
        for count in (int(text) for text in options.documents.split(",")):
            async with staged(deployment, clients, f"memory_{count}", count) as stage, stage.serving() as server:
                await stage.ready()
                await stage.crowd.ask("open", transport="websocket", count=1, seq=0)
                await settled(server)
                pids = {"worker": stage.worker, "server": server}
                documents[f"{count:,}"] = once({name: Memory.of(pid).uss / 1024 for name, pid in pids.items()})
    return [
        Table("An idle connection", _CONNECTIONS, connections),
        Table("A tracked document", _DOCUMENTS, documents),
        Table("An event in the window", _EVENTS, events),
    ]


async def _connection(stage: Stage, transport: str, count: int) -> float:
    async with stage.serving() as pid:
        await stage.ready()
        port, log = stage.settings.port, stage.log.name
        await stage.crowd.ask("begin", port=port, log=log, documents=0)
        # What every first request costs once is no connection's.
        await stage.crowd.ask("open", transport=transport, count=20, seq=0)
        await settled(pid)
        empty = Memory.of(pid).uss
        await stage.crowd.ask("open", transport=transport, count=count, seq=0)
        await settled(pid)
        each = (Memory.of(pid).uss - empty) / count
    say(f"{transport}: {each:.1f} KiB")
    return each


async def _bare(clients: CrowdProcess, count: int) -> float:
    async with beside("bare", clients) as peer:
        await clients.ask("open", transport="websocket", count=20, seq=0)
        empty = Memory.of(peer.pid).uss
        await clients.ask("open", transport="websocket", count=count, seq=0)
        return (Memory.of(peer.pid).uss - empty) / count


async def _event(stage: Stage, count: int, size: int) -> dict[str, float]:
    async with stage.serving() as pid:
        await stage.ready()
        head = await stage.log.head()
        await stage.crowd.ask("begin", port=stage.settings.port, log=stage.log.name, documents=0)
        await stage.crowd.ask("open", transport="websocket", count=1, seq=head)
        await stage.write(head + 1, count // 10, size=size)
        await stage.crowd.ask("exact", seq=head + count // 10, seconds=60.0)
        await settled(pid)
        before = Memory.of(pid).uss
        await stage.write(head + count // 10 + 1, count, size=size)
        await stage.crowd.ask("exact", seq=head + count // 10 + count, seconds=120.0)
        await settled(pid)
        each = (Memory.of(pid).uss - before) * 1024 / count
        row = await stage.stores.log["events"].find_one({}, {"b": 1}, sort=[("_id", -1)])
    body = float(len(row["b"])) if row else 0.0
    say(f"an event of {size} B: {each:.0f} B, body {body:.0f}")
    return {"bytes": each, "of them body": body, "beside it": each - body}
