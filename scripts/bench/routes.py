"""Routes: declared shapes, each beside the same without them, in the same run.

The log that clients come back to is written by hand, as a sequencer would write it. All else is done by a real worker
and a real server, unless a table says otherwise.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from bson.timestamp import Timestamp
from pymongo import UpdateOne

from eventsync.domain.events import Event, place
from eventsync.domain.ids import format_id
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.domain.routes import Router
from eventsync.domain.shapes import Shape
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.log.definitions import Declaration, DeclaredShape, Registry
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores
from eventsync.sync.live.window import Subscribers
from eventsync.sync.service import SyncService
from eventsync.sync.sessions.subscription import Subscription
from scripts.bench.catch_up import until_live
from scripts.bench.clients.exactness import BY_ID, SHAPE, WrongError
from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Cpu, Deployment, running
from scripts.bench.report import Figures, Goal, Rows, Table, alternating, percentiles
from scripts.bench.sequencing import change, document, sequenced
from scripts.bench.stage import Stage, insert, staged, tracked, until
from scripts.bench.writers import PATIENCE, paced

BY_BOARD: Final = define("by_board", SHAPE, {"board": "$board"}, {"board": ["int"]})
DEFINITIONS: Final = (
    BY_BOARD,
    define("open_of", SHAPE, {"owner": "$owner", "status": {"$in": ["open", "paid"]}}, {"owner": ["text"]}),
    define("watched", SHAPE, {"watchers": "$watcher"}, {"watcher": ["text"]}),
    define("of_team", SHAPE, {"$or": [{"team": "$team"}, {"guests.team": "$team"}]}, {"team": ["int"]}),
)
_VALUES: Final = 10_000
_BULK: Final = 1000
_REPEATS: Final = 20
_SESSION: Final = 100
"""Shapes of one session."""

_SOME: Final = 2000
_TICKS, _WARM = 25.0, 0.5
_TOGETHER: Final = 20
_OWN: Final = 14
_PLAIN: Final = "without shapes"

_SEQUENCING: Final = f"""\
A worker on a backlog, as in [sequencing](sequencing.md); documents of 1 KiB with four more fields, each of
{_VALUES:,} values. With four shapes each document has a key of each. *move*: an update after which the document is in
another route of one shape. CPU is µs an event; *of without*: the rate, over that without shapes in the same round."""

_ROUTING: Final = """\
µs of CPU in which the router finds the keys of an event with four shapes: before and after it, and what is entered and
left. In the benchmark's own process."""

_LIVE: Final = """\
CPU of the server process. *one each*: a thousand clients, each of which follows another of a thousand documents, by a
declared shape or as `docs/int:7`; *all one*: a thousand clients of one document, or of the collection that has no
other; *nobody*: 999 of 1,000 events that nobody follows, µs an event. *of without*: over that without shapes, in the
same round."""

_SUBSCRIBING: Final = """\
CPU, with so many other shapes in the window: to read the text, bind it, subscribe and unsubscribe. *extend*: to take up
an event that nobody follows: with a key of each of the four definitions, or without any. *KiB*: memory of
a subscribed shape, as Python allocates it. *beyond*: more than that of `docs/int:7`, which is what a session costs
without declared shapes."""

_RESUMING: Final = f"""\
ms from the subscription of a client until it is live, in the server's process: {_OWN} events of its route, or of its
document, since it was here last, among so many of others. *hot*: in the window; *cold*: behind it. *first*: of the
first client, for which the log is searched for gaps. A server does that ahead, when it has started."""

_BYTES: Final = """\
Bytes of messages until a new client is live, of board 7 or of the whole collection, and how many documents it then has:
those that the filter finds, which is checked. *over its documents*: the bytes, over those of its documents as JSON."""

_PUBLISHED: Final = """\
Changes a second with routes of 10,000 values. eventsync's are measured above, on two cores that MongoDB shares. The
others' are what they publish, on machines of theirs: Electric [4,000 to 6,000 where each shape is `field = constant`,
and 140,000 over the number of shapes for other filters][el]; PowerSync [2,000 to 4,000 for small rows][ps], and at most
1,000 buckets, which are its routes, for a user by default.

[el]: https://github.com/electric-sql/electric/blob/main/website/docs/reference/benchmarks.md
[ps]: https://docs.powersync.com/resources/performance-and-limits"""
_PEERS: Final = {
    "Electric, `field = constant`": (4000.0, 6000.0),
    "Electric, other filters, 10,000 shapes": (14.0,),
    "PowerSync, small rows": (2000.0, 4000.0),
}

GOALS: Final = (
    Goal("sequencing with four shapes, of without", "Sequencing", "4 shapes", "of without", 0.8, at_least=True),
    Goal("routing an event, µs", "Routing", "", "µs", 5.0),
    Goal("a delivery by routes, of without, one client each", "Live", "one each", "of without", 1.2),
    Goal("… a thousand clients of one route", "Live", "all one", "of without", 1.2),
    Goal("an event that nobody follows, of without", "Live", "nobody", "of without", 1.2),
    Goal("subscribe and unsubscribe, µs beyond a session's own", "Subscriptions", "by_board", "µs beyond", 20.0),
    Goal("memory of a shape, KiB beyond a session's own", "Subscriptions", "by_board", "KiB beyond", 1.0),
    Goal(f"{_OWN} events of a route among others', ms until live", "Resuming", "route", "p50", 10.0),
    Goal("bytes of board 7 of 200, of its documents", "Bytes", "route", "over its documents", 1.2),
    Goal(
        "changes a second, of the most that a peer publishes", "Published", "eventsync", "of 6,000", 1.0, at_least=True
    ),
)

OPTIONS: Final = {
    "rounds": (3, "rounds"),
    "changes": (60_000, "changes of a backlog"),
    "shapes": ((1, 4), "numbers of declared shapes when sequencing"),
    "clients": (1000, "live clients, and documents that they follow"),
    "seconds": (4.0, "how long a round of live events takes"),
    "subscribed": (100_000, "shapes that are subscribed to"),
    "events": (1_000_000, "events in the log that clients come back to"),
    "hot": (50_000, "events in the window that clients come back to"),
    "boards": (200, "boards of a hundred documents"),
}
QUICK: Final = (
    "--rounds 1 --changes 3000 --clients 100 --seconds 1 --subscribed 2000 --events 20000 --hot 5000 --boards 20"
)


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a log or a client was not exact."""
    sequencing, live, subscribing, resuming, bytes_ = Rows(), Rows(), Rows(), Rows(), Rows()
    await _subscribing(deployment, options, subscribing)
    await _coming_back(deployment, options, resuming, bytes_)
    await _sequencing(deployment, options, sequencing)
    async with load_generator() as clients:
        await _live(deployment, clients, options, live)
    return [
        Table("Sequencing", _SEQUENCING, sequencing),
        Table("Routing", _ROUTING, _routing(options.rounds)),
        Table("Live", _LIVE, live),
        Table("Subscriptions", _SUBSCRIBING, subscribing),
        Table("Resuming", _RESUMING, resuming),
        Table("Bytes", _BYTES, bytes_),
        Table("Published", _PUBLISHED, _published(sequencing)),
    ]


# --- sequencing and routing -----------------------------------------------------------------------------------------


def order(number: int) -> dict[str, Any]:
    """Return a document with a key of each of the definitions."""
    value = number % _VALUES
    routed = {"board": value, "owner": f"user-{value}", "watchers": [f"user-{value}"], "team": value}
    return document(number, 1024) | routed


def move(number: int) -> dict[str, Any]:
    """Return an update that moves a document to another board."""
    return {"$set": {"board": (number + 1) % _VALUES}}


_CHANGES: Final[dict[str, Callable[[int], dict[str, Any]] | None]] = {
    "insert": None,
    "small update": change,
    "move": move,
}


async def _sequencing(deployment: Deployment, options: argparse.Namespace, rows: Rows) -> None:
    for number, kind in alternating(options.rounds, list(_CHANGES)):
        rates = dict[int, float]()
        for shapes in (0, *options.shapes)[:: 1 if number % 2 == 0 else -1]:
            name = f"{_count(shapes)}, {kind}"
            key = f"routes_{list(_CHANGES).index(kind)}_{shapes}_{number}"
            figures = await _sequenced(deployment, key, options.changes, shapes, _CHANGES[kind])
            rates[shapes] = rows.note(name, figures)["events/s"]
        for shapes in options.shapes:
            rows.note(f"{_count(shapes)}, {kind}", {"of without": rates[shapes] / rates[0]})


def _count(shapes: int) -> str:
    return f"{shapes} shape{'s' if shapes > 1 else ''}" if shapes else _PLAIN


async def _sequenced(
    deployment: Deployment, name: str, count: int, shapes: int, update: Callable[[int], dict[str, Any]] | None
) -> Figures:
    """Return the figures of a worker on a backlog of inserts, or of updates."""
    before = map(order, range(count)) if update else ()
    async with tracked(deployment, name, before) as (settings, stores, log):
        with running("worker", settings, deployment.directory):
            await _declare(stores, log, DEFINITIONS[:shapes])
        if update is None:
            await insert(stores.data[SHAPE], map(order, range(count)))
        else:
            for first in range(0, count, _BULK):
                numbers = range(first, min(count, first + _BULK))
                await stores.data[SHAPE].bulk_write([UpdateOne({"_id": n}, update(n)) for n in numbers], ordered=False)
        figures = await sequenced(deployment, settings, stores, log, count)
        keyed = await stores.log["events"].count_documents({"k": {"$size": shapes}})
        if shapes and update is not move and keyed != count:
            raise WrongError(f"{keyed} of {count} events have {shapes} keys")
        return figures


async def _declare(stores: Stores, log: LogId, definitions: Iterable[Definition]) -> None:
    """Declare shapes, and wait until the worker has activated them."""
    wanted = [Declaration.of(definition) for definition in definitions]
    await stores.definitions.apply(wanted)

    async def active() -> bool:
        return len(await stores.definitions.active(log)) == len(wanted)

    await until("the shapes", active)


def _routing(rounds: int) -> Rows:
    router, rows = Router(DEFINITIONS), Rows()
    befores = [order(number) for number in range(_VALUES)]
    for _ in range(rounds):
        for name, moved in {"insert": None, "small update": 0, "move": 1}.items():
            afters = [each | {"board": (each["board"] + (moved or 0)) % _VALUES} for each in befores]
            began = time.process_time()
            for before, after in zip(befores, afters, strict=True):
                router.routes(SHAPE, None if moved is None else before, after)
            rows.note(name, {"µs": (time.process_time() - began) / _VALUES * 1e6})
    return rows


def _published(sequencing: Rows) -> Rows:
    rows, most = Rows(), max(map(max, _PEERS.values()))
    for name, row in sequencing.items():
        if not name.startswith(_PLAIN):
            rows[f"eventsync, {name}"]["changes/s"] = row["events/s"]
            rows[f"eventsync, {name}"]["of 6,000"] = [rate / most for rate in row["events/s"]]
    for name, rates in _PEERS.items():
        rows[name]["changes/s"] = list(rates)
    return rows


# --- live -----------------------------------------------------------------------------------------------------------


async def _live(deployment: Deployment, clients: Process, options: argparse.Namespace, rows: Rows) -> None:
    every = options.clients
    cases = {"one each": (every, every), "all one": (1, every), "nobody": (every, 1)}
    for number, (name, (documents, count)) in alternating(options.rounds, list(cases.items())):
        costs = dict[bool, float]()
        for routed in (True, False) if number % 2 else (False, True):
            async with staged(deployment, clients, f"live_{documents}_{count}_{routed}_{number}", documents) as stage:
                figures = await _delivered(stage, count, options.seconds, routed=routed)
            costs[routed] = figures["µs"]
            rows.note(name if routed else f"{_PLAIN}, {name}", figures)
        rows.note(name, {"of without": costs[True] / costs[False]})


async def _delivered(stage: Stage, count: int, seconds: float, *, routed: bool) -> Figures:
    """Return the cost of a delivery, or of an event if there is one client."""
    ask, head, batch = stage.clients.ask, await stage.head(), max(1, stage.documents // 50)
    if routed:
        await _declare(stage.stores, stage.log, [BY_ID])

    async def write(ticks: int) -> Figures:
        nonlocal head
        async for _, due in paced(ticks, _TICKS):
            await stage.write(head + 1, batch, at=due)
            head += batch
        return await ask("exact", seq=head, seconds=PATIENCE)

    async with stage.serving() as pid:
        follow = {"each": routed or stage.documents > 1, "route": routed}
        await ask("open", transport="websocket", count=count, seq=head, **follow)
        had = await write(round(_WARM * _TICKS))
        cpu, began, first = Cpu(server=pid), time.monotonic(), head
        has = await write(round(seconds * _TICKS))
        used = cpu.used()["server"]
    deliveries, took = head - first if count == 1 else has["events"] - had["events"], has["at"] - began
    return {"µs": used / deliveries * 1e6, "a second": deliveries / took, "CPU %": 100 * used / took}


# --- subscriptions --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _service(deployment: Deployment, log: LogId, definitions: Iterable[Definition]) -> AsyncIterator[SyncService]:
    """Give a service, in this process, with these shapes, active in `log` from the beginning, and an empty window."""
    settings = Settings(mongodb_uri=deployment.uri, database="bench_routes", window_bytes=256 * 1024 * 1024)
    async with connect(settings, "bench") as client:
        stores = Stores.of(client, settings)
        await stores.ensure_indexes()
        service = SyncService(stores, settings)
        service.window.start(log, Seq(0))
        service.tracking.replace(log, [TrackedCollection(SHAPE, log, Seq(0))])
        made = [Declaration.of(each) for each in definitions]
        at = Timestamp(1, 1)
        active = [DeclaredShape(one.name, SHAPE, one.spec, one.digest, 1, log, Seq(0), at, 1) for one in made]
        service.definitions.replace(log, Registry(1, 1, tuple(active)))
        yield service


async def _subscribing(deployment: Deployment, options: argparse.Namespace, rows: Rows) -> None:
    texts = ("docs/int:{}", "by_board?board=int:{}")
    for _ in range(options.rounds):
        found = dict[str, Figures]()
        for text in texts:
            async with _service(deployment, LogId("subscribed"), DEFINITIONS) as service:
                found[text] = _subscribed(service, text, options.subscribed)
        plain, routed = (found[text] for text in texts)
        beyond = {f"{name} beyond": routed[name] - plain[name] for name in ("µs", "KiB")}
        rows.note("docs/int:7", plain)
        rows.note("by_board?board=int:7", routed | beyond)


def _subscribed(service: SyncService, text: str, count: int) -> Figures:
    def subscribe(first: int, several: int) -> list[Subscribers]:
        made = [Subscribers(service.window) for _ in range(several // _SESSION)]
        for number in range(several // _SESSION * _SESSION):
            made[number // _SESSION].add(service.source.bind(Shape.parse(text.format(_VALUES + first + number))))
        return made

    gc.collect()
    tracemalloc.start()
    others = subscribe(0, count)
    kib = tracemalloc.get_traced_memory()[0] / count / 1024
    tracemalloc.stop()
    # As a server does: what stays is not looked at again.
    gc.collect()
    gc.freeze()
    began = time.process_time()
    for session in subscribe(count, _SOME):
        session.close()
    seconds, extended = time.process_time() - began, _extended(service, routed="?" in text)
    gc.unfreeze()
    for session in others:
        session.close()
    return {"µs": seconds / _SOME * 1e6, "KiB": kib, "extend µs": extended}


def _extended(service: SyncService, *, routed: bool) -> float:
    """Return the µs in which the window takes up an event that nobody follows."""
    router = Router(DEFINITIONS)
    routes = (router.routes(SHAPE, None, order(number))[0] if routed else None for number in range(_SOME))
    events = [
        StoredEvent(Seq(seq), SHAPE, format_id(seq), b"{}", None, each) for seq, each in enumerate(routes, start=1)
    ]
    began = time.process_time()
    for first in range(0, _SOME, _TOGETHER):
        service.window.extend(events[first : first + _TOGETHER])
    return (time.process_time() - began) / _SOME * 1e6


# --- coming back and beginning ------------------------------------------------------------------------------------


async def _coming_back(deployment: Deployment, options: argparse.Namespace, resuming: Rows, bytes_: Rows) -> None:
    log, head, boards = LogId("resumed"), Seq(options.events), options.boards
    async with _service(deployment, log, [BY_BOARD]) as service:
        stores = service.source.stores
        await insert(stores.data[SHAPE], (document(n, 300) | {"board": n % boards} for n in range(boards * 100)))
        start = await _write_log(stores, log, head, options)
        for number, (case, board, first) in alternating(options.rounds, [("cold", 7, 0), ("hot", 8, start)]):
            service.window.start(log, Seq(start if case == "hot" else head))
            if case == "hot":
                service.window.extend([event async for event in stores.events.read(log, start, head)])
            for name, text in {"route": f"by_board?board=int:{board}", _PLAIN: f"docs/int:{board}"}.items():
                shape, took = Shape.parse(text), list[float]()
                for repeat in range(_REPEATS):
                    at = Seq(first + number * _REPEATS + repeat)  # Each at a place of its own: no frame is cached.
                    began = time.perf_counter()
                    messages = await _messages(service, shape, at)
                    took.append((time.perf_counter() - began) * 1000)
                    events = [
                        event for kind, raw in messages if kind == "events" for event in orjson.loads(raw)["events"]
                    ]
                    if len(events) != _OWN or {event["id"] for event in events} != {f"int:{board}"}:
                        raise WrongError(f"{text} got {len(events)} events, {[kind for kind, _ in messages]}")
                rows = {"first": took[0]} | percentiles(took[1:])
                resuming.note(f"{name}, {case}", rows)
        for name, text, where in (("route", "by_board?board=int:7", {"board": 7}), (_PLAIN, SHAPE, {})):
            messages = await _messages(service, Shape.parse(text), None)
            rows_ = [row for kind, raw in messages if kind == "snapshot" for row in orjson.loads(raw)["docs"]]
            wanted = {f"int:{row['_id']}" async for row in stores.data[SHAPE].find(where, {"_id": 1})}
            if {row["id"] for row in rows_} != wanted or len(rows_) != len(wanted):
                raise WrongError(f"{text} has {len(rows_)} documents, not {len(wanted)}")
            size, own = sum(len(raw) for _, raw in messages), sum(len(orjson.dumps(row["doc"])) for row in rows_)
            bytes_.note(name, {"documents": len(rows_), "bytes": size, "over its documents": size / own})


async def _messages(service: SyncService, shape: Shape, at: Seq | None) -> list[tuple[str, bytes]]:
    """Return the messages of a client that is at a position, or begins, until it is live."""
    bound = service.source.bind(shape)
    position = None if at is None else Position(service.window.log_of(bound) or LogId(""), at)
    with service.window.subscribers() as subscribers:
        return [each async for each in until_live(Subscription(service.source, subscribers, bound, position))]


async def _write_log(stores: Stores, log: LogId, head: Seq, options: argparse.Namespace) -> Seq:
    """Store events up to `head`, and return where the window begins: those of boards 7 and 8 are spread over all."""
    router, start, spare = Router([BY_BOARD]), Seq(head - min(head, options.hot)), options.rounds * _REPEATS
    own = {
        Seq(first + (head - first) * n // _OWN): board
        for board, first in ((8, start + spare), (7, spare + 1))
        for n in range(_OWN)
    }

    def new(seq: Seq) -> NewEvent:
        number = own.get(seq) or seq % 100 * options.boards + 9 + seq % (options.boards - 9)
        now = {"board": number % options.boards}
        patch = [{"op": "replace", "path": "/status", "value": "paid"}]
        event = Event(
            SHAPE, format_id(number), "update", 6, 7, datetime.now(UTC), patch=patch, op_id=f"op-{seq}", by="bench"
        )
        routes, _ = router.routes(SHAPE, now, now)
        stored = StoredEvent(seq, SHAPE, event.id, place(event.encode(), seq, None), None, routes)
        return NewEvent(stored, 7, "82" + "0" * 60, Timestamp(1_700_000_000, seq))

    for first in range(0, head, _BULK):
        await stores.events.append(log, [new(Seq(seq)) for seq in range(first + 1, min(head, first + _BULK) + 1)])
    await stores.stats.counters.add(log, head)
    await stores.logs.checkpoint(log, head, "82", (await stores.data.command("ping"))["operationTime"])
    return start
