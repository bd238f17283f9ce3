"""A shape that is followed: its documents, and their changes, for either kind of client."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, Self

from eventsync_client.core import Core
from eventsync_client.errors import ShapeRefused
from eventsync_client.positions import Position
from eventsync_client.replica import Json, Kind, RawChange, Source, Update
from eventsync_client.store import Pending, Saved, Store
from eventsync_client.values import Codec


class Owner(Protocol):
    """The part of a client that its shapes use."""

    core: Core
    codec: Codec
    store: Store
    lock: asyncio.Lock

    async def moved(self) -> None:
        """Wait until something may have changed."""

    def pulse(self) -> None:
        """Wake all who wait."""

    def check(self) -> None:
        """Raise `SyncFailed` if nothing will come any more."""

    def durable(self, shape: str, position: str | None) -> None:
        """Know that all up to a position is durable, and its changes are done. None: nothing is known to be."""

    def wake(self) -> None:
        """Have the driver do what is due."""

    async def unfollow(self, shape: Shape) -> None:
        """Follow a shape no more."""


class AnyChange:
    """A change of one document, for either kind of client."""

    def __init__(self, shape: Shape, pending: Pending) -> None:
        self._shape = shape
        self._pending = pending
        self._raw: RawChange = pending.change

    def __repr__(self) -> str:
        return f"<Change {self.kind} {self.id} of {self.shape}>"

    @property
    def shape(self) -> str:
        return self._raw.shape

    @property
    def kind(self) -> Kind:
        """`create`, `update` or `delete`, by what was held before and is held after."""
        return self._raw.kind

    @property
    def id(self) -> str:
        return self._raw.id

    @property
    def source(self) -> Source:
        """The message that it came by. `snapshot` and `squashed` may stand for several events."""
        return self._raw.source

    @property
    def before(self) -> Any:
        """The document before; None if the client held none."""
        row = self._raw.before
        return None if row is None else self._shape.codec.decode(row.doc)

    @property
    def after(self) -> Any:
        """The document after; None if the client holds none."""
        row = self._raw.after
        return None if row is None else self._shape.codec.decode(row.doc)

    @property
    def version(self) -> int | None:
        """The version after the change; None for a deletion that no event tells of."""
        if self._raw.after is not None:
            return self._raw.after.version
        return None if self._raw.event is None else int(self._raw.event["version"])

    @property
    def event(self) -> Json | None:
        """The event, as on the wire (`op`, `by`, `op_id`, `at`, `enter`, `leave` …); None if it came otherwise."""
        return self._raw.event


class Change(AnyChange):
    """A change of one document. `before` and `after` are the document; None where there was or is none."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[sqlite3.Connection]:
        """Do the change in one transaction of the store: what the block writes, and that the change is done.

        If the block fails, neither is kept, and the change comes again. Raises `TypeError` without such a store.
        """
        async with self._shape.client.lock:
            with self._shape.client.store.transaction(self.shape, self._pending.number) as connection:
                yield connection
        self._shape.done(self._pending)


class Documents(Mapping[str, Any]):
    """The documents of a shape: id → document. It changes as messages arrive, between two `await`."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def __getitem__(self, key: str) -> Any:
        return self._shape.codec.decode(self._shape.rows[key].doc)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shape.rows)

    def __len__(self) -> int:
        return len(self._shape.rows)


class Shape:
    """A shape that is followed."""

    def __init__(self, client: Owner, text: str) -> None:
        self.client = client
        self.text = text
        self.codec: Codec = client.codec
        self.refusal: ShapeRefused | None = None
        self.pending: deque[Pending] | None = None
        """None while nobody has asked for changes."""
        self._done = 0
        self._is_taken = False

    def __repr__(self) -> str:
        return f"<Shape {self.text}>"

    @property
    def rows(self) -> Mapping[str, Any]:
        return self.client.core.documents(self.text) or {}

    @property
    def documents(self) -> Mapping[str, Any]:
        """The documents now: id → document."""
        return Documents(self)

    def version(self, id: str) -> int:
        """Return the version of a document, as `if_match` takes it. Raises `KeyError`."""
        return int(self.rows[id].version)

    @property
    def position(self) -> str | None:
        """The position at which the documents are so; None before the first snapshot."""
        return self.client.core.vector.get(self.text)

    @property
    def is_live(self) -> bool:
        """True if the shape has caught up on the present connection."""
        return self.client.core.is_live(self.text)

    async def live(self) -> Self:
        """Wait until the shape has caught up. Raises `ShapeRefused` and `SyncFailed`."""
        await self._until(lambda: self.is_live)
        return self

    async def reached(self, position: str) -> None:
        """Wait until the shape is at a position, or beyond it."""
        wanted = Position.parse(position)
        await self._until(lambda: self.position is not None and Position.parse(self.position).reaches(wanted))

    def is_past(self, barrier: Position) -> bool | None:
        """Return True if the documents are those at or past a barrier; None if they are of another log."""
        return self.position is not None and Position.parse(self.position).is_past(barrier)

    async def _until(self, there: Callable[[], bool]) -> None:
        while not there():
            self._check()
            await self.client.moved()

    def _check(self) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.client.check()

    async def close(self) -> None:
        """Follow the shape no more. What the store has of it stays."""
        await self.client.unfollow(self)

    # --- changes ------------------------------------------------------------------------------------------------

    async def changes(self) -> AsyncGenerator[Change]:
        """Yield each change, in order, beginning with a `create` of each document that there is.

        A change is done once the next one is asked for, or once its `transaction` has ended. One that is not done
        comes again: with a store that lasts, also after a restart. Raises `ShapeRefused` and `SyncFailed`.
        """
        if self._is_taken:
            raise RuntimeError(f"the changes of {self.text} are taken already")
        self._is_taken = True
        try:
            self.client.wake()
            while (pending := self.pending) is None:
                self._check()
                await self.client.moved()
            while True:
                while not pending:
                    self._check()
                    await self.client.moved()
                item = pending[0]
                yield Change(self, item)
                if item.number != self._done:
                    async with self.client.lock:
                        self.client.store.done(self.text, item.number)
                    self.done(item)
        finally:
            self._is_taken = False

    @property
    def awaits_changes(self) -> bool:
        """True if the application takes the changes, and the client does not keep them yet."""
        return self._is_taken and self.pending is None and self.refusal is None

    def done(self, item: Pending) -> None:
        """Know that the application has done the first pending change."""
        if self.pending and self.pending[0].number == item.number:
            position = self.pending.popleft().position
            self._done = item.number
            if position is not None:
                self.client.durable(self.text, position)
            self.client.pulse()

    def restore(self, saved: Saved) -> None:
        """Take up what the store has of the changes."""
        self.pending = None if saved.pending is None else deque(saved.pending)
        self.client.durable(self.text, None)  # unless it is done, too
        self._stored(saved.position)

    def published(self, update: Update, kept: list[Pending]) -> None:
        """Know of changes that the store has."""
        if self.pending is not None:
            self.pending.extend(kept)
        self._stored(update.position)

    def _stored(self, position: str | None) -> None:
        """Know that the store is at a position, which is done once all changes that wait are."""
        if position is None:
            return
        if self.pending:
            self.pending[-1] = self.pending[-1]._replace(position=position)
        else:
            self.client.durable(self.text, position)

    @property
    def backlog(self) -> int:
        """Changes that the application has not done yet."""
        return len(self.pending or ())

    def refuse(self, refusal: ShapeRefused) -> None:
        """Know that the server refuses the shape."""
        self.refusal = refusal
