"""Clients: what the client packages weigh, hold, and how fast they are, in Chromium, Node.js and Python.

Documents of 300 bytes, of one collection. Sizes are those of a bundle by esbuild, minified. A page is in a browser of
its own, with the disk's cache as it is. Beside: RxDB with its storage on IndexedDB (Dexie) and the replication with its
server, set up as its documentation does, for one tab (`multiInstance: false`), 1,000 documents at a time, and in one
round only. PowerSync's package is only weighed: its service comes as a container.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, Final

from eventsync.dev import mongod
from scripts.bench.clients.exactness import SIZE, WrongError
from scripts.bench.clients.processes import asked, load_generator
from scripts.bench.deployment import Deployment, memory
from scripts.bench.installed import installed
from scripts.bench.packages.pages import FOR_RXDB, HERE, PACKAGE, PEERS, page, served, size, write_pages
from scripts.bench.report import Figures, Goal, Rows, Table
from scripts.bench.stage import Stage, staged, until
from support.peers import chromium

_BATCH: Final = 1000
"""Documents that RxDB pulls at a time."""

_CORE, _REST = (
    'export * from "./src/engine.js";',
    'export * from "./src/client.js"; export * from "./src/adapters/idb.js";',
)
_REACT: Final = 'export * from "./src/adapters/react.js";'
_RXDB: Final = """\
export { createRxDatabase } from "rxdb/plugins/core"; export { getRxStorageDexie } from "rxdb/plugins/storage-dexie";
export { replicateServer } from "rxdb-server/plugins/replication-server";"""
_POWERSYNC: Final = 'export * from "@powersync/web";'

_KINDS: Final = ("core", "core, alone", "client", "client, alone")

_SIZES: Final = """\
What an application loads: *core* is the client without I/O, *all* has transports, writes and IndexedDB, *RxDB* its
core, the storage and the replication, and *PowerSync* the JavaScript of its page; its SQLite, which is WebAssembly, and
its workers come on top. React itself is not counted."""

_RATES: Final = """\
Patches of one field by second of CPU, each from the text of its message on (*core*: documents and positions; *client*:
also what the application sees, and own writes over it). 100 events a frame, or *alone*. *with SQLite*: each frame is
one transaction of the store."""

_STARTS: Final = """\
A page that follows all documents. *first*: from nothing until it has caught up (*exact s*), and until that is on the
disk (*stored s*). *again*: another browser is started, and so many documents have changed; *usable ms*: until all that
is stored is in memory, *50 ms*: until a query of fifty is answered, *exact ms*: until it has caught up. *CPU ms*: of
all processes of the browser, until the end. *heap MiB*: of the page, with all documents, after a collection. RxDB holds
the documents of a query of all."""

_MEMORY: Final = """\
The Python client in memory: *s* until it has caught up, and *MiB* more than before, unshared; *of the JSON*: of the
bytes of the documents' text."""

_SIZE_TITLE, _RATE_TITLE, _START_TITLE = "Sizes", "Small patches", "Start"
GOALS: Final = (
    Goal("the core, gzip kB", _SIZE_TITLE, "core", "gzip kB", 12.0),
    Goal("everything but TanStack, gzip kB", _SIZE_TITLE, "all", "gzip kB", 20.0),
    Goal("100,000 documents usable from IndexedDB, ms", _START_TITLE, "eventsync, 100,000, again", "usable ms", 1000.0),
    Goal("small patches by second of CPU, in Chromium", _RATE_TITLE, "Chromium", "core", 50_000.0, at_least=True),
    Goal("… in Node.js", _RATE_TITLE, "Node.js", "core", 50_000.0, at_least=True),
    Goal("… in Python", _RATE_TITLE, "Python", "core", 30_000.0, at_least=True),
)

OPTIONS: Final = {
    "documents": (100_000, "documents"),
    "missed": (10_000, "changes while the page is closed"),
    "fewer": (10_000, "documents beside RxDB"),
    "fewer_missed": (1000, "changes beside RxDB"),
    "patches": (200_000, "small patches for a rate"),
    "rounds": (3, "rounds"),
    "beside": (("rxdb", "powersync"), "packages of other makes"),
}
QUICK: Final = "--documents 2000 --missed 200 --patches 5000 --rounds 1 --beside="


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact, or a tool is missing."""
    if (reason := chromium.missing()) or shutil.which("node") is None:
        raise WrongError(reason or "needs Node.js")
    if options.beside and not installed():
        raise WrongError("the packages of other makes can't be installed (scripts/bench/peers/node/install)")
    rates, starts, memories = Rows(), Rows(), Rows()
    sizes = _sizes(options.beside)
    with tempfile.TemporaryDirectory(prefix="bench-pages-") as name:
        folder, port = Path(name), mongod.free_port()
        write_pages(folder, peers="rxdb" in options.beside)
        with served(folder, port) as url:
            for number in range(options.rounds):
                round_ = _Round(deployment, options, folder, url, number)
                await round_.rates(rates)
                await round_.ours(starts, memories, options.documents, options.missed)
                if "rxdb" in options.beside and number == 0:
                    await round_.ours(starts, memories, options.fewer, options.fewer_missed)
                    await round_.rxdb(starts, options.fewer, options.fewer_missed)
    return [
        Table(_SIZE_TITLE, _SIZES, sizes),
        Table(_RATE_TITLE, _RATES, rates),
        Table(_START_TITLE, _STARTS, starts),
        Table("Memory in Python", _MEMORY, memories),
    ]


def _sizes(beside: tuple[str, ...]) -> Rows:
    rows = Rows()
    rows.note("core", size(_CORE, PACKAGE))
    whole = _REST + (_REACT if (PACKAGE / "src/adapters/react.js").exists() else "")
    rows.note("all", size(whole, PACKAGE, "--external:react"))
    if "rxdb" in beside:
        rows.note("RxDB", size(_RXDB, PEERS, FOR_RXDB))
    if "powersync" in beside:
        rows.note("PowerSync", size(_POWERSYNC, PEERS))
    return rows


class _Round:
    """One round of all measurements; its browsers begin without any data."""

    def __init__(
        self, deployment: Deployment, options: argparse.Namespace, folder: Path, url: str, number: int
    ) -> None:
        self._deployment, self._options = deployment, options
        self._folder, self._url, self._number = folder, url, number
        self._profiles = folder / f"profiles_{number}"

    async def rates(self, rows: Rows) -> None:
        """Measure the cores, one after another."""
        words = {"documents": self._options.documents, "size": SIZE, "patches": self._options.patches}
        async with page(f"{self._url}/page.html", self._profiles / "rates") as found:
            rows.note("Chromium", {kind: await found.rate(kind, **words) for kind in _KINDS})
        command = ["node", str(HERE / "apply.mjs"), json.dumps(words)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
        rows.note("Node.js", json.loads(done.stdout))
        async with asked(sys.executable, "-m", "scripts.bench.packages.python") as python:
            rows.note("Python", await python.ask("rates", **words))

    async def ours(self, starts: Rows, memories: Rows, documents: int, missed: int) -> None:
        """Measure a page and a Python program that follow a real server."""
        name = f"packages_{self._number}_{documents}"
        async with (
            load_generator() as clients,
            staged(self._deployment, clients, name, documents, allowed_origins=(self._url,)) as stage,
            stage.serving(),
        ):
            server = f"http://127.0.0.1:{stage.settings.port}"
            script, profile = f"{self._url}/page.html", self._profiles / name
            async with page(script, profile) as found:
                _note_first(starts, f"eventsync, {documents:,}", await _followed(found.follow(server), documents, 0))
            await self._python(server, memories, documents)
            await stage.write(1, missed)
            await until("the changes", lambda: _written(stage, missed))
            async with page(script, profile) as found:
                got = await _followed(found.follow(server), documents, missed)
                _note_again(starts, f"eventsync, {documents:,}", {**got, "heap": await found.heap()})

    async def _python(self, server: str, rows: Rows, documents: int) -> None:
        async with asked(sys.executable, "-m", "scripts.bench.packages.python") as python:
            await python.ask("ready")
            before = memory(python.pid)
            got = await _followed(python.ask("follow", url=server), documents, 0)
            more = (memory(python.pid) - before) / 1024
            text = documents * SIZE / 2**20
            rows.note(f"{documents:,} documents", {"s": got["s"], "MiB": more, "of the JSON": more / text})
            await python.ask("leave")

    async def rxdb(self, starts: Rows, documents: int, missed: int) -> None:
        """Measure a page of RxDB that replicates with its own server."""
        port, name = mongod.free_port(), f"RxDB, {documents:,}"
        server = f"http://127.0.0.1:{port}"
        words = (str(port), self._deployment.uri, f"rxdb_{self._number}", str(PEERS), str(self._folder))
        script, profile = f"{server}/rxdb_page.html", self._profiles / "rxdb"
        async with asked("node", str(HERE / "rxdb_server.mjs"), *words) as process:
            await process.ask("fill", count=documents, size=SIZE)
            async with page(script, profile) as found:
                _note_first(starts, name, await _followed(found.follow(server, batch=_BATCH), documents, 0))
            await process.ask("change", count=missed, size=SIZE)
            async with page(script, profile) as found:
                got = await _followed(found.follow(server, batch=_BATCH), documents, missed)
                _note_again(starts, name, {**got, "heap": await found.heap()})


async def _followed(asking: Awaitable[dict[str, Any]], documents: int, changes: int) -> dict[str, Any]:
    """Wait for an answer; raise `WrongError` unless it has all documents, as they are after so many changes."""
    got = await asking
    wanted = sum(range(max(1, changes - documents + 1), changes + 1))
    if (got["count"], got["sum"]) != (documents, wanted):
        raise WrongError(f"{got} of {documents} documents whose numbers are {wanted} together")
    return got


async def _written(stage: Stage, seq: int) -> bool | None:
    return await stage.head() >= seq or None


def _note_first(rows: Rows, name: str, got: Mapping[str, float]) -> None:
    stored: Figures = {"stored s": got["stored"] / 1000} if "stored" in got else {}
    rows.note(f"{name}, first", {"exact s": got["exact"] / 1000, **stored, "CPU ms": got["cpu"]})


def _note_again(rows: Rows, name: str, got: Mapping[str, float]) -> None:
    first: Figures = {"50 ms": got["first"]} if "first" in got else {}
    figures = {"usable ms": got["usable"], **first, "exact ms": got["exact"], "CPU ms": got["cpu"]}
    rows.note(f"{name}, again", figures | {"heap MiB": got["heap"]})
