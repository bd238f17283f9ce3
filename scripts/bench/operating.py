"""Operating: what scrapes, the access log and open dashboards cost a server, beside one without, at the same time.

Servers that run side by side have the same clients and the same events. What the machine does meanwhile happens to all
of them, so that a few percent can be told apart.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from eventsync.dev import mongod
from scripts.bench.clients.exactness import WrongError
from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.report import Figures, Goal, Rows, Table, alternating
from scripts.bench.stage import Stage, settled, staged
from scripts.bench.writers import PATIENCE, paced, posting
from support.peers.chromium import running_chromium

NEITHER, SCRAPED, LOGGED = "neither", "scraped", "scraped and logged"
SERVERS: Final[Mapping[str, Mapping[str, Any]]] = {
    NEITHER: {},
    SCRAPED: {},
    LOGGED: {"access_log": True, "log_format": "json"},
}
"""The servers of a round → their settings."""

CLOSED, OPEN = "closed", "open"
VIEWS: Final = {
    "overview": "document.querySelectorAll('.stat').length === 6",
    "clients": "document.querySelectorAll('main tbody tr').length > 0",
}
"""A view of the dashboard → the condition that it shows what it has."""

_WARM: Final = 20

_DELIVERIES: Final = """\
CPU of a server, by event and client. The writes of the events, over HTTP, are divided among the servers; each writes a
line of JSON for each request if it is *logged*. *scraped*: `/metrics` as often as `every` says. *of neither*: over the
CPU of the server that is neither, of the same seconds. *beyond*: ms of CPU a second more than that one's, which does
not depend on how much is delivered."""

_DASHBOARDS: Final = """\
CPU of a server with tabs of the dashboard that are open in Chromium, visible and loaded, less that of a server without
any in the same seconds, in % of a core. Nothing is written meanwhile. *without*: the latter. *requests*: of the tabs, a
second."""

GOALS: Final = (
    Goal("scrapes and the access log, CPU of deliveries", "Deliveries", LOGGED, f"of {NEITHER}", 1.03),
    Goal("the dashboard open in ten tabs, % of a core", "Dashboards", "", "% of a core", 2.0),
)

OPTIONS: Final = {
    "rounds": (4, "rounds of the deliveries"),
    "seconds": (30.0, "how long a round takes"),
    "every": (15.0, "seconds between two scrapes, as in deploy/prometheus"),
    "clients": (500, "clients of each server"),
    "rate": (40.0, "events a second"),
    "tabs": (10, "tabs"),
    "watched": (30.0, "how long a view is open"),
}
QUICK: Final = "--rounds 1 --seconds 2 --clients 50 --watched 6"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    costs, watched = Rows(), Rows()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(load_generator()) for _ in SERVERS]
        stage = await stack.enter_async_context(staged(deployment, clients[0], "operating", 0))
        for number, _ in alternating(options.rounds, [None]):
            names = list(SERVERS)[:: 1 if number % 2 == 0 else -1]
            async with _side_by_side(stage, names, clients, options.clients) as servers:
                for name, figures in (await _delivered(servers, options)).items():
                    costs.note(name, figures)
        for view, condition in VIEWS.items():
            async with _side_by_side(stage, (CLOSED, OPEN), clients, options.clients) as servers:
                watched.note(f"{options.tabs} tabs, {view}", await _watched(servers, view, condition, options))
    return [Table("Deliveries", _DELIVERIES, costs), Table("Dashboards", _DASHBOARDS, watched)]


@dataclass(frozen=True, slots=True)
class _Server:
    """A server of several on one log. `clients` is the process of its clients."""

    stage: Stage
    pid: int
    port: int
    clients: Process

    async def metrics(self) -> str:
        """Return a scrape."""
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            return (await client.get(f"http://127.0.0.1:{self.port}/metrics")).raise_for_status().text

    async def scrape(self, every: float) -> None:
        """Scrape each `every` seconds over one connection, as Prometheus does, until cancelled."""
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            while True:
                (await client.get(f"http://127.0.0.1:{self.port}/metrics")).raise_for_status()
                await asyncio.sleep(every)


_Servers = Mapping[str, _Server]


@asynccontextmanager
async def _side_by_side(
    stage: Stage, names: Sequence[str], clients: Sequence[Process], count: int
) -> AsyncIterator[_Servers]:
    """Run these servers, each with `count` clients that follow the collection."""
    async with AsyncExitStack() as stack:
        servers = {}
        for name, process in zip(names, clients, strict=False):
            changed = dict[str, Any](port=mongod.free_port()) | dict(SERVERS.get(name, {}))
            own = replace(stage, settings=stage.settings.model_copy(update=changed), clients=process)
            servers[name] = _Server(own, await stack.enter_async_context(own.serving()), own.settings.port, process)
        for server in servers.values():
            await server.clients.ask("open", transport="websocket", count=count, seq=await stage.head())
        yield servers


async def _delivered(servers: _Servers, options: argparse.Namespace) -> dict[str, Figures]:
    """Write events, and return what their deliveries cost each server."""
    async with AsyncExitStack() as stack:
        writes = [await stack.enter_async_context(posting(server.port)) for server in servers.values()]
        head = await servers[NEITHER].stage.head()

        async def write(count: int) -> int:
            """Return the clients' deliveries of each server once all are made."""
            nonlocal head
            async for _, due in paced(count, options.rate):
                head += 1
                await writes[head % len(writes)](head, due)
            exact = [await server.clients.ask("exact", seq=head, seconds=PATIENCE) for server in servers.values()]
            [events] = {int(found["events"]) for found in exact}
            return events

        before = await write(_WARM)
        scraping = [
            asyncio.create_task(server.scrape(options.every)) for name, server in servers.items() if name != NEITHER
        ]
        try:
            began, cpu = time.monotonic(), Cpu(**{name: server.pid for name, server in servers.items()})
            deliveries = await write(max(1, round(options.seconds * options.rate))) - before
            used, took = cpu.used(), time.monotonic() - began
        finally:
            for task in scraping:
                task.cancel()
    if any(task.done() and not task.cancelled() for task in scraping):
        raise WrongError("a server could not be scraped")
    return {
        name: {
            "µs a delivery": used[name] / deliveries * 1e6,
            f"of {NEITHER}": used[name] / used[NEITHER],
            "beyond": (used[name] - used[NEITHER]) / took * 1000,
            "deliveries/s": deliveries / took,
            "CPU %": 100 * used[name] / took,
        }
        for name in SERVERS
    }


async def _watched(servers: _Servers, view: str, condition: str, options: argparse.Namespace) -> Figures:
    """Open a view of the dashboard in some tabs, and return what they cost the server once they are loaded."""
    address = f"http://127.0.0.1:{servers[OPEN].port}/#/{view}"
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as profile:
        async with running_chromium(Path(profile)) as browser:
            for _ in range(options.tabs):
                page = await browser.visit(address)
                await browser.keep_visible(page)
                await browser.until(page, condition)
            for server in servers.values():
                await settled(server.pid)
            before = _answered(await servers[OPEN].metrics())
            began, cpu = time.monotonic(), Cpu(**{name: server.pid for name, server in servers.items()})
            await asyncio.sleep(options.watched)
            used, took = cpu.used(), time.monotonic() - began
            after = _answered(await servers[OPEN].metrics())
    return {
        "% of a core": 100 * (used[OPEN] - used[CLOSED]) / took,
        "without": 100 * used[CLOSED] / took,
        "requests": (after - before) / took,
    }


def _answered(scrape: str) -> float:
    """Return the number of requests to the admin API in a scrape."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
        if sample.name == "eventsync_http_requests_total" and sample.labels["route"].startswith("/v1/admin")
    )
