"""The client for programs without an event loop: the asynchronous one, in a thread of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar, overload

from eventsync_client.client import AsyncClient, Token
from eventsync_client.collection import Collection, Condition, Difference, Document, Operation, Patch, Written
from eventsync_client.core import Status
from eventsync_client.errors import RequestError
from eventsync_client.followed import AnyChange, Shape
from eventsync_client.log import EventLog, LogPage
from eventsync_client.models import ModelDocuments, ModelledChange, Validator
from eventsync_client.replica import Json
from eventsync_client.shapes import Value
from eventsync_client.store import Store
from eventsync_client.transports import Transport
from eventsync_client.values import Decode

M = TypeVar("M")
T = TypeVar("T")


def _result(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work in the loop of another thread; it is cancelled if the wait is interrupted."""
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def _acquire(lock: asyncio.Lock) -> None:
    await lock.acquire()


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


class SyncChange(AnyChange):
    """A change of one document. `before` and `after` are the document; None where there was or is none."""

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do the change in one transaction of the store: what the block writes, and that the change is done."""
        client = self._shape.client
        loop = self._loop
        _result(loop, _acquire(client.lock))
        try:
            with client.store.transaction(self.shape, self._pending.number) as connection:
                yield connection
        finally:
            loop.call_soon_threadsafe(client.lock.release)
        loop.call_soon_threadsafe(self._shape.done, self._pending)

    @classmethod
    def of(cls, change: AnyChange, loop: asyncio.AbstractEventLoop) -> SyncChange:
        """Return a change for use outside of the loop."""
        made = cls(change._shape, change._pending)
        made._loop = loop
        return made

    _loop: asyncio.AbstractEventLoop


class SyncShape:
    """A shape that is followed."""

    def __init__(self, client: Client, shape: Shape) -> None:
        self._client = client
        self._shape = shape

    @property
    def documents(self) -> Mapping[str, Any]:
        """A copy of the documents now: id → document."""
        rows = dict(self._shape.rows)
        return {key: self._shape.codec.decode(row.doc) for key, row in rows.items()}

    def version(self, id: str) -> int:
        """Return the version of a document, as `if_match` takes it. Raises `KeyError`."""
        return self._shape.version(id)

    @property
    def position(self) -> str | None:
        """The position at which the documents are so; None before the first snapshot."""
        return self._shape.position

    def live(self) -> Self:
        """Wait until the shape has caught up. Raises `ShapeRefused` and `SyncFailed`."""
        self._client.run(self._shape.live())
        return self

    def changes(self) -> Generator[SyncChange]:
        """Yield each change, as `Shape.changes` does."""
        changes = self._shape.changes()
        try:
            while (change := self._client.run(_next(changes))) is not None:
                yield SyncChange.of(change, self._client.loop)
        finally:
            self._client.run(changes.aclose())

    def close(self) -> None:
        """Follow the shape no more."""
        self._client.run(self._shape.close())


class SyncModelChange(ModelledChange[M], SyncChange):
    """A change of one document. `before` and `after` are models; None where there was or is no document."""

    @classmethod
    def with_models(cls, change: SyncChange, validator: Validator[M]) -> SyncModelChange[M]:
        """Return the same change with models."""
        made = cls(change._shape, change._pending)
        made._loop, made.validator = change._loop, validator
        return made


class SyncModelShape(Generic[M]):
    """A shape that is followed, with models in place of documents."""

    def __init__(self, shape: SyncShape, model: type[M]) -> None:
        self.shape = shape
        """The same shape, with documents as they are."""
        inner = shape._shape
        self._validator = Validator(model, inner.text, inner.codec)

    @property
    def documents(self) -> ModelDocuments[M]:
        """The documents as they are now, and stay: id → model."""
        rows = dict(self.shape._shape.rows)
        return ModelDocuments(lambda: rows, self._validator)

    def version(self, id: str) -> int:
        """Return the version of a document, as `if_match` takes it. Raises `KeyError`."""
        return self.shape.version(id)

    @property
    def position(self) -> str | None:
        """The position at which the documents are so; None before the first snapshot."""
        return self.shape.position

    def live(self) -> Self:
        """Wait until the shape has caught up. Raises `ShapeRefused` and `SyncFailed`."""
        self.shape.live()
        return self

    def changes(self) -> Iterator[SyncModelChange[M]]:
        """Yield each change, as `Shape.changes` does, valid or not."""
        with closing(self.shape.changes()) as changes:
            for change in changes:
                yield SyncModelChange.with_models(change, self._validator)

    def close(self) -> None:
        """Follow the shape no more."""
        self.shape.close()


class SyncCollection:
    """Documents of a collection on the server, as `Collection` has them."""

    def __init__(self, client: Client, collection: Collection) -> None:
        self._run = client.run
        self._collection = collection

    def get(self, id: Value, *, version: int | None = None, position: str | None = None) -> Document:
        """Return a document as it is, or as it was at a version or a position."""
        return self._run(self._collection.get(id, version=version, position=position))

    def at(self, id: Value, time: datetime | str) -> Document:
        """Return a document as it was at a time, with an offset."""
        return self._run(self._collection.at(id, time))

    def history(self, id: Value, *, after_version: int | None = None) -> Iterator[Json]:
        """Yield the events of a document, as on the wire, from the oldest that is kept."""
        events = self._collection.history(id, after_version=after_version)
        while (event := self._run(_next(events))) is not None:
            yield event

    def diff(self, id: Value, start: int | str, end: int | str | None = None) -> Difference:
        """Return the difference of a document at two points of its history, as `Collection.diff` does."""
        return self._run(self._collection.diff(id, start, end))

    def find(
        self, filter: Mapping[str, Any] | None = None, *, sort: str | Sequence[str] = (), limit: int | None = None
    ) -> Iterator[Document]:
        """Yield the documents that a filter finds, page by page, as `Collection.find` does."""
        documents = self._collection.find(filter, sort=sort, limit=limit)
        while (document := self._run(_next(documents))) is not None:
            yield document

    def batch(self, operations: Sequence[Operation]) -> list[Written | RequestError]:
        """Carry out many independent writes by one request. Return the outcome of each, as `Collection.batch` does."""
        return self._run(self._collection.batch(operations))

    def insert(self, doc: Mapping[str, Any], *, idempotency_key: str | None = None) -> Written:
        """Create a document; without `_id` the server chooses one."""
        return self._run(self._collection.insert(doc, idempotency_key=idempotency_key))

    def replace(
        self,
        id: Value,
        doc: Mapping[str, Any],
        *,
        if_match: Condition = None,
        if_none_match: Condition = None,
        idempotency_key: str | None = None,
    ) -> Written:
        """Replace a document, or create it. `if_none_match="*"` creates only."""
        made = self._collection.replace(
            id, doc, if_match=if_match, if_none_match=if_none_match, idempotency_key=idempotency_key
        )
        return self._run(made)

    def patch(
        self,
        id: Value,
        patch: Patch,
        *,
        if_match: Condition = None,
        idempotency_key: str | None = None,
    ) -> Written:
        """Change a document by a merge patch (a mapping, RFC 7396) or a JSON Patch (a list, RFC 6902)."""
        return self._run(self._collection.patch(id, patch, if_match=if_match, idempotency_key=idempotency_key))

    def delete(self, id: Value, *, if_match: Condition = None, idempotency_key: str | None = None) -> Written:
        """Delete a document."""
        return self._run(self._collection.delete(id, if_match=if_match, idempotency_key=idempotency_key))


class SyncEventLog:
    """The events of a shape, as `EventLog` has them."""

    def __init__(self, client: Client, log: EventLog) -> None:
        self._run = client.run
        self._log = log

    def page(
        self, after: str | None = None, *, wait: float = 0.0, limit: int | None = None, repeat: bool = True
    ) -> LogPage:
        """Return the events after a position, or those from now on, as `EventLog.page` does."""
        return self._run(self._log.page(after, wait=wait, limit=limit, repeat=repeat))


class Client:
    """A client of one server, as `AsyncClient` with the same arguments. It runs while its `with` block does."""

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
        self._client = AsyncClient(
            url,
            token=token,
            client_id=client_id,
            store=store,
            transport=transport,
            decode=decode,
            max_pending=max_pending,
        )
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="eventsync client", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self._client.__aenter__())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.run(self._client.__aexit__(kind, error, traceback))
        finally:
            self._end()

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of asynchronous work."""
        return _result(self.loop, work)

    @property
    def status(self) -> Status:
        """The state of the connection; `reason` says why it waits or has failed."""
        return self._client.status

    @property
    def reason(self) -> str:
        return self._client.reason

    @overload
    def shape(self, name: str, /, *, model: None = None, **parameters: Any) -> SyncShape: ...

    @overload
    def shape(self, name: str, /, *, model: type[M], **parameters: Any) -> SyncModelShape[M]: ...

    def shape(self, name: str, /, *, model: type[M] | None = None, **parameters: Any) -> SyncShape | SyncModelShape[M]:
        """Follow a collection, `collection/id`, or a declared shape with its parameters, as `AsyncClient.shape`."""

        async def follow() -> Shape:
            return self._client.shape(name, model=None, **parameters)

        shape = SyncShape(self, self.run(follow()))
        return shape if model is None else SyncModelShape(shape, model)

    def log(self, shape: str, /, **parameters: Any) -> SyncEventLog:
        """Return the events of a shape, to read page by page without a copy of its documents."""
        return SyncEventLog(self, self._client.log(shape, **parameters))

    def barrier(self, *, timeout: float = 30.0) -> None:
        """Wait until each shape has all writes that were acknowledged before, as `AsyncClient.barrier` does."""
        self.run(self._client.barrier(timeout=timeout))

    def collection(self, name: str) -> SyncCollection:
        """Return the documents of a collection on the server, to read and write."""
        return SyncCollection(self, self._client.collection(name))
