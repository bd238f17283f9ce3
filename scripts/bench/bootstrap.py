"""Bootstrap: a client that has nothing gets everything, alone and with 49 others, beside a raw `find` of the same.

A real worker and server, from the collection itself and from a stored snapshot. The clients only take bytes while it
counts; afterwards each document that each was sent is held against what it has to be.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Final

from pymongo.asynchronous.cursor import AsyncCursor

from eventsync.domain.values.extended_json import CODEC, RAW_CODEC, to_json
from eventsync.settings import Settings
from scripts.bench.crowd.client import SHAPE
from scripts.bench.crowd.messages import WrongError
from scripts.bench.crowd.process import CrowdProcess, crowd
from scripts.bench.deployment import Deployment, cpu_seconds, fresh_mongod
from scripts.bench.exact import run_exact
from scripts.bench.fan_out_sources import beside
from scripts.bench.report import Report, Table
from scripts.bench.sessions_stage import Stage, raise_open_files, say, staged

Rows = defaultdict[str, defaultdict[str, list[float]]]

LIVE, STORED = "read for it", "stored"
_TOGETHER: Final = 50
_LIST: Final = 1000
_PIECE: Final = Settings().frame_bytes
_PATIENCE: Final = 220.0

_RATES: Final = """\
*docs/s* from connecting to having been told that it is live; *first ms*: until the first byte behind the welcome.
*µs a document*: CPU of the server process. *read for it*: from the collection, at one cluster time; *stored*: from a
stored snapshot. *50 together*: connected at once, to a fresh server; the rate is that of all of them, *µs* by document
and client. `find`: PyMongo's `find().sort("_id")` in one process, raw BSON in lists of a thousand that nothing is done
with; *find + encode*: the same, each document decoded and encoded as JSON. *bare write*: as many bytes as the 50 are
sent, in pieces as large, each made once and written to 50 transports. clients' CPU: of the process with all
clients."""

_RATIOS: Final = """\
The rate of one client over that of the raw `find` (goal: at least 0.6) and of `find` + encode, in the same round; and
what the 50th client costs the server, by CPU, (50 together - one) / 49, over what the first does, from the same stored
snapshot and where it is read for it (goal: less than 0.05), and over what a bare write of its bytes does."""


def declare(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Report]:
    """Bootstrap: documents a second for a client that has nothing, and what 49 more cost, beside a raw find."""
    parser.add_argument("--documents", default="10000,100000,1000000", help="numbers of documents (10k, 100k, 1M)")
    parser.add_argument("--together-up-to", type=int, default=100_000, help="documents that 50 clients take (100000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; of a million documents one (3)")
    return run


def run(options: argparse.Namespace) -> Report:
    """Exits with 1 where a client was not exact."""
    raise_open_files()
    with fresh_mongod() as deployment:
        tables = run_exact(_measured(deployment, options))
    return Report(
        "Bootstrap",
        "scripts/bench/run bootstrap",
        {
            "processes": "mongod (6.0.5, one node), a worker that rests, a server, the clients in one process",
            "documents": "of 300 bytes; one collection",
            "rounds": f"{options.rounds}, alternating; a fresh server each time",
            "settings": f"defaults: frames of {Settings().frame_bytes // 1024} KiB",
        },
        tables,
    )


async def _measured(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    rates, ratios = Rows(lambda: defaultdict(list)), Rows(lambda: defaultdict(list))
    async with crowd() as clients:
        for count in [int(text) for text in options.documents.split(",")]:
            async with staged(deployment, clients, f"bootstrap_{count}", count) as stage:
                if await stage.stores.log["snapshots"].find_one({"complete": True}) is None:
                    raise WrongError("there is no stored snapshot")
                for number in range(options.rounds if count < 1_000_000 else 1):
                    kinds = (STORED, LIVE) if number % 2 == 0 else (LIVE, STORED)
                    cell = _Cell(stage, clients, count, together=count <= options.together_up_to)
                    await cell.round(kinds, rates, ratios)
                await stage.stores.data.client.drop_database(stage.settings.database)
                await stage.stores.data.client.drop_database(stage.settings.log_db)
    return [Table("Ratios", _RATIOS, ratios), Table("Rates", _RATES, rates)]


class _Cell:
    """One collection. A round measures each way once, and the floors."""

    def __init__(self, stage: Stage, clients: CrowdProcess, count: int, *, together: bool) -> None:
        self._stage = stage
        self._clients = clients
        self._count = count
        self._together = together

    async def round(self, kinds: tuple[str, ...], rates: Rows, ratios: Rows) -> None:
        found, name = await self._floors(), f"{self._count:,}"
        for kind, figures in found.items():
            _note(rates[f"{kind}, {name}"], figures)
        ones = {}
        for kind in kinds:
            ones[kind] = await self._pulled(kind, 1)
            _note(rates[f"{kind}, {name}"], ones[kind])
        for kind in kinds:
            one = ones[kind]
            row = {f"of {floor}": one["docs/s"] / figures["docs/s"] for floor, figures in found.items()}
            row |= {f"the 50th of {what}": math.nan for what in ("the first", "one read for", "a bare write")}
            if self._together and kind == STORED:
                many = await self._pulled(kind, _TOGETHER)
                _note(rates[f"{kind}, {name}, {_TOGETHER} together"], many)
                one_more = (many["µs a document"] * _TOGETHER - one["µs a document"]) / (_TOGETHER - 1)
                row["the 50th of the first"] = one_more / one["µs a document"]
                row["the 50th of one read for"] = one_more / ones[LIVE]["µs a document"]
                bare = await self._bare(many["MiB/s"] * 2**20 / many["docs/s"])
                _note(rates[f"bare write, {name}, {_TOGETHER} together"], bare)
                row["the 50th of a bare write"] = one_more / bare["µs a document"]
            _note(ratios[f"{kind}, {name}"], row)
            say(f"{kind}, {name}: {row}")

    async def _pulled(self, kind: str, clients: int) -> dict[str, float]:
        stage = self._stage
        async with stage.serving() as pid:
            await stage.ready()
            port = stage.settings.port
            await self._clients.ask("begin", port=port, log=stage.log.name, documents=self._count)
            async with stage.without_snapshots() if kind == LIVE else nullcontext():
                used = cpu_seconds(pid)
                found = await self._clients.ask("pull", count=clients, seq=None, seconds=_PATIENCE)
                used = cpu_seconds(pid) - used
                await self._clients.ask("pulled")
        documents = self._count * clients
        return {
            "docs/s": documents / found["seconds"],
            "first ms": found["first"] * 1000,
            "µs a document": used / documents * 1e6,
            "MiB/s": found["bytes"] / found["seconds"] / 2**20,
            "clients' CPU µs": found["cpu"] / documents * 1e6,
        }

    async def _bare(self, size: float) -> dict[str, float]:
        """As many bytes as the documents are to all that are sent them together; `size` is that of one."""
        async with beside("bare", self._clients) as peer:
            pieces = round(self._count * size / _PIECE)
            await self._clients.ask("open", transport="websocket", count=_TOGETHER, seq=0)
            began, used, client = time.monotonic(), cpu_seconds(peer.pid), cpu_seconds(self._clients.pid)
            await peer.burst(pieces, _PIECE, 1)
            await self._clients.ask("exact", seq=peer.head, seconds=_PATIENCE)
            seconds, used = time.monotonic() - began, cpu_seconds(peer.pid) - used
            client = cpu_seconds(self._clients.pid) - client
        documents = pieces * _PIECE / size * _TOGETHER
        return {
            "docs/s": documents / seconds,
            "first ms": math.nan,
            "µs a document": used / documents * 1e6,
            "MiB/s": pieces * _PIECE * _TOGETHER / seconds / 2**20,
            "clients' CPU µs": client / documents * 1e6,
        }

    async def _floors(self) -> dict[str, dict[str, float]]:
        """In this process, which does nothing else meanwhile."""
        docs, found = self._stage.stores.data[SHAPE], {}
        for name, codec in (("find", RAW_CODEC), ("find + encode", CODEC)):
            cursor = docs.with_options(codec_options=codec).find().sort("_id")
            began, used = time.perf_counter(), time.process_time()
            count, first, size = await _taken(cursor, encode=name != "find")
            seconds, used = time.perf_counter() - began, time.process_time() - used
            if count != self._count:
                raise WrongError(f"{count} documents of {self._count} were found")
            found[name] = {
                "docs/s": count / seconds,
                "first ms": (first - began) * 1000,
                "µs a document": used / count * 1e6,
                "MiB/s": size / seconds / 2**20,
                "clients' CPU µs": 0.0,
            }
        await asyncio.sleep(0)
        return found


async def _taken(cursor: AsyncCursor[Any], *, encode: bool) -> tuple[int, float, int]:
    count, first, size = 0, 0.0, 0
    async with cursor:
        while found := await cursor.to_list(_LIST):
            first = first or time.perf_counter()
            size += sum(len(to_json(document)) if encode else len(document.raw) for document in found)
            count += len(found)
    return count, first, size


def _note(row: defaultdict[str, list[float]], figures: dict[str, float]) -> None:
    for name, value in figures.items():
        row[name].append(value)
