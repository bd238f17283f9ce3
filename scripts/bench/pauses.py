"""Pauses: each route of a server is asked for the worst that it allows, and somebody else whether it is healthy."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import httpx

from eventsync.dev import mongod
from eventsync.main import make_server
from eventsync.process import event_loop
from eventsync.process.garbage_collection import collect_rarely
from eventsync.process.memory import return_free_memory
from eventsync.settings import Settings
from scripts.bench.deployment import Deployment, fresh_mongod, running
from scripts.bench.pulse import Pulse, pulse
from scripts.bench.report import Report, Table
from scripts.bench.ticks import Ticks
from scripts.bench.worst import SETTINGS, WORST, Client, grow, is_grown

Figures = dict[str, float]
Rows = dict[str, dict[str, list[float]]]

_PERIOD: Final = 0.01
_PATIENCE: Final = 60.0
_LOOK: Final = 0.05

_TEXT: Final = """\
*pause*: the most CPU time, in ms, that the thread of the server's event loop spends between two ticks of a timer of
1 ms: what others take from the machine does not count. *healthz*: ms from a question's intended time to its answer,
meanwhile, asked every 10 ms by another process, over a new connection each time; here the machine counts, with MongoDB,
the worker, helper processes and both clients on the same CPUs. *asked*: how many. Goals: 50 ms, and a p99 of 100 ms."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Pauses of a server's event loop, each route asked for its worst, and `/healthz` meanwhile."""
    del parser
    return run


def run(_: argparse.Namespace) -> Report:
    """One server, one worker, on a mongod of its own."""
    with fresh_mongod() as deployment:
        rows = asyncio.run(_measured(deployment))
    return Report(
        "Pauses",
        "scripts/bench/run pauses",
        {
            "documents": "12 MiB of a million lists, 10 MiB of control characters, 16 of 1 MB, 100,000 lists",
            "rounds": "one",
        },
        [Table("Pauses", _TEXT, rows)],
    )


async def _measured(deployment: Deployment) -> Rows:
    port = mongod.free_port()
    settings = _settings(deployment.uri, port)
    url, rows = f"http://127.0.0.1:{port}", Rows()
    with running("worker", settings, deployment.directory):
        async with (
            _asked("serve", deployment.uri, port) as server,
            httpx.AsyncClient(base_url=url, timeout=_PATIENCE) as http,
        ):
            client = Client(http, url)
            await _until(lambda: _is_tracked(client))
            async with _asked("probe", deployment.uri, port) as probe:
                for name, ask in [("growing", grow), *((f"{at[0]} {at[1]}", ask) for at, ask in WORST.items())]:
                    await server.take()
                    await probe.take()
                    await ask(client)
                    rows[name] = {key: [value] for key, value in (await server.take() | await probe.take()).items()}
                    if ask is grow:
                        await _until(lambda: is_grown(client))
                rows["all, as long as it took"] = _over_all(rows, await probe.take(whole=True))
    return rows


def _over_all(rows: Rows, healthz: Figures) -> dict[str, list[float]]:
    longest = max(row["pause"][0] for row in rows.values())
    return {key: [value] for key, value in ({"pause": longest} | healthz).items()}


def _settings(uri: str, port: int) -> Settings:
    return Settings(mongodb_uri=uri, database="bench", port=port, **SETTINGS)


async def _until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not await reached():  # noqa: ASYNC110 - the event is in another process
            await asyncio.sleep(_LOOK)


async def _is_tracked(client: Client) -> bool:
    try:
        ready = await client.http.get("/readyz")
        listed = await client.http.get("/v1/collections")
    except httpx.TransportError:
        return False
    return ready.status_code == 200 and "things" in {item["name"] for item in listed.json().get("collections", ())}


# --- processes that are asked for their figures -----------------------------------------------------------------------


class _Asked:
    """A process of this module, which answers each line with figures since the last one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def take(self, *, whole: bool = False) -> Figures:
        """Return the figures since the last time, or all of them."""
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise EOFError
        to.write(b"whole\n" if whole else b"since\n")
        found: Figures = json.loads(await back.readline())
        return found


@asynccontextmanager
async def _asked(role: str, uri: str, port: int) -> AsyncIterator[_Asked]:
    """Run `serve` or `probe` in a process of its own while the block runs."""
    code = f"from scripts.bench.pauses import {role}; {role}()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, uri, str(port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield _Asked(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()  # it ends with its input
        await process.wait()


def serve() -> None:
    """Be a server, as `eventsync serve` is one, that knows the longest pause of its loop."""
    collect_rarely(waited_for=True)
    return_free_memory()
    event_loop.run(_serve(_settings(sys.argv[1], int(sys.argv[2]))))


async def _serve(settings: Settings) -> None:
    server, ticks = make_server(settings), Ticks()

    def take(_: str) -> Figures:
        longest, ticks.longest = ticks.longest, 0.0
        return {"pause": longest * 1000}

    def end() -> None:
        server.should_exit = True

    ticks.start()
    _answer(take, end)
    await server.serve()


def probe() -> None:
    """Ask the server all the time whether it is healthy."""
    event_loop.run(_probe(int(sys.argv[2])))


async def _probe(port: int) -> None:
    over, seen = asyncio.Event(), 0
    async with pulse(port, _PERIOD) as found:

        def take(word: str) -> Figures:
            nonlocal seen
            some = found.seconds if word == "whole" else found.seconds[seen:]
            seen = len(found.seconds)
            return Pulse(port, some).figures() | {"asked": float(len(some))} if some else {"asked": 0.0}

        _answer(take, over.set)
        await over.wait()


def _answer(take: Callable[[str], Figures], end: Callable[[], None]) -> None:
    """Answer each line of the standard input; call `end` at its end."""
    loop, lines = asyncio.get_running_loop(), os.fdopen(0, "rb", buffering=0)

    def read() -> None:
        if not (line := lines.readline()):
            loop.remove_reader(0)
            end()
            return
        os.write(1, json.dumps(take(line.decode().strip())).encode() + b"\n")

    loop.add_reader(0, read)
