"""Peers: eventsync beside a plain Starlette server, socket.io, Parse LiveQuery and RxDB Server.

The same documents of 1 KiB, writes and client process; a fresh server each time. Writes go by each server's own route
(HTTP), which answers once MongoDB has acknowledged; to Starlette straight into MongoDB, and to eventsync both ways. The
servers are set up as their documentation does, WebSocket (RxDB: SSE) only, without compression. eventsync has to be
exact, or there are no figures; of the others the result says what they leave out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pymongo import AsyncMongoClient

from eventsync.dev import mongod
from scripts.bench.clients.exactness import SHAPE, WrongError, document
from scripts.bench.clients.processes import Process, asked, load_generator
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.peers import frames
from scripts.bench.peers.process import peer
from scripts.bench.report import Figures, Rows, Table, alternating, percentiles
from scripts.bench.stage import staged
from scripts.bench.writers import Write, inserting, open_loop, posting

_HERE: Final = Path(__file__).with_name("peers") / "node"
_MODULES: Final = Path(".venv/bench-peers").resolve()
_QUIET: Final = 3000
"""Milliseconds without an event after which no more is expected."""

_WARM: Final = 0.5

_NAMES: Final = {
    "eventsync": "eventsync",
    "direct": "eventsync, of MongoDB's writes",
    "starlette": "Starlette, one change stream",
    "socketio": "socket.io + MongoDB adapter",
    "parse": "Parse LiveQuery",
    "rxdb": "RxDB Server",
}
_ROUTES: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "socketio": ("/docs", {}),
    "parse": ("/parse/classes/Docs", {"X-Parse-Application-Id": "bench"}),
    "rxdb": ("/docs", {}),
}
"""Each server's own path and headers to make a document."""

_PACKAGES: Final = json.loads((_HERE / "package.json").read_text())["dependencies"]

_LIVE: Final = f"""\
*p50* to *p99*: ms from a write's intended time until each client has its event; *ack p50*: until the write was
acknowledged (majority, journaled). *µs a delivery*: CPU of the server process by event and client (of eventsync with
its worker's: *µs with worker*); *mongod µs*: of MongoDB, by write. *received*: of all deliveries that there had to be;
*doubled*: those that came twice. ({", ".join(f"{name} {version}" for name, version in _PACKAGES.items())}.)"""

_GONE: Final = """\
All clients' sockets are destroyed; so many writes; all come back at once, with what each protocol has to resume with
(eventsync: its state vector; socket.io: connection state recovery; RxDB: its checkpoint). *missed events that came*: of
all that were written meanwhile; *ms*: until the last one, where all came."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server: its processes, how its clients connect, and how one writes to it."""

    pid: int
    make: str
    how: dict[str, str]
    write: Write
    worker: int | None = None


OPTIONS: Final = {
    "clients": (100, "clients"),
    "rate": (100.0, "writes a second"),
    "seconds": (4.0, "how long"),
    "missed": (1000, "writes while all clients are gone"),
    "rounds": (3, "rounds"),
    "only": (tuple(_NAMES), "some of them"),
}
QUICK: Final = "--clients 10 --seconds 1 --missed 50 --rounds 1"


def installed() -> bool:
    """Install the packages of other makes, unless they are there. Return False if that can't be done."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return False
    wanted, there = _HERE / "package.json", _MODULES / "package.json"
    if (_MODULES / "node_modules/ws").is_dir() and there.exists() and there.read_bytes() == wanted.read_bytes():
        return True
    return subprocess.run([_HERE / "install"], check=False).returncode == 0


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where eventsync was not exact."""
    if not installed():
        raise WrongError("no Node, or its packages can't be installed (scripts/bench/peers/node/install)")
    live, gone = Rows(), Rows()
    for number, name in alternating(options.rounds, options.only):
        async with (
            _serving(deployment, name, f"{name}_{number}") as server,
            asked("node", str(_HERE / "clients.mjs"), str(_MODULES)) as clients,
        ):
            case = _Case(deployment, server, clients, options)
            live.note(_NAMES[name], await case.live())
            gone.note(_NAMES[name], await case.gone())
    return [Table("Live", _LIVE, live), Table("Gone and back", _GONE, gone)]


@asynccontextmanager
async def _serving(deployment: Deployment, name: str, database: str) -> AsyncIterator[Running]:
    async with AsyncExitStack() as stack:
        if name in {"eventsync", "direct"}:
            clients = await stack.enter_async_context(load_generator())
            stage = await stack.enter_async_context(staged(deployment, clients, database, 0))
            pid, port = await stack.enter_async_context(stage.serving()), stage.settings.port
            how = {"url": f"ws://127.0.0.1:{port}", "position": f"{stage.log}:0", "protocol": "eventsync.v1"}
            post = await stack.enter_async_context(posting(port, make=_document))
            write = inserting(stage.stores.data[SHAPE], _document) if name == "direct" else post
            yield Running(pid, "eventsync", how, write, stage.worker)
        elif name in _ROUTES:
            port, (path, headers) = mongod.free_port(), _ROUTES[name]
            words = (name, str(port), deployment.uri, database, str(_MODULES))
            process = await stack.enter_async_context(asked("node", str(_HERE / "servers.mjs"), *words))
            await process.ask("listen")
            make = _document if name == "socketio" else _without_id
            how = {"url": f"{'ws' if name == 'parse' else 'http'}://127.0.0.1:{port}"}
            write = await stack.enter_async_context(posting(port, path, headers, make))
            yield Running(process.pid, name, how, write)
        else:
            process, port = await stack.enter_async_context(peer(name, "writes", deployment.uri, database))
            client = await stack.enter_async_context(AsyncMongoClient[Any](deployment.uri))
            docs = await client[database].create_collection(SHAPE)
            await process.ask("begin", seq=0)
            how = {"url": f"ws://127.0.0.1:{port}", "position": f"{frames.LOG}:0"}
            yield Running(process.pid, "eventsync", how, inserting(docs, _document))


def _document(number: int, at: float) -> dict[str, Any]:
    return document(number, at, 1020)


def _without_id(number: int, at: float) -> dict[str, Any]:
    """Return a document without an id: Parse makes ids itself."""
    return {name: value for name, value in _document(number, at).items() if name != "_id"}


class _Case:
    """One server, its clients, and what is written to it."""

    def __init__(self, deployment: Deployment, server: Running, clients: Process, options: argparse.Namespace) -> None:
        self._mongod = deployment.pid
        self._server = server
        self._clients = clients
        self._options = options
        self._written = 0

    async def live(self) -> Figures:
        """Measure the load while all clients are connected."""
        options, server, clients = self._options, self._server, self._clients
        await clients.ask("open", make=server.make, count=options.clients, **server.how)
        await self._write(round(_WARM * options.rate))
        await clients.ask("delays")
        pids = {"server": server.pid, "mongod": self._mongod} | ({"worker": server.worker} if server.worker else {})
        cpu, writes = Cpu(**pids), round(options.seconds * options.rate)
        acks = await self._write(writes)
        used = cpu.used()
        late, counted = await clients.ask("delays"), await clients.ask("received", expected=0, quiet=0)
        each = 1e6 / writes / options.clients
        return {
            **{part: late[part] or 0.0 for part in ("p50", "p95", "p99")},
            "ack p50": percentiles(acks)["p50"],
            "µs a delivery": used["server"] * each,
            "µs with worker": (used["server"] + used.get("worker", 0.0)) * each,
            "mongod µs": used["mongod"] / writes * 1e6,
            "received": counted["received"] / (self._written * options.clients),
            "doubled": counted["doubled"],
        }

    async def gone(self) -> Figures:
        """Disconnect all clients while some more is written; then let them come back."""
        options, clients = self._options, self._clients
        before = (await clients.ask("received", expected=0, quiet=0))["received"]
        await clients.ask("cut")
        first, self._written = self._written + 1, self._written + options.missed
        await open_loop(self._server.write, first, options.missed, 3 * options.rate)
        back = await clients.ask("back", expected=self._written, quiet=_QUIET)
        came = (back["received"] - before) / (options.missed * options.clients)
        if self._server.worker and (came != 1 or back["doubled"]):
            raise WrongError(f"clients that came back had {came:.3f} of what they had missed")
        return {"missed events that came": came, "doubled": back["doubled"], "ms": back["ms"] if came == 1 else 0.0}

    async def _write(self, count: int) -> list[float]:
        """Write in an open loop; then wait until all clients have it, or nothing comes any more."""
        first, self._written = self._written + 1, self._written + count
        acks = await open_loop(self._server.write, first, count, self._options.rate)
        found = await self._clients.ask("received", expected=self._written, quiet=_QUIET)
        wrong = found["received"] != self._written * self._options.clients or found["doubled"]
        if self._server.worker and wrong:
            raise WrongError(f"{self._written} events to {self._options.clients} clients came as {found}")
        return acks
