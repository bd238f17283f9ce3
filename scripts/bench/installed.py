"""Peers: eventsync beside what else there is, with the same documents, writes and client process.

The servers that one writes in an afternoon (naive, twin: `scripts/bench/peers`), and installed ones: socket.io with its
MongoDB adapter, Feathers, Parse Server LiveQuery, RxDB Server. eventsync has to be exact, or there are no figures; of
the others it is told what they leave out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pymongo import AsyncMongoClient

from eventsync.dev import mongod
from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess, asked, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod
from scripts.bench.end_to_end_writers import Write, open_loop, posting, straight
from scripts.bench.exact import run_exact
from scripts.bench.memory import Memory
from scripts.bench.peers import frames
from scripts.bench.peers.process import peer
from scripts.bench.percentiles import percentiles
from scripts.bench.report import Report, Table
from scripts.bench.sessions_stage import raise_open_files, say, staged

_HERE: Final = Path(__file__).with_name("peers") / "node"
_MODULES: Final = Path(".venv/bench-peers").resolve()
_QUIET: Final = 3000
"""Milliseconds without an event after which no more is expected."""

_WARM: Final = 0.5

Rows = defaultdict[str, defaultdict[str, list[float]]]

_LIVE: Final = """\
*p50* to *p99*: ms from a write's intended time until each client has its event; *ack p50*: until the write was
acknowledged (majority, journaled). *µs a delivery*: CPU of the server process by event and client (of eventsync with
its worker's: *µs with worker*); *mongod µs*: of MongoDB, by write. *KiB a client*: the server's memory, by connection.
*received*: of all deliveries that there had to be; *doubled*: those that came twice."""

_GONE: Final = """\
All clients' sockets are destroyed; so many writes; all come back at once, with what each protocol has to resume with
(eventsync: its state vector; socket.io: connection state recovery; RxDB: its checkpoint). *missed events that came*: of
all that were written meanwhile; *ms*: until the last one, where all came."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server: its processes, how its clients connect, and how one writes to it."""

    pid: int
    make: str
    how: Mapping[str, str]
    write: Write
    worker: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A server's own way to make a document."""

    path: str
    event: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


_INSTALLED: Final = {
    "socketio": Route("/docs", "created"),
    "feathers": Route("/docs", "docs created"),
    "parse": Route("/parse/classes/Docs", "", {"X-Parse-Application-Id": "bench"}),
    "rxdb": Route("/docs"),
}
_NAMES: Final = {
    "eventsync": "eventsync",
    "direct": "eventsync, of MongoDB's writes",
    "twin": "twin (one change stream)",
    "naive": "naive (a change stream a client)",
    "socketio": "socket.io + MongoDB adapter",
    "feathers": "Feathers",
    "parse": "Parse LiveQuery",
    "rxdb": "RxDB Server",
}


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Peers: eventsync beside naive servers, socket.io, Feathers, Parse LiveQuery and RxDB Server."""
    parser.add_argument("--clients", type=int, default=100, help="clients (100)")
    parser.add_argument("--rate", type=float, default=100.0, help="writes a second (100)")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long (4)")
    parser.add_argument("--missed", type=int, default=1000, help="writes while all clients are gone (1000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--only", default=",".join(_NAMES), help="some of them")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where eventsync was not exact, or where Node's packages can't be had."""
    raise_open_files()
    if not _installed():
        sys.exit("no Node, or its packages can't be installed (scripts/bench/peers/node/install)")
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    versions = json.loads((_HERE / "package.json").read_text())["dependencies"]
    names = (
        "socket.io",
        "@socket.io/mongo-adapter",
        "@feathersjs/feathers",
        "parse-server",
        "rxdb-server",
        "rxdb",
        "mongodb",
        "ws",
    )
    return Report(
        "Peers",
        "scripts/bench/run peers",
        {
            "processes": "mongod (6.0.5, one node), the server (and eventsync's worker), all clients in one Node "
            "process, and the writer share the CPUs; all over loopback",
            "load": f"{options.clients} clients, {options.rate:g} documents of 1 KiB/s for {options.seconds:g} s",
            "writes": "by each server's own route (HTTP), which answers once MongoDB has acknowledged by a majority, "
            "journaled; to twin and naive straight into MongoDB, which is all they see, and to eventsync both ways",
            "rounds": f"{options.rounds}, alternating; a fresh server each time",
            "servers": "set up as their documentation does, WebSocket (RxDB: SSE) only, without compression "
            "(`scripts/bench/peers/node/servers.mjs`)",
            "not run": "PowerSync: its server is a Docker image, and no npm package",
            "packages": ", ".join(f"{name} {versions[name]}" for name in names),
        },
        tables,
    )


def _installed() -> bool:
    if shutil.which("node") is None or shutil.which("npm") is None:
        return False
    wanted, there = _HERE / "package.json", _MODULES / "package.json"
    if (_MODULES / "node_modules/ws").is_dir() and there.exists() and there.read_bytes() == wanted.read_bytes():
        return True
    return subprocess.run([_HERE / "install"], check=False).returncode == 0


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    live, gone = Rows(lambda: defaultdict(list)), Rows(lambda: defaultdict(list))
    names = options.only.split(",")
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else reversed(names):
            async with (
                _serving(deployment, name, f"{name}_{number}") as server,
                asked("node", str(_HERE / "clients.mjs"), str(_MODULES)) as clients,
            ):
                await _Cell(deployment, server, clients, options).measured(_NAMES[name], live, gone)
    return [Table("Live", _LIVE, live), Table("Gone and back", _GONE, gone)]


@asynccontextmanager
async def _serving(deployment: Deployment, name: str, database: str) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        if name in {"eventsync", "direct"}:
            # The crowd is only there to say that the collection is tracked.
            crowd_ = await stack.enter_async_context(crowd())
            stage = await stack.enter_async_context(staged(deployment, crowd_, database, 0))
            pid = await stack.enter_async_context(stage.serving())
            await stage.ready()
            port = stage.settings.port
            how = {"url": f"ws://127.0.0.1:{port}", "position": f"{stage.log.name}:0", "protocol": "eventsync.v1"}
            if name == "direct":
                write = straight(stage.stores.data[SHAPE], _document)
            else:
                route = f"/v1/collections/{SHAPE}/documents"
                write = await stack.enter_async_context(posting(port, route, {"Prefer": "return=minimal"}, _document))
            yield Running(pid, "eventsync", how, write, stage.worker)
        elif name in _INSTALLED:
            route_ = _INSTALLED[name]
            port = mongod.free_port()
            words = (name, str(port), deployment.uri, database, str(_MODULES))
            process = await stack.enter_async_context(asked("node", str(_HERE / "servers.mjs"), *words))
            await process.ask("listen")
            make = _document if name == "socketio" else _without_id
            how = {"url": f"{'ws' if name == 'parse' else 'http'}://127.0.0.1:{port}", "event": route_.event}
            write = await stack.enter_async_context(posting(port, route_.path, route_.headers, make))
            yield Running(process.pid, name, how, write)
        else:
            process, port = await stack.enter_async_context(peer(name, deployment.uri, database))
            client = await stack.enter_async_context(AsyncMongoClient[Any](deployment.uri))
            docs = client[database][SHAPE]
            await docs.database.create_collection(SHAPE)
            await process.ask("listen")
            how = {"url": f"ws://127.0.0.1:{port}", "position": f"{frames.LOG}:0"}
            yield Running(process.pid, "eventsync", how, straight(docs, _document))


def _document(number: int, at: float) -> dict[str, Any]:
    return {"_id": number} | _without_id(number, at)


def _without_id(number: int, at: float) -> dict[str, Any]:
    """Feathers and Parse make ids themselves."""
    return {"n": number, "at": at, "text": "x" * 960}


class _Cell:
    """One server, its clients, and what is written to it."""

    def __init__(
        self, deployment: Deployment, server: Running, clients: CrowdProcess, options: argparse.Namespace
    ) -> None:
        self._deployment = deployment
        self._server = server
        self._clients = clients
        self._options = options
        self._written = 0

    async def measured(self, name: str, live: Rows, gone: Rows) -> None:
        options, server, clients = self._options, self._server, self._clients
        count = options.clients
        empty = Memory.of(server.pid).uss
        await clients.ask("open", make=server.make, count=count, **server.how)
        memory = (Memory.of(server.pid).uss - empty) / count
        await self._write(round(_WARM * options.rate))
        await clients.ask("delays")
        pids = {"server": server.pid, "worker": server.worker or server.pid, "mongod": self._deployment.pid}
        used = {part: cpu_seconds(pid) for part, pid in pids.items()}
        writes = round(options.seconds * options.rate)
        acks = await self._write(writes)
        used = {part: cpu_seconds(pid) - used[part] for part, pid in pids.items()}
        late, counted = await clients.ask("delays"), await clients.ask("received", expected=0, quiet=0)
        deliveries = writes * count
        worker = used["worker"] if server.worker else 0.0
        figures = {
            **{part: late[part] or 0.0 for part in ("p50", "p95", "p99")},
            "ack p50": percentiles(acks)["p50"],
            "µs a delivery": used["server"] / deliveries * 1e6,
            "µs with worker": (used["server"] + worker) / deliveries * 1e6,
            "mongod µs": used["mongod"] / writes * 1e6,
            "KiB a client": memory,
            "received": counted["received"] / (self._written * count),
            "doubled": counted["doubled"],
        }
        _note(live[name], figures)
        say(f"{name}: " + ", ".join(f"{column} {value:.2f}" for column, value in figures.items()))
        before = counted["received"]
        await clients.ask("cut")
        await self._write(options.missed, counted=False)
        back = await clients.ask("back", expected=self._written, quiet=_QUIET)
        came = (back["received"] - before) / (options.missed * count)
        figures = {"missed events that came": came, "doubled": back["doubled"], "ms": back["ms"] if came == 1 else 0.0}
        _note(gone[name], figures)
        say(f"{name}: {figures}")
        if server.worker and (came != 1 or back["doubled"]):
            raise WrongError(f"clients that came back had {came:.3f} of what they had missed")

    async def _write(self, count: int, *, counted: bool = True) -> list[float]:
        """In an open loop; then wait until everybody has it, or nothing comes any more. Raises `WrongError`."""
        first, self._written = self._written + 1, self._written + count
        acks = await open_loop(self._server.write, first, count, self._options.rate * (1 if counted else 3))
        if counted:
            found = await self._clients.ask("received", expected=self._written, quiet=_QUIET)
            wrong = found["received"] != self._written * self._options.clients or found["doubled"]
            if self._server.worker and wrong:
                raise WrongError(f"{self._written} events to {self._options.clients} clients came as {found}")
        return acks


def _note(row: defaultdict[str, list[float]], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        row[name].append(value)
