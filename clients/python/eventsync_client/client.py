"""The asynchronous client: it connects, keeps the documents of its shapes, and passes on their changes."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar, cast, overload
from urllib.parse import quote

import httpx

from eventsync_client.actions import Ask, Connect, Cut, Refused, Send, Why
from eventsync_client.collection import Collection
from eventsync_client.core import Core, Status, drained
from eventsync_client.errors import BarrierTimeout, OutcomeUnknown, ShapeRefused, SyncFailed
from eventsync_client.followed import Shape
from eventsync_client.http import Http
from eventsync_client.log import EventLog
from eventsync_client.models import ModelShape
from eventsync_client.positions import Position
from eventsync_client.replica import Update
from eventsync_client.shapes import shape_text
from eventsync_client.store import Memory, Store
from eventsync_client.transports import UNFIT, Ended, Link, Request, Transport, open_link
from eventsync_client.values import Decode, codec_of

logger = logging.getLogger("eventsync_client")

M = TypeVar("M")

Token = str | Callable[[Why], str | Awaitable[str]]
"""A token, or a function that is asked for one: before each connection, before its end, and after a refusal.

An asynchronous one that does not answer within a minute is cancelled, and asked again. A plain one holds up the client
until it returns.
"""

_ASK_AGAIN: Final = 1.0
"""Seconds that a barrier waits for shapes of another log, which may be a newer one, before another is asked for."""

_TOKEN_TIMEOUT: Final = 60.0
"""Seconds that the token function may take."""

_LARGE: Final = 500
"""Rows of an update above which a store works in a thread."""

_ORDER: Final[tuple[Transport, ...]] = ("websocket", "websocket", "sse", "websocket", "http")
"""Transports of one attempt after another: where a proxy blocks the first, another one gets through."""


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in {"http", "https"} and parsed.host != ""


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
        if not _is_address(self.url):
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

    @overload
    def shape(self, name: str, /, *, model: None = None, **parameters: Any) -> Shape: ...

    @overload
    def shape(self, name: str, /, *, model: type[M], **parameters: Any) -> ModelShape[M]: ...

    def shape(self, name: str, /, *, model: type[M] | None = None, **parameters: Any) -> Shape | ModelShape[M]:
        """Follow a collection, `collection/id`, or a declared shape with its parameters.

        The server is asked again for a shape that it has refused. `model`: a type that pydantic validates, whose
        instances take the place of the documents.
        """
        text = shape_text(name, parameters)
        shape = self._shapes.get(text)
        if shape is None or shape.refusal is not None:
            shape = self._shapes[text] = Shape(self, text)
            self._followed.discard(text)
            self._wake.set()
        return shape if model is None else ModelShape(shape, model)

    def collection(self, name: str) -> Collection:
        """Return the documents of a collection on the server, to read and write."""
        return Collection(self._requests(), name, self.codec)

    def log(self, shape: str, /, **parameters: Any) -> EventLog:
        """Return the events of a shape, to read page by page without a copy of its documents."""
        return EventLog(self._requests(), shape_text(shape, parameters))

    async def barrier(self, *, timeout: float = 30.0) -> None:
        """Wait until each shape that is followed has all writes that were acknowledged before the call, by any server.

        By a WebSocket a shape in which nothing happens gets there at once, else with the next heartbeat. A shape that
        the server refuses is left out. Raises `BarrierTimeout` after `timeout` seconds, `SyncFailed`, and
        `RequestError`.
        """
        requests = self._requests()
        shapes = list(self._shapes.values())
        end = self._now() + timeout
        limit = asyncio.timeout_at(end)
        try:
            async with limit:
                while True:
                    answer = await requests.request("POST", "/v1/barrier", body={}, timeout=end - self._now())
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
        self.wake()
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

    def _requests(self) -> Http:
        if self._http is None:
            raise RuntimeError("the client is not in use: async with AsyncClient(…)")
        return self._http

    async def unfollow(self, shape: Shape) -> None:
        """Follow a shape no more."""
        if self._shapes.pop(shape.text, None) is not None:
            shape.refuse(ShapeRefused(shape.text, "closed", "the application follows it no more"))
            self._followed.discard(shape.text)
            self.core.unfollow(shape.text)
            self.wake()
            self.pulse()

    async def moved(self) -> None:
        """Wait until something may have changed."""
        await self._moved.wait()

    def pulse(self) -> None:
        """Wake all who wait."""
        self._moved.set()
        self._moved = asyncio.Event()

    def wake(self) -> None:
        """Have the driver do what is due."""
        self._wake.set()

    def check(self) -> None:
        """Raise `SyncFailed` if nothing will come any more."""
        runs = self._driver is not None and not self._driver.done()
        # A new shape has a client begin again that the server has refused.
        if self.core.status is Status.FAILED and not (runs and self._shapes.keys() - self._followed):
            raise SyncFailed(self.core.reason)
        if not runs:
            raise SyncFailed("the client does not run")

    def durable(self, shape: str, position: str | None) -> None:
        """Know that all up to a position is durable, and its changes are done. None: nothing is known to be."""
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
                async with self._performing:
                    # Of a shape that was closed a moment ago, the store may not have the last updates yet.
                    await self._drain()
                    async with self.lock:
                        saved = await asyncio.to_thread(self.store.load, text)
                        self.core.follow(text, saved.position, saved.rows)
                        shape.restore(saved)
                self.pulse()
            if shape.awaits_changes:
                await self._take_changes(shape)
        if self._shapes and self.core.status is Status.STOPPED:
            self.core.start(self._now())

    async def _perform(self) -> None:
        """Execute the actions of the core, in order.

        Only tasks of the client do this: one of the application may be cancelled, and an action would be lost.
        """
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

    async def _take_changes(self, shape: Shape) -> None:
        """Keep the changes of a shape from now on, beginning with its documents."""
        async with self._performing:
            while shape.awaits_changes:
                await self._drain()
                async with self.lock:
                    # What is not in the store yet would be among its documents, and then come as a change, too.
                    if not self.core.actions:
                        documents = self.core.documents(shape.text) or {}
                        shape.pending = deque(self.store.take_changes(shape.text, documents))
        self.pulse()

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
                code = None if ended.code == UNFIT and self._transport == "auto" else ended.code
                self.core.closed(code, ended.reason, self._now(), retry_after=ended.retry_after)
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
        """Return a token. Raises what the application's function raises, and `TimeoutError` if it does not answer."""
        if not callable(self._token):
            return cast("str", self._token)
        answer = self._token(why)
        if not inspect.isawaitable(answer):
            return answer
        limit = asyncio.timeout(_TOKEN_TIMEOUT)
        try:
            async with limit:
                return await answer
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimeoutError(f"the token function does not answer within {_TOKEN_TIMEOUT:g} s") from error

    async def _acknowledge(self, vector: Mapping[str, str]) -> None:
        if self._http is None or self._client_id is None:
            return
        try:
            path = f"/v1/state-vectors/{quote(self._client_id, safe='')}"
            await self._http.request("PUT", path, body={"vector": dict(vector)}, timeout=5.0)
        except Exception as error:  # noqa: BLE001 - the next one says as much
            logger.info("an acknowledgement has failed: %r", error)
