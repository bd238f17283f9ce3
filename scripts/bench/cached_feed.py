"""The log as a feed behind a cache: a crowd that catches up through nginx, and what it costs the server."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson

from eventsync.dev import mongod
from eventsync.domain.positions import Position, Seq
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod, running
from scripts.bench.load import Kind
from scripts.bench.long_log import LongLog, until
from scripts.bench.nginx import Nginx, documented, missing, running_nginx
from scripts.bench.report import Report, Table

_MIB = 1024 * 1024
_FEW = 10
"""Clients without a cache: each costs what the first does."""

_COST = """\
All clients begin at once, at the log's first position, and end at its newest event. *upstream requests* are those that
have reached the server, *a page* how many of them each full page has cost (1 is the least); CPU is of the server, and
of nginx, for all clients together. The crowd shares the machine with them. *seconds*: until the last one is there. The
last page is not full, so it is not kept: each client's request for it reaches the server."""


class FailedError(Exception):
    """There is no figure."""


@dataclass(frozen=True, slots=True)
class Crowd:
    """Result of a crowd's catch-up."""

    seconds: float
    pages: int
    bytes: int


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """The log as a feed behind nginx's cache, as docs/guides/nginx.md has it."""
    parser.add_argument("--events", type=int, default=100_000, help="events of the log (100000)")
    parser.add_argument("--size", type=int, default=300, help="bytes of a document, about (300)")
    parser.add_argument("--clients", type=int, default=100, help="clients that catch up (100)")
    return run


def run(options: argparse.Namespace) -> Report:
    """One log, one server, nginx; the crowd is a process of its own."""
    if (why := missing()) is not None:
        raise FailedError(why)
    with fresh_mongod() as deployment:
        rows = asyncio.run(_measure(deployment, options))
    version = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr.strip()
    return Report(
        "The log as a cached feed",
        "scripts/bench/run cached_feed",
        {
            "log": f"{options.events:,} creations of documents of about {options.size} bytes",
            "clients": f"{options.clients} in one process, all at once",
            "proxy": f"{version.rpartition(' ')[2]}, one worker, configured as docs/guides/nginx.md has it",
        },
        [Table("Catching up", _COST, rows)],
    )


async def _measure(deployment: Deployment, options: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    settings = Settings(
        mongodb_uri=deployment.uri, database="bench", collections=("docs",), port=mongod.free_port(), archive_url="none"
    )
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        with running("worker", settings, deployment.directory):
            found = await until("a log", stores.logs.current)
            await until("the base", lambda: stores.snapshots.stored.newest(found.id, "docs"))
            await Kind("docs", options.size).make(stores.data["docs"], options.events)
            await LongLog(stores, found.id).reached(options.events)
            with running("serve", settings, deployment.directory) as server:
                end = Position(found.id, Seq(options.events))
                return await _crowds(settings.port, server, end, options.clients)


async def _crowds(port: int, server: int, end: Position, clients: int) -> dict[str, dict[str, list[float]]]:
    rows: dict[str, dict[str, list[float]]] = {}
    direct = f"http://127.0.0.1:{port}"
    await until("a server that is ready", lambda: _ready(direct, end))
    async with _cache(direct) as nginx:
        await until("nginx", lambda: _ready(nginx.url, end))
        for title, url, count in (
            ("one client, no cache", direct, 1),
            (f"{_FEW} clients, no cache", direct, _FEW),
            ("one client, empty cache", nginx.url, 1),
            (f"{clients} clients, full cache", nginx.url, clients),
        ):
            access = _Access(nginx) if url == nginx.url else None
            rows[title] = await _row(url, server, nginx.pid, end, count, access)
    async with _cache(direct) as nginx:
        await until("nginx", lambda: _ready(nginx.url, end))
        title = f"{clients} clients, empty cache"
        rows[title] = await _row(nginx.url, server, nginx.pid, end, clients, _Access(nginx))
    return rows


@asynccontextmanager
async def _cache(server: str) -> AsyncIterator[Nginx]:
    """nginx as it is documented, with nothing in its cache."""
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as name:
        async with running_nginx(Path(name), server, documented()) as nginx:
            yield nginx


class _Access:
    """nginx's access log from now on."""

    def __init__(self, nginx: Nginx) -> None:
        self._nginx = nginx
        self._before = len(nginx.requests())

    def pages(self) -> dict[str, list[str]]:
        """URI → what nginx says of each request for it."""
        found: dict[str, list[str]] = defaultdict(list)
        for request in self._nginx.requests()[self._before :]:
            if request.uri.startswith("/v1/sync/log"):
                found[request.uri].append(request.cache)
        return found


async def _row(
    url: str, server: int, nginx: int, end: Position, clients: int, access: _Access | None
) -> dict[str, list[float]]:
    used, proxied = cpu_seconds(server), _tree_seconds(nginx)
    crowd = await _crowd(url, end, clients)
    cpu, proxied = cpu_seconds(server) - used, _tree_seconds(nginx) - proxied
    pages = access.pages() if access else {}
    asked = sum(state != "HIT" for states in pages.values() for state in states) if access else crowd.pages
    full = crowd.pages // clients - 1
    figures = {
        "seconds": crowd.seconds,
        "upstream requests": asked,
        "a page": _each(pages) if access else float(clients),
        "server CPU s": cpu,
        "nginx CPU s": proxied,
        "MiB": crowd.bytes / _MIB,
        "full pages": full,
    }
    return {name: [value] for name, value in figures.items()}


def _each(pages: dict[str, list[str]]) -> float:
    """Requests that reached the server for each page that was kept."""
    kept = [states for states in pages.values() if "HIT" in states or states == ["MISS"]]
    return sum(state != "HIT" for states in kept for state in states) / len(kept) if kept else 0.0


def _tree_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_seconds(pid) + sum(cpu_seconds(int(child)) for child in children)


async def _crowd(url: str, end: Position, clients: int) -> Crowd:
    """In a process of its own, so that its CPU time is nobody else's."""
    code = "import sys, asyncio; from scripts.bench.cached_feed import crowd; asyncio.run(crowd(*sys.argv[1:]))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, url, str(end), str(clients), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise FailedError("the crowd has failed; what it says is above")
    return Crowd(**orjson.loads(out))


async def crowd(url: str, end: str, clients: str) -> None:
    """Have so many clients catch up at once; print what they have got. Raises `FailedError` where one has a hole."""
    goal = Position.parse(end)
    began = time.perf_counter()
    found = await asyncio.gather(*(_catch_up(url, goal) for _ in range(int(clients))))
    seconds = time.perf_counter() - began
    print(
        orjson.dumps(
            {"seconds": seconds, "pages": sum(n for n, _ in found), "bytes": sum(b for _, b in found)}
        ).decode()
    )


async def _catch_up(url: str, goal: Position) -> tuple[int, int]:
    """Over one connection, by hand: a client library would cost more than what is measured."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_MIB)
    position, pages, size = Position(goal.log, Seq(0)), 0, 0
    while position.seq < goal.seq:
        target = f"/v1/sync/log?shape=docs&position={position}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        if not head.startswith("http/1.1 200 "):
            raise FailedError(head)
        length = int(head.partition("content-length: ")[2].partition("\r")[0])
        start, ended = _span(await reader.readexactly(length))
        if start != str(position):
            raise FailedError(f"a page from {start} where {position} was asked for")
        position, pages, size = Position.parse(ended), pages + 1, size + length
    writer.close()
    await writer.wait_closed()
    return pages, size


def _span(body: bytes) -> tuple[str, str]:
    """`from` and `to`, which stand before the events: the crowd is not to be busy with parsing them."""
    head = orjson.loads(body[: body.index(b',"events":')] + b"}")
    return str(head["from"]), str(head["to"])


async def _ready(url: str, end: Position) -> bool | None:
    async with httpx.AsyncClient(base_url=url) as client:
        try:
            answer = await client.get("/readyz")
        except httpx.TransportError:
            return None
    return (answer.status_code == 200 and answer.json()["position"] == str(end)) or None
