"""Routes: declared shapes, each beside the same without them, in the same run.

The log that clients come back to is written by hand, as a sequencer would write it. All else is done by a real worker
and a real server, unless a table says otherwise.
"""

from __future__ import annotations

import argparse
import gc
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from bson.timestamp import Timestamp
from pymongo import InsertOne, UpdateOne

from eventsync.access.access import UNRESTRICTED
from eventsync.access.control import AccessControl
from eventsync.domain.events import Event, place
from eventsync.domain.ids import format_id
from eventsync.domain.positions import LogId, Position, Seq, scoped
from eventsync.domain.predicates.definitions import Definition, define
from eventsync.domain.routes import Router
from eventsync.domain.shapes import Shape
from eventsync.mongodb.client import connect
from eventsync.settings import Settings
from eventsync.stores.log.events import NewEvent
from eventsync.stores.log.registry import Declaration, DeclaredShape, Registry
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
_VALUES, _BOARDS, _BULK, _HOT, _OWN = 10_000, 200, 1000, 50_000, 14
_REPEATS, _SOME, _SESSION, _TOGETHER, _TICKS = 20, 2000, 100, 20, 25.0
"""Resumes of a case, shapes that come and go, shapes of a session, events in a batch, writes a second."""
_LOG, _PLAIN = LogId("resumed"), "without shapes"

_SEQUENCING: Final = f"""\
A worker on a backlog, as in [sequencing](sequencing.md); documents of 1 KiB with four more fields, each of
{_VALUES:,} values. With four shapes each document has a key of each. *move*: an update after which the document is in
another route of one shape. CPU is µs an event; *of without*: the rate, over that without shapes in the same round.

Others publish, of machines of theirs: Electric [4,000 to 6,000 changes a second where each shape is `field = constant`,
and 140,000 over the number of shapes for other filters][el]; PowerSync [2,000 to 4,000 small rows a second][ps], and at
most 1,000 buckets, which are its routes, for a user by default.

[el]: https://github.com/electric-sql/electric/blob/main/website/docs/reference/benchmarks.md
[ps]: https://docs.powersync.com/resources/performance-and-limits"""

_ROUTING: Final = "µs of CPU in which the router finds the keys of an event with four shapes, in this process."
_LIVE: Final = """\
CPU of the server. *one each*: a thousand clients, each of another of a thousand documents, by a declared shape or as
`docs/int:7`; *all one*: a thousand clients of one document, or of the collection that has no other; *nobody*: µs an
event, of which 999 in 1,000 have no follower. *of without*: over that without shapes in the same round."""
_SUBSCRIBING: Final = """\
CPU, among so many others: to read a text, bind it, subscribe and unsubscribe. *extend*: to take up an event that nobody
follows, with a key of each of the four definitions, or without any. *KiB*: memory of a subscribed shape, as Python
allocates it. *beyond*: more than that of `docs/int:7`, which is what a session costs without declared shapes."""
_RESUMING: Final = f"""\
ms from the subscription of a client until it is live, in this process: {_OWN} events of its route, or of its document,
since it was here last, among so many of others. *hot*: in the window; *cold*: behind it. *first*: of the first client,
for which the log is searched for gaps. A server does that ahead, when it has started."""
_BYTES: Final = """\
Bytes of messages until a new client is live, of board 7 or of the whole collection. Its documents are those that the
filter finds, which is checked. *over its documents*: the bytes, over those of its documents as JSON."""

GOALS: Final = (
    Goal("sequencing with four shapes, of without", "Sequencing", "4 shapes", "of without", 0.8, at_least=True),
    Goal("routing an event, µs", "Routing", "", "µs", 5.0),
    Goal("a delivery by routes, and an event that nobody follows, of without", "Live", "", "of without", 1.2),
    Goal("subscribe and unsubscribe, µs beyond a session's own", "Subscriptions", "by_board", "µs beyond", 20.0),
    Goal("memory of a shape, KiB beyond a session's own", "Subscriptions", "by_board", "KiB beyond", 1.0),
    Goal(f"{_OWN} events of a route among others', ms until live", "Resuming", "route", "p50", 10.0),
    Goal("bytes of board 7 of 200, of its documents", "Bytes", "route", "over its documents", 1.2),
    Goal("changes a second: the most that a peer publishes", "Sequencing", "4 ", "events/s", 6000.0, at_least=True),
)

OPTIONS: Final = {
    "rounds": (3, "rounds"),
    "changes": (60_000, "changes of a backlog"),
    "seconds": (4.0, "how long a round of live events takes"),
    "subscribed": (100_000, "shapes that are subscribed to"),
    "events": (1_000_000, "events in the log that clients come back to, the last 50,000 of them in the window"),
}
QUICK: Final = "--rounds 1 --changes 3000 --seconds 1 --subscribed 2000 --events 20000"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a log or a client was not exact."""
    sequencing, live, subscribing, resuming, bytes_ = (Rows() for _ in range(5))
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
    ]


def order(number: int) -> dict[str, Any]:
    """Return a document with a key of each of the definitions."""
    value = number % _VALUES
    routed = {"board": value, "owner": f"user-{value}", "watchers": [f"user-{value}"], "team": value}
    return document(number, 1024) | routed


_MOVE: Final = [{"$set": {"board": {"$mod": [{"$add": ["$board", 1]}, _VALUES]}}}]
_CHANGES: Final[dict[str, Any]] = {"insert": None, "small update": change, "move": lambda _: _MOVE}


async def _sequencing(deployment: Deployment, options: argparse.Namespace, rows: Rows) -> None:
    count = options.changes
    for number, (kind, update) in alternating(options.rounds, list(_CHANGES.items())):
        rates = dict[str, float]()
        for shapes in (0, 1, 4)[:: 1 if number % 2 == 0 else -1]:
            name = f"{shapes} shape{'s'[: shapes - 1]}, {kind}" if shapes else f"{_PLAIN}, {kind}"
            key, before = f"routes_{kind[0]}_{shapes}_{number}", map(order, range(count)) if update else ()
            async with tracked(deployment, key, before) as (settings, stores, log):
                with running("worker", settings, deployment.directory):
                    await _declare(stores, log, DEFINITIONS[:shapes])
                made = [UpdateOne({"_id": n}, update(n)) if update else InsertOne(order(n)) for n in range(count)]
                await stores.data[SHAPE].bulk_write(made, ordered=False)
                rates[name] = rows.note(name, await sequenced(deployment, settings, stores, log, count))["events/s"]
                keyed = await stores.log["events"].count_documents({"k": {"$size": shapes + (kind == "move")}})
                if shapes and keyed != count:
                    raise WrongError(f"{keyed} of {count} events have the keys of {shapes} shapes")
        for name in rates.keys() - {f"{_PLAIN}, {kind}"}:
            rows.note(name, {"of without": rates[name] / rates[f"{_PLAIN}, {kind}"]})


async def _declare(stores: Stores, log: LogId, definitions: Sequence[Definition]) -> None:
    """Declare shapes, and wait until the worker has activated them, all at once."""
    await stores.definitions.apply(map(Declaration.of, definitions))
    if definitions:
        await until("the shapes", lambda: stores.definitions.active(log))


def _routing(rounds: int) -> Rows:
    router, rows, befores = Router(DEFINITIONS), Rows(), [order(number) for number in range(_VALUES)]
    for _ in range(rounds):
        for name, moved in {"insert": None, "small update": 0, "move": 1}.items():
            afters = [each | {"board": (each["board"] + (moved or 0)) % _VALUES} for each in befores]
            began = time.process_time()
            for before, after in zip(befores, afters, strict=True):
                router.routes(SHAPE, None if moved is None else before, after)
            rows.note(name, {"µs": (time.process_time() - began) / _VALUES * 1e6})
    return rows


async def _live(deployment: Deployment, clients: Process, options: argparse.Namespace, rows: Rows) -> None:
    cases = {"one each": (1000, 1000), "all one": (1, 1000), "nobody": (1000, 1)}
    for number, (name, (documents, count)) in alternating(options.rounds, list(cases.items())):
        costs = dict[bool, float]()
        for routed in (True, False) if number % 2 else (False, True):
            async with staged(deployment, clients, f"live_{documents}_{count}_{routed}_{number}", documents) as stage:
                if routed:
                    await _declare(stage.stores, stage.log, [BY_ID])
                async with stage.serving() as pid:
                    follow = "route" if routed else "document" if documents > 1 else ""
                    found = await delivered(stage, pid, count, options.seconds, follow)
            costs[routed] = rows.note(name if routed else f"{_PLAIN}, {name}", found)["µs"]
        rows.note(name, {"of without": costs[True] / costs[False]})


async def delivered(stage: Stage, pid: int, count: int, seconds: float, follow: str, role: str = "") -> Figures:
    """Return the cost of a delivery, or of an event if there is one client."""
    ask, head, batch = stage.clients.ask, await stage.head(), max(1, stage.documents // 50)
    at = None if role else head  # The scope of a position is the server's to know.
    await ask("open", transport="websocket", count=count, seq=at, follow=follow, role=role)

    async def write(ticks: int) -> Figures:
        nonlocal head
        async for _, due in paced(ticks, _TICKS):
            await stage.write(head + 1, batch, at=due)
            head += batch
        return await ask("exact", seq=head, seconds=PATIENCE)

    had = await write(round(0.5 * _TICKS))
    cpu, began, first = Cpu(server=pid), time.monotonic(), head
    has = await write(round(seconds * _TICKS))
    used, took = cpu.used()["server"], has["at"] - began
    deliveries = head - first if count == 1 else has["events"] - had["events"]
    return {"µs": used / deliveries * 1e6, "a second": deliveries / took, "CPU %": 100 * used / took}


@asynccontextmanager
async def serving_here(
    deployment: Deployment, definitions: Iterable[Definition], access: AccessControl | None = None
) -> AsyncIterator[SyncService]:
    """Give a service, in this process, with these shapes, active from the beginning of its log, and an empty window."""
    settings = Settings(mongodb_uri=deployment.uri, database="bench_routes", window_bytes=256 * 1024 * 1024)
    async with connect(settings, "bench") as client:
        stores, made = Stores.of(client, settings), map(Declaration.of, definitions)
        await stores.ensure_indexes()
        service = SyncService(stores, settings, access=access)
        service.window.start(_LOG, Seq(0))
        service.tracking.replace(_LOG, [TrackedCollection(SHAPE, _LOG, Seq(0))])
        active = [DeclaredShape(one.name, SHAPE, one.spec, one.digest, 1, _LOG, revision=1) for one in made]
        service.definitions.replace(_LOG, Registry(1, 1, tuple(active)))
        yield service


async def _subscribing(deployment: Deployment, options: argparse.Namespace, rows: Rows) -> None:
    for _ in range(options.rounds):
        found = list[Figures]()
        for text in ("docs/int:7", "by_board?board=int:7"):
            async with serving_here(deployment, DEFINITIONS) as service:
                found.append(rows.note(text, _subscribed(service, text[:-1], options.subscribed)))
        rows.note(text, {f"{name} beyond": found[1][name] - found[0][name] for name in ("µs", "KiB")})


def _subscribed(service: SyncService, text: str, count: int) -> Figures:
    def subscribe(first: int, several: int) -> list[Subscribers]:
        made = [Subscribers(service.window) for _ in range(several // _SESSION)]
        for number in range(several // _SESSION * _SESSION):
            made[number // _SESSION].add(
                service.source.bind(Shape.parse(f"{text}{_VALUES + first + number}"), UNRESTRICTED)
            )
        return made

    tracemalloc.start()
    others = subscribe(0, count)
    kib = tracemalloc.get_traced_memory()[0] / count / 1024
    tracemalloc.stop()
    subscribe(count, _SOME)[0].close()  # The first ones pay for the end of the tracing.
    gc.collect()
    gc.freeze()  # As a server does: what stays is not looked at again.
    router, times = Router(DEFINITIONS if "?" in text else ()), [time.process_time()]
    for session in subscribe(count + _SOME, _SOME):
        session.close()
    times.append(time.process_time())
    routes = [router.routes(SHAPE, None, order(number))[0] for number in range(_SOME)]
    events = [StoredEvent(Seq(n), SHAPE, format_id(n), b"{}", None, each) for n, each in enumerate(routes, start=1)]
    times.append(time.process_time())
    for first in range(0, _SOME, _TOGETHER):
        service.window.extend(events[first : first + _TOGETHER])
    extended, took = time.process_time() - times[2], times[1] - times[0]
    gc.unfreeze()
    others.clear()
    return {"µs": took / _SOME * 1e6, "KiB": kib, "extend µs": extended / _SOME * 1e6}


async def _coming_back(deployment: Deployment, options: argparse.Namespace, resuming: Rows, bytes_: Rows) -> None:
    head = Seq(options.events)
    async with serving_here(deployment, [BY_BOARD]) as service:
        stores, window = service.source.stores, service.window
        docs, events = stores.data[SHAPE], stores.events
        await insert(docs, (document(n, 300) | {"board": n % _BOARDS} for n in range(_BOARDS * 100)))
        start = await _write_log(stores, head, options)
        for number, (case, board, first) in alternating(options.rounds, [("cold", 7, 0), ("hot", 8, start)]):
            window.start(_LOG, Seq(start if case == "hot" else head))
            window.extend([event async for event in events.read(_LOG, window.head, head)])
            for name, text in {"route": f"by_board?board=int:{board}", _PLAIN: f"docs/int:{board}"}.items():
                took = list[float]()
                for repeat in range(_REPEATS):
                    began = time.perf_counter()
                    # Each at a place of its own: no frame is cached.
                    messages = await _messages(service, text, Seq(first + number * _REPEATS + repeat))
                    took.append((time.perf_counter() - began) * 1000)
                    ids = [event["id"] for message in messages for event in orjson.loads(message).get("events", ())]
                    if ids != [f"int:{board}"] * _OWN:
                        raise WrongError(f"{text} got events of {ids}")
                resuming.note(f"{name}, {case}", {"first": took[0]} | percentiles(took[1:]))
        for name, text, where in (("route", "by_board?board=int:7", {"board": 7}), (_PLAIN, SHAPE, {})):
            messages = await _messages(service, text, None)
            found = [row for message in messages for row in orjson.loads(message).get("docs", ())]
            if {row["id"] for row in found} != {f"int:{row['_id']}" async for row in docs.find(where, {"_id": 1})}:
                raise WrongError(f"{text} has {len(found)} documents, and not those of the filter")
            size, own = sum(map(len, messages)), sum(len(orjson.dumps(row["doc"])) for row in found)
            bytes_.note(name, {"documents": len(found), "bytes": size, "over its documents": size / own})


async def _messages(service: SyncService, text: str, at: Seq | None) -> list[bytes]:
    """Return the messages of a client that is at a position, or begins, until it is live."""
    shape = service.source.bind(Shape.parse(text), UNRESTRICTED)
    position = None if at is None else Position(scoped(_LOG, shape.scope), at)
    with service.window.subscribers() as subscribers:
        return [
            data
            async for _, data in until_live(
                Subscription(service.source, subscribers, shape, position, lambda: UNRESTRICTED)
            )
        ]


async def _write_log(stores: Stores, head: Seq, options: argparse.Namespace) -> Seq:
    """Store events up to `head`, and return where the window begins: those of boards 7 and 8 are spread over all."""
    router, start, spare = Router([BY_BOARD]), Seq(head - min(head // 2, _HOT)), options.rounds * _REPEATS
    firsts = {8: start + spare, 7: spare + 1}
    own = {first + (head - first) * n // _OWN: board for board, first in firsts.items() for n in range(_OWN)}
    patch = [{"op": "replace", "path": "/status", "value": "paid"}]

    def new(seq: Seq) -> NewEvent:
        number = own.get(seq) or seq % 100 * _BOARDS + 9 + seq % (_BOARDS - 9)
        now = {"board": number % _BOARDS}
        event = Event(SHAPE, format_id(number), "update", 6, 7, datetime.now(UTC), patch=patch, op_id=f"op-{seq}")
        body = place(event.encode(), seq, None)
        stored = StoredEvent(seq, SHAPE, event.id, body, None, router.routes(SHAPE, now, now)[0])
        return NewEvent(stored, 7, "82" + "0" * 60, Timestamp(1_700_000_000, seq))

    for first in range(0, head, _BULK):
        await stores.events.append(_LOG, [new(Seq(seq)) for seq in range(first + 1, min(head, first + _BULK) + 1)])
    await stores.stats.counters.add(_LOG, head)
    await stores.logs.checkpoint(_LOG, head, "82", (await stores.data.command("ping"))["operationTime"])
    return start
