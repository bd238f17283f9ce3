"""The log replayed onto nothing, and compared with the collections: nothing lost, doubled, reordered or guessed."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson
import pytest
from jsonpatch import apply_patch

from eventsync.domain.events import NO_COLLECTION
from eventsync.domain.ids import IdText, format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import State, applied
from eventsync.domain.shapes import Shape
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import RAW_CODEC, decode
from eventsync.mongodb.change_stream import watch
from eventsync.stores.history.differing import same_state
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from support.replica import to_tree
from support.waiting import patience

Key = tuple[str, str]
T = TypeVar("T")


@dataclass
class Replay:
    """`rows` is (collection, id) → (version, document). It fails at the first event that does not fit."""

    seq: int = 0
    rows: dict[Key, tuple[int, dict[str, Any]]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    _open: dict[str, Any] | None = None

    def take(self, stored: StoredEvent) -> None:
        event = orjson.loads(stored.body)
        assert event["seq"] == stored.seq == self.seq + 1, "dense"
        assert (event["collection"], event["id"]) == (stored.collection, stored.id)
        self.seq += 1
        self.events.append(event)
        self._take_mark(event)
        if stored.collection == NO_COLLECTION:
            return
        key = (event["collection"], event["id"])
        version, document = self.rows.pop(key, (None, None))
        if event["op"] == "create":
            assert version is None, f"{key} is created and exists"
            assert event["base"] == 0
        else:
            assert document is not None, f"{event['op']} of {key}, which does not exist"
            assert event["base"] == version, f"{key} is at {version}: {event}"
        if event["op"] == "update":
            self.rows[key] = event["version"], apply_patch(document, event["patch"])
        elif event["op"] != "delete":
            self.rows[key] = event["version"], event["doc"]

    def _take_mark(self, event: dict[str, Any]) -> None:
        mark, was = event.get("txn"), self._open
        if was is not None and was["n"] < was["of"]:
            assert mark == was | {"n": was["n"] + 1}, "a transaction's events stand together"
        elif mark is not None:
            assert mark["n"] == 1
            assert mark["of"] > 1
            assert was is None or was["id"] != mark["id"]
        self._open = mark

    def of(self, collection: str) -> dict[str, tuple[int, dict[str, Any]]]:
        return {key: row for (name, key), row in self.rows.items() if name == collection}


async def current_log(stores: Stores) -> LogId:
    log = await stores.logs.current()
    assert log is not None
    return log.id


async def eventually(stores: Stores, collection: str, check: Callable[[], Awaitable[T | None]]) -> T:
    """Return the first result of `check`, called again whenever this collection of the log's database has changed."""
    # A deadline between reads, not a timeout around them: the driver may swallow the cancellation.
    deadline = time.monotonic() + patience(20)
    async with watch(stores.log, [{"$match": {"ns.coll": collection}}]) as stream:
        while (found := await check()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{collection}: it did not happen in time")
            await stream.read(wait=0.5, limit=1000)
        return found


async def logged(caplog: pytest.LogCaptureFixture, stores: Stores, text: str) -> None:
    """Wait until a worker has logged this message."""

    async def check() -> bool | None:
        return True if text in [one.message for one in caplog.records] else None

    await eventually(stores, "heads", check)


async def tracked(stores: Stores, *names: str) -> LogId:
    """Wait until the log in force has these collections."""

    async def check() -> LogId | None:
        log = await stores.logs.current()
        active = {item.name for item in await stores.tracking.read() if log and item.log == log.id}
        return log.id if log is not None and active.issuperset(names) else None

    return await eventually(stores, "collections", check)


async def caught_up(stores: Stores) -> LogId:
    """Wait until every change that is committed now is in the log."""
    now = (await stores.data.command("ping"))["operationTime"]

    async def check() -> LogId | None:
        log = await current_log(stores)
        checkpoint = await stores.logs.read_checkpoint(log)
        return log if checkpoint is not None and checkpoint.time >= now else None

    return await eventually(stores, "heads", check)


async def new_log(stores: Stores, old: LogId) -> LogId:
    """Wait until another log is in force."""

    async def check() -> LogId | None:
        log = await current_log(stores)
        return log if log != old else None

    return await eventually(stores, "logs", check)


async def replayed(stores: Stores, log: LogId, replay: Replay | None = None) -> Replay:
    """The whole log, or what of it `replay` has not taken yet."""
    replay = replay or Replay()
    async for stored in stores.events.read(log, Seq(replay.seq)):
        replay.take(stored)
    return replay


def brief(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return op, id, base, version and op_id of an event."""
    return event["op"], event["id"], event["base"], event["version"], event.get("op_id")


async def began(stores: Stores, *names: str) -> LogId:
    """Ask for collections, and wait until they are tracked."""
    await stores.tracking.ask(names)
    return await tracked(stores, *names)


async def snapshot(stores: Stores, log: LogId, name: str) -> Replay:
    """The collection at the newest checkpoint, ready to take the events after it."""
    async with stores.snapshots.live.open(log, Shape(name)) as taken:
        replay = Replay(seq=taken.position.seq)
        async for batch in taken.batches:
            for document in batch:
                row = orjson.loads(document.row)
                replay.rows[name, document.id] = row["version"], row["doc"]
    return replay


async def assert_complete(stores: Stores, *names: str) -> Replay:
    """Wait for the log; assert that it makes the collections, if it is replayed onto nothing. Return the replay.

    Twice: by the events as clients take them, in every value and type that JSON has; and by the product's own reader,
    whose type hints say what JSON can't (an int64 that fits into 32 bits), in every BSON type.
    """
    log = await caught_up(stores)
    replay = await replayed(stores, log)
    for name in names:
        stored = {
            format_id(document["_id"]): (stamp.version, document)
            async for raw in stores.data.get_collection(name, codec_options=RAW_CODEC).find()
            for stamp, document in [unstamp(decode(raw.raw))]
        }
        rows, states = replay.of(name), await _exact_states(stores, log, name, Seq(replay.seq))
        assert rows.keys() == stored.keys() == states.keys()
        for key, state in stored.items():
            version, tree = rows[key]
            assert version == state[0], key
            assert _json(tree) == _json(to_tree(state[1])), key
            assert same_state(states[key], state), (key, states[key], state)
    return replay


def _json(tree: Any) -> bytes:
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)


async def _exact_states(stores: Stores, log: LogId, name: str, up_to: Seq) -> dict[IdText, State]:
    states: dict[IdText, State] = {}
    async with aclosing(stores.history.reader.in_order(log, Shape(name), after=Seq(0), up_to=up_to)) as changes:
        async for change in changes:
            states[change.id] = applied(states.get(change.id), change)
    return {text: state for text, state in states.items() if state is not None}
