"""Writes: how many a second, what each costs, and how late it is acknowledged and received.

Merge patches, by HTTP, of two fields of one of 2,000 documents of 1 KiB, `Prefer: return=minimal`, with clients on
WebSockets. MongoDB's data is in memory, where there is tmpfs: how fast a disk syncs is not what is measured. Beside, in
the same run: a plain Starlette server (`scripts/bench/peers/starlette.py`) that does one `update_one` and checks
nothing; one change stream, a task and a queue for each client. A fresh worker and server each time. A client that
misses an event, or has one twice, fails the run.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.values.extended_json import to_json
from scripts.bench.clients.exactness import SHAPE, WrongError, document
from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Cpu, Deployment, ran
from scripts.bench.peers import frames
from scripts.bench.peers.process import peer
from scripts.bench.report import Figures, Goal, Rows, Table, alternating, percentiles
from scripts.bench.sequencing import document as order
from scripts.bench.stage import staged
from scripts.bench.writers import DOCUMENTS, MINIMAL, Write, closed_loop, open_loop, received, requesting

Load = Callable[[Write, int, float], Awaitable[list[float]]]
"""Makes writes from a number on, for some seconds; the ms until each was acknowledged."""

OURS, PLAIN = "eventsync", "plain Starlette"
_DOCUMENTS, _SIZE = 2000, 1024
_CLIENTS, _MANY = 50, 200
_FOREIGN_RATE: Final = 20.0
_WARM_UP, _WARM = 1.0, 0.4
"""Seconds of writes to a new server; how long a load runs before it is measured, over how long it is measured."""

_JOURNAL_MS: Final = 100
"""mongod's default, which `eventsync dev` changes."""

_MOST = """\
So many writers, each of which makes its next write once its last is acknowledged. *ack*: ms until a write was
acknowledged; *received*: until each client had it. *server ms*, *worker ms*, *mongod ms*: CPU of the process by write.
*deliveries/core-s*: events that clients received, by CPU second of the server, its writes included."""

_SEVERAL = """\
The same, with `eventsync serve --workers 2`: two server processes on one port, each with a share of the connections."""

_OPEN = """\
Writes at their intended times, whatever became of those before. *ack*: ms from a write's intended time until it was
acknowledged; *received*: until each client had it."""

_FOREIGN = f"""\
`update_one` by another program, acknowledged by the primary alone (`w: 1`), {_FOREIGN_RATE:g} a second; nothing else
writes. mongod syncs its journal every {_JOURNAL_MS} ms, its default, and shows a change to change streams after that.
*received*: ms from a write's intended time until each client had it."""

_IMPORT = """\
`eventsync import` of orders of 1 KiB, with a list of objects, into a tracked collection; the worker is stopped.
*documents/s* includes the start of the program. CPU by document."""

_RATIOS = """\
*of plain*: the same figure of the plain server in the same round; *of own ack*: received over acknowledged, medians."""

_FASTEST: Final = "eventsync, 32 at a time, 50"
_STEADY: Final = "eventsync, 500/s"
_MANY_CLIENTS: Final = "eventsync, 32 at a time, 200"
GOALS: Final = (
    Goal("writes/s, 32 at a time, 50 clients", "Most writes", _FASTEST, "writes/s", 1500, at_least=True),
    Goal("… of plain Starlette's", "Ratios", "32 at a time, 50", "writes/s of plain", 1.5, at_least=True),
    Goal("CPU of such a write, ms: server", "Most writes", _FASTEST, "server ms", 0.45),
    Goal("… worker", "Most writes", _FASTEST, "worker ms", 0.12),
    Goal("… mongod", "Most writes", _FASTEST, "mongod ms", 0.6),
    Goal("500 writes/s: received p50, ms", "Open loop", _STEADY, "received p50", 10),
    Goal("… p99", "Open loop", _STEADY, "received p99", 40),
    Goal("… p99, of plain Starlette's", "Ratios", "500/s", "received p99 of plain", 1.0),
    Goal("one writer: acknowledged, of plain Starlette's", "Ratios", "1 at a time", "ack p50 of plain", 1.15),
    Goal("… received, of its own acknowledgement", "Ratios", "1 at a time", "received of own ack", 1.6),
    Goal("100 writes/s: acknowledged, of plain Starlette's", "Ratios", "100/s", "ack p50 of plain", 1.15),
    Goal("… received, of its own acknowledgement", "Ratios", "100/s", "received of own ack", 1.6),
    Goal("deliveries/core-s, 200 clients", "Most writes", _MANY_CLIENTS, "deliveries/core-s", 200_000, at_least=True),
    Goal("documents/s of an import", "Import", "", "documents/s", 10_000, at_least=True),
    Goal("another program's `w: 1` write until received, ms", "Foreign writes", "eventsync", "received p50", 15),
)


IN_MEMORY: Final = True

OPTIONS: Final = {
    "rounds": (3, "rounds"),
    "seconds": (5.0, "how long a load is measured"),
    "together": ((32, 64, 128), "writers at a time"),
    "documents": (60_000, "documents of an import"),
    "only": ((OURS, PLAIN), "one of the systems, instead of both"),
}
QUICK: Final = "--rounds 1 --seconds 1 --together 32 --documents 2000"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    rows, last = {title: Rows() for title in _TABLES}, dict[str, dict[str, Figures]]()
    async with load_generator() as clients, AsyncMongoClient[Any](deployment.uri) as client:
        await client.admin.command({"setParameter": 1, "journalCommitInterval": _JOURNAL_MS})
        for number, name in alternating(options.rounds, options.only):
            serving = _ours if name == OURS else _plain
            async with serving(deployment, clients, client, f"writes_{number}") as server:
                last[name] = await _round(server, options, rows)
            if name == OURS:
                async with _ours(deployment, clients, client, f"several_{number}", "--workers", "2") as server:
                    await _several(server, options, rows["Two server processes"])
                await _import(deployment, clients, f"import_{number}", options.documents, rows["Import"])
            if last.keys() >= {OURS, PLAIN}:
                _compare(last.pop(OURS), last.pop(PLAIN), rows["Ratios"])
    return [Table(title, about, rows[title]) for title, about in _TABLES.items() if rows[title]]


@dataclass
class _Server:
    """A server that takes writes. `head`: how many events it has sent, or will send, its clients."""

    name: str
    pids: dict[str, int]
    port: int
    log: str
    docs: AsyncCollection[Any]
    clients: Process
    write: Write
    connected: int = 0
    head: int = 0

    async def open(self, clients: int) -> None:
        """Have so many clients, all at the head."""
        if clients != self.connected:
            await self.clients.ask("begin", port=self.port, log=self.log, documents=_DOCUMENTS, overtaking=True)
            await self.clients.ask("open", transport="websocket", count=clients, seq=self.head, timed=True)
            self.connected = clients

    async def received(self, load: Load, write: Write, seconds: float) -> tuple[list[float], Figures, float]:
        """Make writes. Raises `WrongError` where a client has not received each write once."""
        found = await received(self.clients, self.head, load(write, self.head + 1, seconds))
        self.head += len(found[0])
        return found

    async def figures(self, load: Load, write: Write, seconds: float) -> Figures:
        """Measure a load."""
        await self.received(load, write, _WARM * seconds)
        cpu = Cpu(**self.pids)
        acks, late, took = await self.received(load, write, seconds)
        used = cpu.used()
        return {
            "writes/s": len(acks) / took,
            **{f"ack {name}": value for name, value in percentiles(acks).items() if name != "p95"},
            **{f"received {name}": late[name] for name in ("p50", "p99")},
            **{f"{name} ms": 1000 * value / len(acks) for name, value in used.items()},
        } | ({"deliveries/core-s": self.connected * len(acks) / used["server"]} if "server" in used else {})


async def _round(server: _Server, options: argparse.Namespace, rows: Mapping[str, Rows]) -> dict[str, Figures]:
    """Measure every load on a server that is new; return the figures that are compared."""
    await server.open(1)
    await server.received(_closed(32), server.write, _WARM_UP)
    several = [(_CLIENTS, together) for together in options.together]
    loads = [
        ("Most writes", clients, f"{together} at a time", _closed(together))
        for clients, together in [(1, 32), (_CLIENTS, 1), *several, (_MANY, 32)]
    ]
    loads += [("Open loop", _CLIENTS, f"{rate:g}/s", _open(rate)) for rate in (100.0, 500.0)]
    found = {}
    for title, clients, load, run in loads:
        await server.open(clients)
        row = f"{load}, {clients} {'clients' if clients > 1 else 'client'}"
        figures = await server.figures(run, server.write, options.seconds)
        found[row] = rows[title].note(f"{server.name}, {row}", figures)
    if server.name == OURS:
        figures = await server.figures(_open(_FOREIGN_RATE), _foreign(server.docs), options.seconds)
        rows["Foreign writes"].note(f"{OURS}, w: 1, {_CLIENTS} clients", figures)
    return found


async def _several(server: _Server, options: argparse.Namespace, rows: Rows) -> None:
    """Measure the most writes of several server processes, whose CPU is not known: the pid is their parent's."""
    del server.pids["server"]
    await server.open(_CLIENTS)
    await server.received(_closed(32), server.write, _WARM_UP)
    for together in options.together:
        figures = await server.figures(_closed(together), server.write, options.seconds)
        rows.note(f"{together} at a time, {_CLIENTS} clients", figures)


async def _import(deployment: Deployment, clients: Process, name: str, count: int, rows: Rows) -> None:
    """Import a file in both ways. Raises `WrongError` unless each document is there."""
    file = deployment.directory / f"{name}.ndjson"
    file.write_bytes(b"\n".join(to_json(order(number, _SIZE)) for number in range(count)))
    async with staged(deployment, clients, name, 0) as stage, stage.serving() as server, stage.without_snapshots():
        through = ("--url", f"http://127.0.0.1:{stage.settings.port}")
        for row, words in (("into the database", ()), ("through a server", through)):
            cpu, docs = Cpu(server=server, mongod=deployment.pid), stage.stores.data[SHAPE]
            took = await ran(stage.settings, "import", str(file), "--collection", SHAPE, *words)
            if (await docs.delete_many({})).deleted_count != count:
                raise WrongError(f"an import {row} has lost documents")
            used = {f"{process} ms": 1000 * seconds / count for process, seconds in cpu.used().items()}
            rows.note(row, {"documents/s": count / took} | used)


def _compare(ours: dict[str, Figures], plain: dict[str, Figures], ratios: Rows) -> None:
    for row, figures in ours.items():
        found = {f"{name} of plain": value / plain[row][name] for name, value in figures.items() if name in plain[row]}
        ratios.note(row, found | {"received of own ack": figures["received p50"] / figures["ack p50"]})


_TABLES: Final = {
    "Ratios": _RATIOS,
    "Most writes": _MOST,
    "Two server processes": _SEVERAL,
    "Open loop": _OPEN,
    "Foreign writes": _FOREIGN,
    "Import": _IMPORT,
}


def _closed(together: int) -> Load:
    return lambda write, first, seconds: closed_loop(write, first, together, seconds)


def _open(rate: float) -> Load:
    return lambda write, first, seconds: open_loop(write, first, max(1, round(seconds * rate)), rate)


def _foreign(docs: AsyncCollection[Any]) -> Write:
    weak = docs.with_options(write_concern=WriteConcern(1))

    async def write(number: int, at: float) -> None:
        await weak.update_one({"_id": _target(number)}, {"$set": _change(number, at)})

    return write


def _target(number: int) -> int:
    return (number - 1) % _DOCUMENTS


def _change(number: int, at: float) -> dict[str, Any]:
    return {"n": number, "at": at}


def _patching(port: int) -> AbstractAsyncContextManager[Write]:
    headers = {"Content-Type": "application/merge-patch+json", **MINIMAL}
    return requesting(
        port, "PATCH", lambda number: f"{DOCUMENTS}/int:{_target(number)}", headers, _change, connections=128
    )


@asynccontextmanager
async def _ours(
    deployment: Deployment, clients: Process, client: AsyncMongoClient[Any], name: str, *options: str
) -> AsyncIterator[_Server]:
    async with staged(deployment, clients, name, _DOCUMENTS, _SIZE) as stage, stage.serving(*options) as pid:
        docs, port = client[stage.settings.database][SHAPE], stage.settings.port
        pids = {"server": pid, "worker": stage.worker, "mongod": deployment.pid}
        async with _patching(port) as write:
            yield _Server(OURS, pids, port, stage.log, docs, clients, write)


@asynccontextmanager
async def _plain(
    deployment: Deployment, clients: Process, client: AsyncMongoClient[Any], name: str
) -> AsyncIterator[_Server]:
    docs = client[f"{name}_plain"][SHAPE]
    await docs.insert_many([document(number, 0.0, _SIZE, n=0) for number in range(_DOCUMENTS)])
    async with peer("starlette", "writes", deployment.uri, docs.database.name) as (process, port):
        await process.ask("begin", seq=0)
        async with _patching(port) as write:
            pids = {"server": process.pid, "mongod": deployment.pid}
            yield _Server(PLAIN, pids, port, frames.LOG, docs, clients, write)
    await client.drop_database(docs.database.name)
