"""Changes of every shape: whole collections dropped and renamed, documents of 15 MiB, transactions of a thousand
documents and of more than 16 MiB, what expires, tracking switched on and off.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.chaos.history import ALL, Effect, Recorder
from support.chaos.nemeses import listed
from support.chaos.observed import last_event
from support.mutants import ODD, framed, text
from support.waiting import scaled

SOMETIMES = "extra"
"""The collection that is tracked at some times only."""

_MANY = 1000
_LARGE = 15 * 1024 * 1024 - 4096
_PART = 4 * 1024 * 1024
_HEAVY_PAUSE = 4.0
_ACTIVE = 15.0
Shape = Callable[["ShapeWriter"], Awaitable[None]]


async def prepare(client: Client, database: str) -> None:
    """Make what has to be there from the beginning: an index that is made later ends reading at earlier times."""
    await client[database]["bulk"].create_index("expires", expireAfterSeconds=0)


def tracked_for(shapes: Iterable[str]) -> tuple[str, ...]:
    """The collections for these shapes that are tracked all the time."""
    return ("bulk",) if set(shapes) else ()


class ShapeWriter:
    """Makes the changes of `shapes`, each in turn, in another order every time, and small ones in between."""

    def __init__(
        self,
        recorder: Recorder,
        client: Client,
        settings: Settings,
        names: Sequence[str],
        shapes: Iterable[str],
        seed: int,
    ) -> None:
        self.made: Counter[str] = Counter()
        """Number of times that each shape was acknowledged."""
        self.asked = 0
        """Number of times that the tracking of `extra` was asked for."""
        self.random = random.Random(f"{seed} shapes")
        self.names = tuple(names)
        """Collections that the API writes to, too."""
        self.client = client
        self.database = client[settings.database]
        self.log_database = settings.log_db
        self.tracking = Stores.of(client, settings).tracking
        self._recorder = recorder
        self._shapes = tuple(shapes)
        self._count = 0
        self._tried: set[str] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop`, and until each shape was tried."""
        turn: list[str] = []
        while not stop.is_set() or self._tried < set(self._shapes):
            turn = turn or self.random.sample(self._shapes, len(self._shapes))
            name = turn.pop()
            # Not for the driver's errors alone: a call of the product's own stores raises its own.
            with suppress(PyMongoError, Unavailable):
                await SHAPES[name](self)
                self.made[name] += 1
            self._tried.add(name)
            await self._little()

    async def _little(self) -> None:
        for _ in range(self.random.randrange(3, 12)):
            with suppress(PyMongoError):
                await put(self, "bulk", self.random.choice("abcdefgh"), n=self.random.choice((1, 2, None)))
            await asyncio.sleep(self.random.uniform(0.0, 0.1))

    @contextmanager
    def write(self, *effects: tuple[str, str, bool], weak: bool = False) -> Iterator[str]:
        """Record a write around the block, which is given its mark: `<mark>` of a single effect, else `<mark>.<n>`.

        An effect is (collection, id, whether it is a put). What fails may have happened; so may what is `weak`.
        """
        self._count += 1
        mark = f"shape-{self._count}"
        named = [
            Effect((name, text), (f"{mark}.{n}" if len(effects) > 1 else mark) if is_put else None)
            for n, (name, text, is_put) in enumerate(effects)
        ]
        with self._recorder.writing(mark, *named, weak=weak):
            yield mark


async def put(writer: ShapeWriter, name: str, text: str, *, weak: bool = False, **fields: Any) -> None:
    """One document, made or changed."""
    with writer.write((name, text, True), weak=weak) as mark:
        await writer.database[name].update_one({"_id": text}, {"$set": {"mark": mark, **fields}}, upsert=True)


async def _gone(writer: ShapeWriter, name: str, query: dict[str, Any]) -> None:
    with writer.write((name, ALL, False)):
        await writer.database[name].delete_many(query)


async def drop(writer: ShapeWriter) -> None:
    """A collection is dropped."""
    await _drop(writer, "bulk")


async def drop_under_the_api(writer: ShapeWriter) -> None:
    """A collection is dropped that the API writes to all the time."""
    await _drop(writer, writer.random.choice(writer.names))


async def _drop(writer: ShapeWriter, name: str) -> None:
    with writer.write((name, ALL, False)):
        await writer.database[name].drop()


async def rename_away(writer: ShapeWriter) -> None:
    """A collection gets another name, under which it is not tracked."""
    await put(writer, "bulk", "a")
    with writer.write(("bulk", ALL, False)):
        await writer.database["bulk"].rename("moved", dropTarget=True)


async def rename_onto(writer: ShapeWriter) -> None:
    """Another collection takes the place of a tracked one."""
    await writer.database["incoming"].drop()
    effects = [("bulk", text, True) for text in "aij"]
    with writer.write(*effects, ("bulk", ALL, False)) as mark:
        rows = [{"_id": text, "mark": f"{mark}.{n}"} for n, text in enumerate("aij")]
        await writer.database["incoming"].insert_many(rows)
        await writer.database["incoming"].rename("bulk", dropTarget=True)


async def drop_database(writer: ShapeWriter) -> None:
    """The whole database is dropped."""
    with writer.write(*((name, ALL, False) for name in (*writer.names, "bulk"))):
        await writer.client.drop_database(writer.database.name)


async def large_document(writer: ShapeWriter) -> None:
    """A document of 15 MiB is made, changed a little (with both images that is more than 16 MiB), and deleted."""
    await asyncio.sleep(_HEAVY_PAUSE)
    await put(writer, "bulk", "large", filler=_filler(writer, _LARGE))
    await put(writer, "bulk", "large", n=1)
    await _gone(writer, "bulk", {"_id": "large"})


async def odd_document(writer: ShapeWriter) -> None:
    """A document that the driver can't decode, or not exactly, is made, changed and deleted."""
    odd = ODD[writer.random.choice(sorted(ODD))]
    with writer.write(("bulk", "odd", True)) as mark:
        raw = framed(b"\x02_id\0" + text(b"odd"), b"\x02mark\0" + text(mark.encode()), odd)
        await writer.database["bulk"].insert_one(RawBSONDocument(raw))
    await put(writer, "bulk", "odd", n=1)
    await put(writer, "bulk", "a")
    await _gone(writer, "bulk", {"_id": "odd"})


async def large_transaction(writer: ShapeWriter) -> None:
    """A transaction of more than 16 MiB, which is in several entries of the oplog."""
    await asyncio.sleep(_HEAVY_PAUSE)
    await _transaction(writer, [f"t{n}" for n in range(5)], _PART)
    await _gone(writer, "bulk", {"_id": {"$regex": "^t"}})


async def many_in_one_transaction(writer: ShapeWriter) -> None:
    """A thousand documents in one transaction."""
    await _transaction(writer, [f"m{n}" for n in range(_MANY)], 0)
    await _gone(writer, "bulk", {"_id": {"$regex": "^m"}})


async def _transaction(writer: ShapeWriter, texts: Sequence[str], size: int) -> None:
    filler = _filler(writer, size)
    with writer.write(*(("bulk", text, True) for text in texts)) as mark:
        async with writer.client.start_session() as session, await session.start_transaction():
            requests = [
                UpdateOne({"_id": text}, {"$set": {"mark": f"{mark}.{n}", "n": n % 3, "filler": filler}}, upsert=True)
                for n, text in enumerate(texts)
            ]
            await writer.database["bulk"].bulk_write(requests, session=session)


def _filler(writer: ShapeWriter, size: int) -> str:
    return writer.random.choice("xyz") * size


async def expire(writer: ShapeWriter) -> None:
    """Documents whose time is over at once."""
    texts = [f"e{n}" for n in range(3)]
    await writer.database["bulk"].create_index("expires", expireAfterSeconds=0)
    with writer.write(*(("bulk", text, True) for text in texts), ("bulk", ALL, False)) as mark:
        over = datetime.now(UTC)
        for n, text in enumerate(texts):
            fields = {"mark": f"{mark}.{n}", "expires": over}
            await writer.database["bulk"].update_one({"_id": text}, {"$set": fields}, upsert=True)


async def expired(writer: ShapeWriter, *, seconds: float = 3.0) -> None:
    """Wait until nothing is left to expire, as far as that can be had: the index may have gone with its collection."""
    with suppress(TimeoutError):
        async with asyncio.timeout(scaled(seconds)):
            while await _expiring(writer):  # noqa: ASYNC110 - the event is in MongoDB
                await asyncio.sleep(0.1)


async def _expiring(writer: ShapeWriter) -> bool:
    with suppress(PyMongoError):
        return await writer.database["bulk"].find_one({"expires": {"$exists": True}}) is not None
    return True


async def track(writer: ShapeWriter) -> None:
    """A collection is tracked for a while; what was written when it surely was has its events."""
    writer.asked += 1
    await writer.tracking.ask([SOMETIMES])
    deadline = time.monotonic() + _ACTIVE
    active = False
    while not active and time.monotonic() < deadline:
        await put(writer, SOMETIMES, writer.random.choice("abc"), weak=True)
        active = any(item.name == SOMETIMES and item.log is not None for item in await writer.tracking.read())
    for _ in range(10):
        await put(writer, SOMETIMES, writer.random.choice("abcdef"), weak=not active)
    # What is not in the log yet when its collection is untracked has no event, as is documented.
    if writer.random.random() < 0.7 and await _sequenced(writer, SOMETIMES):
        await writer.tracking.forget([SOMETIMES])
        for _ in range(5):
            await put(writer, SOMETIMES, writer.random.choice("abc"), weak=True)


async def _sequenced(writer: ShapeWriter, name: str) -> bool:
    """Wait until what was written so far to a collection is in the log. False where that takes too long."""
    await put(writer, name, "a", weak=True)
    row = await writer.database[name].find_one({"_id": "a"})
    deadline = time.monotonic() + _ACTIVE
    while row is not None and time.monotonic() < deadline:
        event = await last_event(writer.client, writer.log_database, name, "a")
        if event is not None and event.mark == row["mark"]:
            return True
        await asyncio.sleep(0.05)
    return False


_ALL: tuple[Shape, ...] = (large_document, large_transaction, many_in_one_transaction, odd_document, expire, track)
_DROPS: tuple[Shape, ...] = (drop, drop_under_the_api, rename_away)
"""They may need a repair: a collection that is made again has no images at first."""

_FATAL: tuple[Shape, ...] = (rename_onto, drop_database)
"""They always need a repair."""

SHAPES = MappingProxyType({shape.__name__: shape for shape in (*_ALL, *_DROPS, *_FATAL)})
FATAL_SHAPES = frozenset(shape.__name__ for shape in (*_DROPS, *_FATAL))


def known_shapes(names: str) -> tuple[str, ...]:
    """The shapes that `names` lists: comma separated; `all`, which need no repair; `fatal`, which may; or `none`.

    `track` is not among the fatal: a collection that was tracked just now has no stored snapshot to be repaired by, and
    begins again, one time more than it was asked to.

    Raises `ValueError`.
    """
    ordinary = tuple(shape.__name__ for shape in _ALL)
    fatal = tuple(shape.__name__ for shape in (*_ALL, *_DROPS, *_FATAL) if shape is not track)
    return listed(names, "shape", SHAPES, {"all": ordinary, "fatal": fatal})
