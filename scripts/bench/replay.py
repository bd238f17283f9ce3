"""Replay: the rate at which clients that are behind, or have nothing, receive what they lack.

A real worker, which rests, and a fresh server each time, over WebSocket. The events are creations of documents of 300
bytes, of one collection; the log in MongoDB (hot) and in the archive (cold), the snapshot stored or read from the
collection. Beside, in the same run: a log that is read row by row, one of which stored JSON is joined and sent, and a
raw `find`. The clients only keep bytes while it counts; afterwards each event and document is checked.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import Any, Final

from eventsync.domain.values.extended_json import RAW_CODEC
from scripts.bench.clients.exactness import SHAPE, SIZE, WrongError
from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.peers import frames
from scripts.bench.peers.process import peer
from scripts.bench.report import Figures, Goal, Rows, Table, alternating, say
from scripts.bench.stage import Stage, staged, until

_PATIENCE: Final = 220.0
_BULK: Final = 1000
_SEGMENT: Final = 10_000
_LONG: Final = 300_000
"""So many events or documents are sent in one round only."""
_MANY: Final = 50
"""Clients at once."""
_ELSEWHERE: Final = "bench_plain_log"
_PEERS: Final = {"row by row": "rows", "joined bodies": "bodies"}
"""A way of reading a plain log → the word for it."""

_RATES: Final = """\
*rate*: events, or documents, a second, and *s*, from connecting until each client is live; with 50 clients at once the
rate is of all of them. *first ms*: until the first byte after the welcome. *µs each*: CPU of the server process, by
event or document and client; a fresh server each time, so nothing is in its memory. *row by row*: a find of documents,
each decoded, encoded as JSON and sent by itself (Starlette); *joined bodies*: a find of stored JSON that is only
joined, 500 at a time. *find*: PyMongo's `find().sort("_id")` in one process, raw BSON in lists of a thousand that
nothing is done with."""

_EVENTS: Final = "The rate of one client over that of the others, in the same round."

_SNAPSHOTS: Final = """\
The rate of one client that has nothing over that of `find`, in the same round; and what the 50th client costs the
server, by CPU, (50 at once - one) / 49, over what the first does, from the same stored snapshot and where the
collection is read for it."""

_REPLAYED, _SENT = "Ratios of events", "Ratios of snapshots"
GOALS: Final = (
    Goal("replay, of row by row", _REPLAYED, "hot", "of row by row", 5.0, at_least=True),
    Goal("replay, of joined bodies", _REPLAYED, "hot", "of joined bodies", 0.83, at_least=True),
    Goal("bootstrap from what is stored, of a raw `find`", _SENT, "stored", "of find", 0.6, at_least=True),
    Goal("bootstrap that is read, of a raw `find`", _SENT, "read", "of find", 0.6, at_least=True),
    Goal("the 50th client, of the first", _SENT, "stored", "50th of the first", 0.05),
    Goal("… of one that is read for", _SENT, "stored", "50th of one read for", 0.05),
)


OPTIONS: Final = {
    "behind": ((10, 10_000, 1_000_000), "events that one client lacks"),
    "cold": ((10, 10_000, 200_000), "the same of archived ones"),
    "documents": ((10_000, 100_000, 1_000_000), "documents of a snapshot"),
    "together": (100_000, f"most that {_MANY} clients at once lack"),
    "rounds": (3, "rounds; from 300,000 on one"),
}
QUICK: Final = "--behind 10,2000 --cold 10 --documents 5000 --together 5000 --rounds 1"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    bench = _Bench(options)
    async with load_generator() as clients:
        for tier, numbers in (("hot", options.behind), ("cold", options.cold)):
            if numbers:
                await bench.events(deployment, clients, tier, numbers)
        for count in options.documents:
            async with staged(deployment, clients, f"snapshot_{count}", count) as stage:
                for number in range(1 if count >= _LONG else options.rounds):
                    await bench.snapshots(stage, count, number)
    tables = [
        Table(_REPLAYED, _EVENTS, bench.event_ratios),
        Table(_SENT, _SNAPSHOTS, bench.snapshot_ratios),
        Table("Rates", _RATES, bench.rates),
    ]
    return [table for table in tables if table.rows]


class _Bench:
    """The figures of all rounds."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.rates, self.event_ratios, self.snapshot_ratios = Rows(), Rows(), Rows()

    async def events(self, deployment: Deployment, clients: Process, tier: str, numbers: tuple[int, ...]) -> None:
        """Measure clients that are behind by so many events, counted from the newest one of the tier."""
        settings: dict[str, Any] = {"hot_events": 10**9}
        if tier == "cold":
            archive = str(deployment.directory / "archive")
            settings = {"hot_events": 1, "segment_events": _SEGMENT, "archive_url": archive}
        async with staged(deployment, clients, f"replay_{tier}", 0, **settings) as stage:
            count = -(-max(numbers) // _SEGMENT) * _SEGMENT + 1
            await stage.write(1, count, size=SIZE)
            await until(f"event {count}", lambda: _has(stage, count))
            if tier == "cold":
                await until("the archive", lambda: _archived(stage, count - 1))
            else:
                await _copy(stage, count)
            say(f"{tier}: {count:,} events are there")
            for number, behind in alternating(self._options.rounds, numbers):
                if number == 0 or behind < _LONG:
                    await self._behind(stage, tier, behind, number)

    async def _behind(self, stage: Stage, tier: str, behind: int, number: int) -> None:
        after = await stage.head() - behind - (1 if tier == "cold" else 0)
        ours, found = f"eventsync, {tier}", dict[str, float]()
        for way in [ours, *(_PEERS if tier == "hot" else ())][:: 1 if number % 2 == 0 else -1]:
            name = f"{way}, {behind:,} behind"
            found[way] = self.rates.note(name, await _events(stage, way, after, 1))["rate"]
            if way == ours and 1000 <= behind <= self._options.together:
                self.rates.note(f"{name}, {_MANY} at once", await _events(stage, way, after, _MANY))
        if tier == "hot":
            ratios = {f"of {way}": found[ours] / found[way] for way in _PEERS}
            self.event_ratios.note(f"{tier}, {behind:,} behind", ratios)

    async def snapshots(self, stage: Stage, count: int, number: int) -> None:
        """Measure clients that have nothing, and `find`."""
        find = self.rates.note(f"find, {count:,}", await _find(stage, count))
        ones = {}
        for kind in ("stored", "read")[:: 1 if number % 2 == 0 else -1]:
            name = f"{kind}, {count:,}"
            ones[kind] = self.rates.note(name, await _snapshot(stage, kind, count, 1))
            self.snapshot_ratios.note(name, {"of find": ones[kind]["rate"] / find["rate"]})
        if count <= self._options.together:
            name = f"stored, {count:,}"
            many = self.rates.note(f"{name}, {_MANY} at once", await _snapshot(stage, "stored", count, _MANY))
            more = (many["µs each"] * _MANY - ones["stored"]["µs each"]) / (_MANY - 1)
            of = {"50th of the first": ones["stored"], "50th of one read for": ones["read"]}
            self.snapshot_ratios.note(name, {column: more / one["µs each"] for column, one in of.items()})


async def _has(stage: Stage, seq: int) -> bool:
    return await stage.head() >= seq


async def _archived(stage: Stage, seq: int) -> bool:
    return (await stage.stores.tiers.read(stage.log)).archived_up_to >= seq


async def _copy(stage: Stage, count: int) -> None:
    """Store the same events as another log would keep them: each as a document, and as JSON."""
    log = stage.stores.data.client[_ELSEWHERE]["log"]
    await log.drop()
    for first in range(1, count + 1, _BULK):
        documents = await stage.stores.data[SHAPE].find({"_id": {"$gte": first, "$lt": first + _BULK}}).to_list()
        rows = [{"_id": one["_id"], "doc": one, "body": frames.body(one["_id"], one)} for one in documents]
        await log.insert_many(rows, ordered=False)


async def _events(stage: Stage, way: str, after: int, clients: int) -> Figures:
    lacking = await stage.head() - after
    if way not in _PEERS:
        # A stored snapshot would be cheaper than so many events.
        async with stage.serving() as pid, stage.without_snapshots():
            return await _pulled(stage.clients, pid, clients, after, lacking)
    async with peer("starlette", _PEERS[way], stage.deployment.uri, _ELSEWHERE) as (process, port):
        await process.ask("begin", seq=0)
        await stage.clients.ask("begin", port=port, log=frames.LOG, documents=0)
        return await _pulled(stage.clients, process.pid, clients, after, lacking)


async def _snapshot(stage: Stage, kind: str, count: int, clients: int) -> Figures:
    async with stage.serving() as pid, stage.without_snapshots() if kind == "read" else nullcontext():
        return await _pulled(stage.clients, pid, clients, None, count)


async def _pulled(process: Process, pid: int, clients: int, after: int | None, count: int) -> Figures:
    """Bring clients to now, each by `count` events, or documents. Raises `WrongError`."""
    cpu = Cpu(server=pid)
    found = await process.ask("pull", count=clients, seq=after, seconds=_PATIENCE)
    used = cpu.used()["server"]
    received = await process.ask("pulled")
    if received["events"] != (0 if after is None else count):
        raise WrongError(f"{count} events came as {received}")
    return {
        "rate": count * clients / found["seconds"],
        "s": found["seconds"],
        "first ms": found["first"] * 1000,
        "µs each": used / count / clients * 1e6,
        "clients' CPU µs": found["cpu"] / count / clients * 1e6,
    }


async def _find(stage: Stage, count: int) -> Figures:
    """Read the collection in this process, which does nothing else meanwhile."""
    docs = stage.stores.data[SHAPE].with_options(codec_options=RAW_CODEC)
    began, used, found, first = time.perf_counter(), time.process_time(), 0, 0.0
    async with docs.find().sort("_id") as cursor:
        while listed := await cursor.to_list(_BULK):
            first = first or time.perf_counter()
            found += len(listed)
    if found != count:
        raise WrongError(f"{found} documents of {count} were found")
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return {"rate": count / seconds, "s": seconds, "first ms": (first - began) * 1000, "µs each": used / count * 1e6}
