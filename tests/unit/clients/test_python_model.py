"""The Python client's core and store in random interleavings, against a model of the server.

The server writes, messages arrive or are lost, a new log begins, the process dies between any two statements of the
store. At each step the documents are a state that was true at their position, in memory and in the store. The effects
of the application, each in one transaction with its change, are the whole story: exactly once, and in order.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from eventsync_client.actions import Connect, Cut, Send
from eventsync_client.client import AsyncClient
from eventsync_client.core import Core, drained
from eventsync_client.followed import Shape
from eventsync_client.positions import Position
from eventsync_client.replica import Row, Update
from eventsync_client.store import Sqlite
from eventsync_client.values import JsonCodec

Json = dict[str, Any]
State = dict[str, Row]

INTERLEAVINGS: Final = 10_000
STEPS: Final = 40
CHUNKS: Final = 20
QUICK: Final = 5
"""Chunks that are no slow tests."""


class Killed(BaseException):
    """The process is dead."""


class Mortal(sqlite3.Connection):
    """A connection whose process dies before one of its next statements."""

    left: int | None = None

    def _live(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                self.rollback()
                raise Killed

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        self._live()
        return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        self._live()
        return super().executemany(*arguments)


class InMemory(Sqlite):
    """One database for all interleavings; a process that dies loses what is not committed."""

    def __init__(self) -> None:
        super().__init__("")
        self.mortal = sqlite3.connect(":memory:", isolation_level=None, factory=Mortal)
        self.prepare(self.mortal)
        self.mortal.execute("CREATE TABLE effects (id TEXT, before TEXT, after TEXT, event TEXT UNIQUE)")

    @property
    def connection(self) -> sqlite3.Connection:
        return self.mortal


class Server:
    """A log of one shape. `states` has what was true at each position."""

    def __init__(self, rng: random.Random, shape: str) -> None:
        self.rng, self.shape = rng, shape
        self.log, self.seq = "log0", 0
        self.rows: State = {}
        self.frames: list[tuple[int, list[Json]]] = []
        """The events behind a seq, those of one transaction together."""
        self.states: dict[str, State] = {"log0:0": {}}

    @property
    def position(self) -> str:
        return f"{self.log}:{self.seq}"

    def write(self) -> Json:
        """Change up to three documents in one transaction; return its frame."""
        start, events = self.seq, []
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            self.seq += 1
            events.append(self._change(self.rng.choice("abcde")))
        self.frames.append((start, events))
        self.states[self.position] = dict(self.rows)
        return {
            "type": "events",
            "shape": self.shape,
            "from": f"{self.log}:{start}",
            "to": self.position,
            "events": events,
        }

    def _change(self, key: str) -> Json:
        before = self.rows.get(key)
        n = self.rng.randrange(100)
        event: Json = {
            "seq": self.seq,
            "id": key,
            "op_id": f"{self.shape} {self.position}",
            "base": before.version if before else 0,
        }
        if before is None:
            self.rows[key] = row = Row(1, {"_id": key, "n": n})
            return event | {"op": "create", "version": 1, "doc": row.doc}
        if self.rng.random() < 0.25:
            del self.rows[key]
            return event | {"op": "delete", "version": before.version + 1}
        self.rows[key] = row = Row(before.version + 1, before.doc | {"n": n})
        patch = [{"op": "replace", "path": "/n", "value": n}]
        return event | {"op": "update", "version": row.version, "patch": patch}

    def begin_again(self) -> None:
        """Lose the log: another one begins, with the documents as they are."""
        self.log, self.seq, self.frames = f"log{int(self.log[3:]) + 1}", 0, []
        self.states[self.position] = dict(self.rows)

    def answer(self, position: str | None) -> Iterator[Json]:
        """Bring a client up to date, by any way that is exact."""
        yield {"type": "welcome", "heartbeat": 25.0, "vector": {}}
        log, _, seq = (position or ":0").partition(":")
        own = int(seq)
        if position is not None and log != self.log:
            yield {"type": "reset", "shape": self.shape, "reason": "unknown_log"}
        way = self.rng.choice(["events", "squashed", "snapshot"]) if log == self.log else "snapshot"
        if way == "events":
            # The first of them may be there already, and several frames may come as one.
            since = own - self.rng.choice([0, 0, 1, 5])
            frames = [frame for frame in self.frames if frame[1][-1]["seq"] > since]
            while frames:
                size = self.rng.randint(1, 3)
                joined, frames = frames[:size], frames[size:]
                events = [event for _, listed in joined for event in listed]
                span = {"from": f"{log}:{joined[0][0]}", "to": f"{log}:{events[-1]['seq']}"}
                yield {"type": "events", "shape": self.shape, **span, "events": events}
        elif way == "squashed" and own < self.seq:
            before = self.states[cast("str", position)]
            touched = {event["id"] for _, events in self.frames for event in events if event["seq"] > own}
            docs = [self._row(key) if key in self.rows else {"id": key, "deleted": True} for key in touched]
            assert touched >= before.keys() ^ self.rows.keys()
            yield from self._parts(
                {"type": "squashed", "shape": self.shape, "from": position, "to": self.position}, docs
            )
        elif way == "snapshot":
            docs = [self._row(key) for key in self.rows]
            yield from self._parts({"type": "snapshot", "shape": self.shape, "position": self.position}, docs)
        yield {"type": "live", "shape": self.shape, "position": self.position}

    def _row(self, key: str) -> Json:
        return {"id": key, **self.rows[key]._asdict()}

    def _parts(self, message: Json, docs: list[Json]) -> Iterator[Json]:
        self.rng.shuffle(docs)
        size = self.rng.randint(1, 4)
        parts = [docs[at : at + size] for at in range(0, len(docs), size)] or [[]]
        for number, part in enumerate(parts):
            yield message | {"part": number, "last": number + 1 == len(parts), "docs": part}


class World:
    """The server, the wire, the store, and one process of the application after another."""

    def __init__(self, seed: int, store: InMemory) -> None:
        self.rng = random.Random(seed)
        self.shape_name = f"docs{seed}"
        self.server = Server(self.rng, self.shape_name)
        self.store = store
        self.wire: deque[Json] | None = None
        self.now = 0.0
        self.effects: State = {}
        self.restart()

    # --- the application's process ------------------------------------------------------------------------------

    def restart(self) -> None:
        """Begin another process with what the store has."""
        self.store.mortal.left = None
        self.wire = None
        self.acked: Position | None = None
        self.core = core = Core(client_id="model", jitter=self.rng.random)
        client = SimpleNamespace(
            core=core,
            store=self.store,
            codec=JsonCodec(),
            durable=lambda shape, position: core.durable(shape, position, self.now),
            pulse=lambda: None,
        )
        self.shape = Shape(cast("AsyncClient", client), self.shape_name)
        saved = self.store.load(self.shape_name)
        if saved.position is not None:
            assert saved.rows == self.server.states[saved.position], "rows and position go together"
        self.core.follow(self.shape_name, saved.position, saved.rows)
        self.shape.restore(saved)
        self.core.start(self.now)
        self.perform()

    def perform(self) -> None:
        for action in drained(self.core):
            if isinstance(action, Update):
                self.shape.published(action, self.store.apply(action))
            elif isinstance(action, Connect):
                self.wire = deque()
                self.core.opened(self.now)
            elif isinstance(action, Cut):
                self.wire = None
            elif isinstance(action, Send) and action.message["type"] == "hello":
                self.acked = None
                self.wire = deque(self.server.answer(action.message["vector"].get(self.shape_name)))
            elif isinstance(action, Send) and action.message["type"] == "ack":
                self.check_ack(Position.parse(action.message["vector"][self.shape_name]))

    def take(self) -> None:
        """Take the changes from now on, if this process has not begun to."""
        if self.shape.pending is None:
            self.shape.pending = deque(self.store.take_changes(self.shape_name, self.shape.rows))

    def consume(self) -> None:
        self.take()
        if not self.shape.pending:
            return
        item = self.shape.pending[0]
        values: list[str | None] = [
            self.shape_name + item.change.id,
            json.dumps(item.change.before),
            json.dumps(item.change.after),
        ]
        values.append((item.change.event or {}).get("op_id"))
        with self.store.transaction(self.shape_name, item.number) as db:
            db.execute("INSERT INTO effects VALUES (?, ?, ?, ?)", values)
        self.shape.done(item)

    # --- what may happen ----------------------------------------------------------------------------------------

    def deliver(self) -> None:
        if self.wire:
            self.core.receive(self.wire.popleft(), self.now)
            self.perform()

    def write(self) -> None:
        frame = self.server.write()
        if self.wire is not None:
            self.wire.append(frame)

    def cut(self) -> None:
        if self.wire is not None:
            self.core.closed(None, "", self.now)
            self.perform()

    def wait(self) -> None:
        self.now += 31.0
        self.core.tick(self.now)
        self.perform()

    def begin_again(self) -> None:
        self.server.begin_again()
        if self.wire is not None:
            self.plan_again("none:1")

    def plan_again(self, position: str | None = None) -> None:
        """Leave the answer that is under way, maybe in the middle of its parts, for a snapshot."""
        if self.wire:
            self.wire = deque([*self.server.answer(position)][0 if self.wire[0]["type"] == "welcome" else 1 :])

    def lose(self) -> None:
        """Lose a frame before another one, as no transport should. (Before `live`, nothing would tell.)"""
        wire = self.wire or deque()
        pairs = [at for at, pair in enumerate(pairwise(wire)) if {message["type"] for message in pair} == {"events"}]
        if pairs:
            del wire[self.rng.choice(pairs)]

    def mark(self) -> None:
        self.store.mortal.left = self.rng.randint(0, 12)

    def step(self) -> None:
        often = [self.write, self.deliver, self.consume, self.wait, self.mark]
        seldom = [self.cut, self.begin_again, self.plan_again, self.lose]
        (action,) = self.rng.choices([*often, *seldom], weights=[9, 9, 8, 2, 1.5, 1, 0.6, 1, 1])
        try:
            action()
        except Killed:
            self.restart()
        self.check()

    def check(self) -> None:
        position = self.shape.position
        if position is not None:
            assert dict(self.shape.rows) == self.server.states[position]

    def check_ack(self, acked: Position) -> None:
        self.acked = acked
        saved = self.store.load(self.shape_name)
        # The server closes a connection that acknowledges what it has not brought.
        for position in (self.shape.position, saved.position):
            assert position is not None
            assert Position.parse(position).reaches(acked)
        ends = [Position.parse(item.position) for item in saved.pending or () if item.position is not None]
        assert not any(map(acked.reaches, ends)), "the changes up to there are done"

    def finish(self) -> None:
        """Let everything arrive, and be done."""
        self.store.mortal.left = None
        while not (self.core.is_live(self.shape_name) and self.shape.position == self.server.position):
            if self.wire:
                self.deliver()
            else:
                self.cut()
                self.wait()
        self.take()
        while self.shape.pending:
            self.consume()
        self.core.receive({"type": "progress", "vector": {}}, self.now)
        self.now += 2.0
        self.core.tick(self.now)
        self.perform()
        assert str(self.acked) == self.server.position, "all is done"
        assert dict(self.shape.rows) == self.server.rows == self.store.load(self.shape_name).rows
        told: dict[str, Any] = {}
        found = self.store.connection.execute("SELECT id, before, after FROM effects ORDER BY rowid").fetchall()
        for key, before, after in found:
            assert told.get(key, "null") == before, "each effect continues the one before"
            told[key] = after
        rows = {self.shape_name + key: json.dumps(row) for key, row in self.server.rows.items()}
        assert {key: after for key, after in told.items() if after != "null"} == rows
        self.store.forget(self.shape_name)
        self.store.connection.execute("DELETE FROM effects")


@pytest.mark.parametrize(
    "chunk", [*range(QUICK), *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in range(QUICK, CHUNKS))]
)
def test_interleavings(chunk: int) -> None:
    each = INTERLEAVINGS // CHUNKS
    interleave(range(chunk * each, (chunk + 1) * each))


def interleave(seeds: range) -> None:
    """Run the interleavings of these seeds. A failure names its seed."""
    store = InMemory()
    for seed in seeds:
        world = World(seed, store)
        try:
            for _ in range(STEPS):
                world.step()
            world.finish()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
    store.mortal.close()
