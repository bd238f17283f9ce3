"""The asynchronous client: it connects, keeps the documents of its shapes, and passes on their changes."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sqlite3
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Literal, Self, cast
from urllib.parse import quote

import httpx

from eventsync_client.collection import Collection
from eventsync_client.core import Ask, Connect, Core, Cut, Refused, Send, Status, Why, drained
from eventsync_client.errors import BarrierTimeout, OutcomeUnknown, ShapeRefused, SyncFailed
from eventsync_client.http import Http
from eventsync_client.positions import Position
from eventsync_client.replica import Json, Kind, RawChange, Source, Update
from eventsync_client.shapes import shape_text
from eventsync_client.store import Memory, Pending, Store
from eventsync_client.transports import Ended, Link, Request, Transport, open_link
from eventsync_client.values import Codec, Decode, codec_of

logger = logging.getLogger("eventsync_client")

Token = str | Callable[[Why], str | Awaitable[str]]
"""A token, or a function that is asked for one: before each connection, before its end, and after a refusal."""

_ASK_AGAIN: Final = 1.0
"""Seconds that a barrier waits for shapes of another log, which may be a newer one, before another is asked for."""

_LARGE: Final = 500
"""Rows of an update above which a store works in a thread."""

_ORDER: Final[tuple[Transport, ...]] = ("websocket", "websocket", "sse", "websocket", "http")
"""Transports of one attempt after another: where a proxy blocks the first, another one gets through."""


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

    def __init__(self, client: AsyncClient, text: str) -> None:
        self.client = client
        self.text = text
        self.codec: Codec = client.codec
        self.loaded = False
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
            await self._until(lambda: self.loaded)
            pending = await self._take()
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

    async def _take(self) -> deque[Pending]:
        if self.pending is None:
            self.pending = deque(await self.client.take_changes(self.text))
        return self.pending

    def done(self, item: Pending) -> None:
        """Know that the application has done the first pending change."""
        if self.pending and self.pending[0].number == item.number:
            self.pending.popleft()
            self._done = item.number
            if item.position is not None:
                self.client.durable(self.text, item.position)
            self.client.pulse()

    def restore(self, pending: list[Pending] | None) -> None:
        """Take up what the store has of the changes."""
        self.pending = None if pending is None else deque(pending)
        self.loaded = True

    def published(self, update: Update, kept: list[Pending]) -> None:
        """Know of changes that the store has."""
        if self.pending is not None:
            self.pending.extend(kept)
        if not self.pending and update.position is not None:
            self.client.durable(self.text, update.position)

    @property
    def backlog(self) -> int:
        """Changes that the application has not done yet."""
        return len(self.pending or ())

    def refuse(self, refusal: ShapeRefused) -> None:
        """Know that the server refuses the shape."""
        self.refusal = refusal


class AsyncClient:
    """A client of one server. It runs while its `async with` block does.

    `token`: a token, or a function that returns one; it gets the reason: `connect`, `expiring` or `refused`. `store`:
    where the documents are kept (`Memory`, `Sqlite`). `transport`: `auto` is a WebSocket, or what gets through.
    `decode`: documents as `json`, or with the types of `bson`. `max_pending`: changes of a shape that may wait for
    the application; while there are more, nothing is read.
    """

    def __init__(
        self,
        url: str,
        *,
        token: Token | None = None,
        client_id: str | None = None,
        store: Store | None = None,
        transport: Transport | Literal["auto"] = "auto",
        decode: Decode = "json",
        max_pending: int = 10_000,
    ) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address of a server: expected http://… or https://…")
        self.codec = codec_of(decode)
        self.store: Store = Memory() if store is None else store
        self.core = Core(client_id=client_id, has_token=token is not None)
        self.lock = asyncio.Lock()
        """Held while the store is in use."""
        self._client_id = client_id
        self._token = token
        self._transport = transport
        self._max_pending = max_pending
        self._shapes: dict[str, Shape] = {}
        self._followed: set[str] = set()
        self._moved = asyncio.Event()
        self._wake = asyncio.Event()
        self._performing = asyncio.Lock()
        self._link: Link | None = None
        self._connection: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._driver: asyncio.Task[None] | None = None
        self._blocked = False
        """True if no WebSocket got through last time."""
        self._client: httpx.AsyncClient | None = None
        self._http: Http | None = None

    # --- use ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._driver is not None:
            raise RuntimeError("a client runs once")
        await asyncio.to_thread(self.store.open)
        self._client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None))
        self._http = Http(self._client, self.url, self.ask_token if self._token is not None else None)
        self._driver = asyncio.create_task(self._drive(), name="eventsync client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.core.stop()
        # A thread of the store is never left alone: it works while the lock is held.
        async with self._performing:
            tasks = {*self._tasks, *([self._driver] if self._driver is not None else [])}
            for task in tasks:
                task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._client is not None:
            await self._client.aclose()
        async with self.lock:
            self.store.close()
        self.pulse()

    @property
    def status(self) -> Status:
        """The state of the connection; `reason` says why it waits or has failed."""
        return self.core.status

    @property
    def reason(self) -> str:
        return self.core.reason

    @property
    def stale(self) -> bool:
        """True if the server has said that some changes may not be events yet."""
        return self.core.stale

    def shape(self, name: str, **parameters: Any) -> Shape:
        """Follow a collection, `collection/id`, or a declared shape with its parameters."""
        text = shape_text(name, parameters)
        if text not in self._shapes:
            self._shapes[text] = Shape(self, text)
            self._wake.set()
        return self._shapes[text]

    def collection(self, name: str) -> Collection:
        """Return the documents of a collection on the server, to read and write."""
        if self._http is None:
            raise RuntimeError("the client is not in use: async with AsyncClient(…)")
        return Collection(self._http, name, self.codec)

    async def barrier(self, *, timeout: float = 30.0) -> None:
        """Wait until each shape that is followed has all writes that were acknowledged before the call, by any server.

        By a WebSocket a shape in which nothing happens gets there at once, else with the next heartbeat. A shape that
        the server refuses is left out. Raises `BarrierTimeout` after `timeout` seconds, `SyncFailed`, and
        `RequestError`.
        """
        if self._http is None:
            raise RuntimeError("the client is not in use: async with AsyncClient(…)")
        shapes = list(self._shapes.values())
        end = self._now() + timeout
        limit = asyncio.timeout_at(end)
        try:
            async with limit:
                while True:
                    answer = await self._http.request("POST", "/v1/barrier", body={}, timeout=end - self._now())
                    found = answer.json()
                    if await self._have_reached(shapes, Position(found["log"], found["seq"])):
                        return
        except OutcomeUnknown as error:
            raise BarrierTimeout(f"the server names no barrier: {error}") from error
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise BarrierTimeout(f"not all shapes have come to the barrier within {timeout:g} s") from error

    async def _have_reached(self, shapes: list[Shape], barrier: Position) -> bool:
        """Wait until shapes are past a barrier; return False if one stays in another log."""
        self.core.reach(barrier, self._now())
        await self._perform()
        self._wake.set()
        ask_again: float | None = None
        while True:
            there = [shape.is_past(barrier) for shape in shapes if shape.refusal is None]
            if all(there):
                return True
            self.check()
            if None not in there:
                ask_again = None
            elif ask_again is None:
                ask_again = self._now() + _ASK_AGAIN
            try:
                async with asyncio.timeout_at(ask_again):
                    await self.moved()
            except TimeoutError:
                return False

    async def unfollow(self, shape: Shape) -> None:
        """Follow a shape no more."""
        if self._shapes.pop(shape.text, None) is not None:
            shape.refuse(ShapeRefused(shape.text, "closed", "the application follows it no more"))
            self._followed.discard(shape.text)
            self.core.unfollow(shape.text)
            await self._perform()

    async def moved(self) -> None:
        """Wait until something may have changed."""
        await self._moved.wait()

    def pulse(self) -> None:
        """Wake all who wait."""
        self._moved.set()
        self._moved = asyncio.Event()

    def check(self) -> None:
        """Raise `SyncFailed` if nothing will come any more."""
        if self.core.status is Status.FAILED:
            raise SyncFailed(self.core.reason)
        if self._driver is None or self._driver.done():
            raise SyncFailed("the client does not run")

    def durable(self, shape: str, position: str) -> None:
        """Know that all up to a position is durable, and its changes are done."""
        self.core.durable(shape, position, self._now())
        self._wake.set()

    # --- the work -----------------------------------------------------------------------------------------------

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _drive(self) -> None:
        """Do what is due, until the client ends."""
        try:
            while True:
                self._wake.clear()
                await self._follow_new()
                self.core.tick(self._now())
                await self._perform()
                due = self.core.due
                timeout = None if due is None else max(0.0, due - self._now())
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await self._wake.wait()
        except Exception as error:  # noqa: BLE001 - whatever it is, the application is to know
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        logger.error("the client has failed", exc_info=error)
        self.core.fail(f"{type(error).__name__}: {error}")
        if self._connection is not None and self._connection is not asyncio.current_task():
            self._connection.cancel()
        self.pulse()

    async def _follow_new(self) -> None:
        for text, shape in list(self._shapes.items()):
            if text not in self._followed:
                self._followed.add(text)
                async with self._performing, self.lock:
                    saved = await asyncio.to_thread(self.store.load, text)
                    shape.restore(saved.pending)
                    self.core.follow(text, saved.position, saved.rows)
                self.pulse()
        if self._shapes and self.core.status is Status.STOPPED:
            self.core.start(self._now())

    async def _perform(self) -> None:
        """Execute the actions of the core, in order."""
        async with self._performing:
            await self._drain()
        self.pulse()

    async def _drain(self) -> None:
        for action in drained(self.core):
            if isinstance(action, Update):
                await self._keep(action)
            elif isinstance(action, Send):
                if self._link is not None:
                    await self._link.send(action.message)
            elif isinstance(action, Refused):
                await self._refused(action)
            elif isinstance(action, Cut):
                self._cut()
            elif isinstance(action, Connect):
                self._connection = self._spawn(self._connect(), "eventsync connection")
            elif isinstance(action, Ask):
                self._spawn(self._ask(action.why), "eventsync token")
            else:
                self._spawn(self._acknowledge(action.vector), "eventsync acknowledgement")

    async def take_changes(self, shape: str) -> list[Pending]:
        """Keep the changes of a shape from now on, beginning with its documents."""
        async with self._performing:
            while True:
                await self._drain()
                async with self.lock:
                    # What is not in the store yet would be among its documents, and then come as a change, too.
                    if not self.core.actions:
                        return self.store.take_changes(shape, self.core.documents(shape) or {})

    def _spawn(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _cut(self) -> None:
        connection, self._connection, self._link = self._connection, None, None
        if connection is not None and connection is not asyncio.current_task():
            connection.cancel()

    async def _keep(self, update: Update) -> None:
        async with self.lock:
            if len(update.put) + len(update.changes) > _LARGE:
                kept = await asyncio.to_thread(self.store.apply, update)
            else:
                kept = self.store.apply(update)
            if (shape := self._shapes.get(update.shape)) is not None:
                shape.published(update, kept)

    async def _refused(self, action: Refused) -> None:
        message = action.message
        logger.warning("the server refuses: %s (%s)", message["message"], message["code"])
        if action.forgotten is None:
            return
        if message["code"] == "forbidden":
            async with self.lock:
                self.store.forget(action.forgotten)
        if (shape := self._shapes.get(action.forgotten)) is not None:
            shape.refuse(ShapeRefused(action.forgotten, message["code"], message["message"]))

    # --- the connection -----------------------------------------------------------------------------------------

    def _choose(self) -> Transport:
        if self._transport != "auto":
            return self._transport
        if self._blocked:
            return "sse" if self.core.attempts % 3 else "http"
        return _ORDER[self.core.attempts % len(_ORDER)]

    async def _connect(self) -> None:
        """Connect, and receive until the end of the connection."""
        link: Link | None = None
        me = asyncio.current_task()
        try:
            await self._room()
            core = self.core
            asked = Request(self.url, core.shapes, core.vector, self._client_id, core.current_token)
            link = await open_link(self._choose(), asked, cast("httpx.AsyncClient", self._client))
            if self._connection is not me:
                return
            self._link = link
            core.opened(self._now(), two_way=link.two_way)
            await self._perform()
            self._wake.set()
            while self._connection is me:
                message = await link.receive()
                if self._connection is me:
                    core.receive(message, self._now())
                    await self._perform()
                    self._wake.set()
                    await self._room()
        except Ended as ended:
            if self._connection is me:
                self._blocked = ended.blocked or (self._blocked and ended.code is None)
                self.core.closed(ended.code, ended.reason, self._now(), retry_after=ended.retry_after)
                await self._perform()
                self._wake.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, the application is to know
            self._fail(error)
        finally:
            if link is not None:
                await link.close()

    async def _room(self) -> None:
        """Wait while too many changes wait for the application."""
        while any(shape.backlog > self._max_pending for shape in self._shapes.values()):
            await self.moved()

    async def _ask(self, why: Why) -> None:
        try:
            token = await self.ask_token(why)
        except Exception as error:  # noqa: BLE001 - the application's function may raise anything
            logger.warning("there is no token: %r", error)
            self.core.token_failed(f"there is no token: {error!r}", self._now())
        else:
            self.core.token(token, self._now())
        self._wake.set()

    async def ask_token(self, why: Why) -> str:
        """Return a token. Raises what the application's function raises."""
        if callable(self._token):
            answer = self._token(why)
            return await answer if inspect.isawaitable(answer) else answer
        return cast("str", self._token)

    async def _acknowledge(self, vector: Mapping[str, str]) -> None:
        if self._http is None or self._client_id is None:
            return
        try:
            path = f"/v1/state-vectors/{quote(self._client_id, safe='')}"
            await self._http.request("PUT", path, body={"vector": dict(vector)}, timeout=5.0)
        except Exception as error:  # noqa: BLE001 - the next one says as much
            logger.info("an acknowledgement has failed: %r", error)
