"""Writes: how many a second, what each costs, and how late it is acknowledged and received.

Merge patches of documents of 1 KiB by HTTP, with a worker and with clients on WebSockets. Beside, in the same run: a
plain Starlette server that does one `update_one` and sends a change stream to its clients. A client that misses an
event, or has one twice, fails the run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection

from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, say
from scripts.bench.end_to_end_writers import Write, closed_loop, open_loop, requesting
from scripts.bench.peers import frames
from scripts.bench.peers.process import peer
from scripts.bench.percentiles import percentiles
from scripts.bench.report import Goal, Table, empty_rows, note
from scripts.bench.stage import document_of, staged

Load = Callable[[Write, int, float], Awaitable[list[float]]]
"""Makes writes from a number on, for some seconds; the ms until each was acknowledged."""

OURS, PLAIN = "eventsync", "plain Starlette"
_DOCUMENTS, _SIZE = 2000, 1024
_CLIENTS, _MANY = 50, 200
_FOREIGN_RATE: Final = 20.0
_WARM_UP, _WARM = 1.0, 0.4
"""Seconds of writes to a new server; how long a load runs before it is measured, over how long it is measured."""

_PATIENCE: Final = 60.0
_JOURNAL_MS: Final = 100
"""mongod's default, which `eventsync dev` changes."""

_HEADERS: Final = {"Content-Type": "application/merge-patch+json", "Prefer": "return=minimal"}

_MOST = """\
So many writers, each of which makes its next write once its last is acknowledged. *ack*: ms until a write was
acknowledged; *received*: until each client had it. *server ms*, *worker ms*, *mongod ms*: CPU of the process by write.
*deliveries/core-s*: events that clients received, by CPU second of the server, its writes included."""

_OPEN = """\
Writes at their intended times, whatever became of those before. *ack*: ms from a write's intended time until it was
acknowledged; *received*: until each client had it."""

_FOREIGN = f"""\
`update_one` by another program, acknowledged by the primary alone (`w: 1`), {_FOREIGN_RATE:g} a second; nothing else
writes. mongod syncs its journal every {_JOURNAL_MS} ms, its default, and shows a change to change streams after that.
*received*: ms from a write's intended time until each client had it."""

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
    Goal("another program's `w: 1` write until received, ms", "Foreign writes", "eventsync", "received p50", 15),
)


IN_MEMORY: Final = True
"""How fast a disk syncs is not what is measured."""

OPTIONS: Final = {
    "rounds": (3, "rounds"),
    "seconds": (5.0, "how long a load is measured"),
    "together": ("32,64,128", "writers at a time"),
    "only": (f"{OURS},{PLAIN}", "one of the systems, instead of both"),
}


def setup(options: argparse.Namespace) -> dict[str, str]:
    """Return what is the same for all figures."""
    return {
        "data": "in memory (tmpfs) where there is one; mongod has its default `--journalCommitInterval`",
        "writes": f"HTTP PATCH, a merge patch of two fields of one of {_DOCUMENTS:,} documents of {_SIZE:,} bytes, "
        "`Prefer: return=minimal`",
        "rounds": f"{options.rounds}, alternating; each load {options.seconds:g} s; a fresh worker and server each",
        "plain Starlette": "uvicorn, uvloop, PyMongo's async client; `update_one` with `$set`, nothing checked; "
        "one change stream, a task and a queue for each client (`scripts/bench/peers/starlette.py`)",
    }


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    bench = _Bench(options.seconds, [int(text) for text in options.together.split(",")])
    names = [name for name in (OURS, PLAIN) if name in options.only.split(",")]
    async with crowd() as clients, AsyncMongoClient[Any](deployment.uri) as client:
        await client.admin.command({"setParameter": 1, "journalCommitInterval": _JOURNAL_MS})
        for number in range(options.rounds):
            for name in names if number % 2 == 0 else reversed(names):
                serving = _ours if name == OURS else _plain
                async with serving(deployment, clients, client, f"writes_{number}") as server:
                    await bench.round(server)
                await client.drop_database(server.docs.database.name)
    return bench.tables()


@dataclass
class _Server:
    """A server that takes writes. `head`: how many events it has sent, or will send, its clients."""

    name: str
    pids: Mapping[str, int]
    port: int
    log: str
    docs: AsyncCollection[Any]
    crowd: CrowdProcess
    write: Write
    clients: int = 0
    head: int = 0

    async def open(self, clients: int) -> None:
        """Have so many clients, all at the head."""
        if clients == self.clients:
            return
        await self.crowd.ask("begin", port=self.port, log=self.log, documents=_DOCUMENTS, overtaking=True)
        await self.crowd.ask("open", transport="websocket", count=clients, seq=self.head, timed=True)
        self.clients = clients

    async def warm_up(self) -> None:
        """Bring a new server, and a new collection, to the state that they stay in."""
        await self.open(1)
        await self._made(_closed(32), self.write, _WARM_UP)

    async def measure(self, load: Load, write: Write, seconds: float) -> dict[str, float]:
        """Figures of a load. Raises `WrongError` where a client has not received each write once."""
        await self._made(load, write, _WARM * seconds)
        used = {name: cpu_seconds(pid) for name, pid in self.pids.items()}
        acks, late, took = await self._made(load, write, seconds)
        used = {name: cpu_seconds(pid) - used[name] for name, pid in self.pids.items()}
        return {
            "writes/s": len(acks) / took,
            **{f"ack {name}": value for name, value in percentiles(acks).items() if name != "p95"},
            **{f"received {name}": late[name] for name in ("p50", "p99")},
            **{f"{name} ms": 1000 * cpu / len(acks) for name, cpu in used.items()},
            "deliveries/core-s": self.clients * len(acks) / used["server"],
        }

    async def _made(self, load: Load, write: Write, seconds: float) -> tuple[list[float], dict[str, float], float]:
        """Have the writes made: the ms until each was acknowledged, how late clients were, and the seconds it took."""
        began = time.monotonic()
        acks = await load(write, self.head + 1, seconds)
        took = time.monotonic() - began
        self.head += len(acks)
        await self.crowd.ask("exact", seq=self.head, seconds=_PATIENCE)
        return acks, await self.crowd.ask("delays"), took


Figures = dict[str, dict[str, float]]


class _Bench:
    """The figures of all rounds, and those of each system's last one."""

    def __init__(self, seconds: float, together: list[int]) -> None:
        self._seconds = seconds
        self._together = together
        self._rows = {title: empty_rows() for title in _TABLES}
        self._last: dict[str, Figures] = {}

    async def round(self, server: _Server) -> None:
        """Every load, of a server that is new. Ratios are made once both systems had their turn."""
        self._last[server.name] = last = {}
        await server.warm_up()
        several = [(_CLIENTS, together) for together in self._together]
        for clients, together in [(1, 32), (_CLIENTS, 1), *several, (_MANY, 32)]:
            await server.open(clients)
            row = f"{together} at a time, {clients} {'clients' if clients > 1 else 'client'}"
            last[row] = await self._note("Most writes", row, server, _closed(together), server.write)
        await server.open(_CLIENTS)
        for rate in (100.0, 500.0):
            row = f"{rate:g}/s, {_CLIENTS} clients"
            last[row] = await self._note("Open loop", row, server, _open(rate), server.write)
        if server.name == OURS:
            row = f"w: 1, {_CLIENTS} clients"
            await self._note("Foreign writes", row, server, _open(_FOREIGN_RATE), _straight(server.docs))
        if self._last.keys() >= {OURS, PLAIN}:
            self._compare(self._last.pop(OURS), self._last.pop(PLAIN))

    async def _note(self, title: str, row: str, server: _Server, load: Load, write: Write) -> dict[str, float]:
        figures = await server.measure(load, write, self._seconds)
        say(f"{server.name}, {row}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()))
        note(self._rows[title][f"{server.name}, {row}"], figures)
        return figures

    def _compare(self, ours: Figures, plain: Figures) -> None:
        for row, figures in ours.items():
            found = self._rows["Ratios"][row]
            for name, value in figures.items():
                if name in plain[row]:
                    found[f"{name} of plain"].append(value / plain[row][name])
            found["received of own ack"].append(figures["received p50"] / figures["ack p50"])

    def tables(self) -> list[Table]:
        return [Table(title, about, self._rows[title]) for title, about in _TABLES.items() if self._rows[title]]


_TABLES: Final = {"Ratios": _RATIOS, "Most writes": _MOST, "Open loop": _OPEN, "Foreign writes": _FOREIGN}


def _closed(together: int) -> Load:
    return lambda write, first, seconds: closed_loop(write, first, together, seconds)


def _open(rate: float) -> Load:
    return lambda write, first, seconds: open_loop(write, first, max(1, round(seconds * rate)), rate)


def _straight(docs: AsyncCollection[Any]) -> Write:
    weak = docs.with_options(write_concern=WriteConcern(1))

    async def write(number: int, at: float) -> None:
        await weak.update_one({"_id": _target(number)}, {"$set": _change(number, at)})

    return write


def _target(number: int) -> int:
    return (number - 1) % _DOCUMENTS


def _change(number: int, at: float) -> dict[str, Any]:
    return {"n": number, "at": at}


def _patching(port: int) -> AbstractAsyncContextManager[Write]:
    path = f"/v1/collections/{SHAPE}/documents/int:"
    return requesting(port, "PATCH", lambda number: f"{path}{_target(number)}", _HEADERS, _change, connections=128)


@asynccontextmanager
async def _ours(
    deployment: Deployment, clients: CrowdProcess, client: AsyncMongoClient[Any], name: str
) -> AsyncIterator[_Server]:
    async with staged(deployment, clients, name, _DOCUMENTS, _SIZE) as stage, stage.serving() as pid:
        docs = client[stage.settings.database][SHAPE]
        pids = {"server": pid, "worker": stage.worker, "mongod": deployment.pid}
        async with _patching(stage.settings.port) as write:
            yield _Server(OURS, pids, stage.settings.port, stage.log.name, docs, clients, write)


@asynccontextmanager
async def _plain(
    deployment: Deployment, clients: CrowdProcess, client: AsyncMongoClient[Any], name: str
) -> AsyncIterator[_Server]:
    database = f"{name}_plain"
    docs = client[database][SHAPE]
    await docs.insert_many([document_of(number, 0.0, _SIZE, n=0) for number in range(_DOCUMENTS)])
    async with peer("starlette", "writes", deployment.uri, database) as (process, port):
        await process.ask("begin", seq=0)
        pids = {"server": process.pid, "mongod": deployment.pid}
        async with _patching(port) as write:
            yield _Server(PLAIN, pids, port, frames.LOG, docs, clients, write)
