"""The targets of an import: into the database itself, or through a server."""

from __future__ import annotations

import asyncio
import http.client
import queue
import ssl
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol
from urllib.parse import quote

import orjson

from eventsync.domain.condition import Condition, Tags
from eventsync.domain.ids import parse_id
from eventsync.domain.values.extended_json import parse_json
from eventsync.errors import ConfigurationError, EventsyncError, TooLarge, Unauthenticated, Unavailable, VersionMismatch
from eventsync.importing.items import Item
from eventsync.nodestorage import (
    Author,
    BulkWrite,
    Create,
    Delete,
    JsonDocument,
    JsonPatch,
    NodeStorage,
    Replace,
    Update,
    WriteOperation,
    WriteResult,
)
from eventsync.urls import server_parts

_WITHIN: Final = 60.0
"""Seconds for a batch of writes, or for the answer of a server."""


@dataclass(slots=True)
class ItemAnswer:
    """The outcome of a write: its error `code`, or an empty one. A write with `begun` False was certainly not made."""

    code: str = ""
    detail: str = ""
    retryable: bool = False
    begun: bool = True
    etag: str | None = None


WRITTEN: Final = ItemAnswer()
_UNKNOWN: Final = ItemAnswer("unavailable", "the server's answer ended early", retryable=True)
_NOT_BEGUN: Final = ItemAnswer("not_attempted", "the write was not begun", retryable=True, begun=False)


class Target(Protocol):
    """A collection to write to."""

    async def write(self, items: Sequence[Item]) -> list[ItemAnswer]:
        """Carry out writes, those of one document in order, and return an answer for each.

        Raises an `EventsyncError` if none can be made: `TooLarge` if they are too many, `Unavailable` if it may be
        different later and the outcome of all is unknown.
        """
        ...


class DatabaseTarget:
    """Writes through `storage`."""

    def __init__(self, storage: NodeStorage, collection: str, by: str) -> None:
        self._storage = storage
        self._collection = collection
        self._by = by

    async def write(self, items: Sequence[Item]) -> list[ItemAnswer]:
        answers: list[ItemAnswer] = []
        async with (
            aclosing(self._writes(items)) as writes,
            aclosing(self._storage.bulk(writes, within=_WITHIN)) as outcomes,
        ):
            async for some in outcomes:
                answers += map(_answer_of, some)
        return answers + [_NOT_BEGUN] * (len(items) - len(answers))

    async def _writes(self, items: Sequence[Item]) -> Any:
        for item in items:
            try:
                yield BulkWrite(self._operation(item), Author.new(self._by))
            except EventsyncError as error:
                yield error

    def _operation(self, item: Item) -> WriteOperation:
        content = None if item.content is None else parse_json(item.content)
        if item.method == "POST":
            return Create(self._collection, JsonDocument(content))
        value = parse_id(item.id or "")
        if item.method == "PUT":
            condition = Condition(None, Tags.parse(["*"], "if_none_match")) if item.if_absent else None
            return Replace(self._collection, value, JsonDocument(content), condition, upsert=True)
        if item.method == "PATCH":
            return Update(self._collection, value, JsonPatch(content))
        return Delete(self._collection, value)


def _answer_of(outcome: WriteResult | EventsyncError) -> ItemAnswer:
    if isinstance(outcome, WriteResult):
        return WRITTEN
    etag = outcome.etag if isinstance(outcome, VersionMismatch) else None
    lasting = getattr(outcome, "lasting", False)
    begun = outcome.code != _NOT_BEGUN.code
    detail = outcome.diagnosis if outcome.retryable else outcome.message
    return ItemAnswer(outcome.code, detail, outcome.retryable and not lasting, begun, etag)


class ServerTarget:
    """Writes through the server at `url`, by `documents:batch`, with a connection for each batch under way."""

    def __init__(self, url: str, collection: str, token: str | None = None) -> None:
        parts = server_parts(url)
        self._host, self._port = str(parts.hostname), parts.port
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._path = f"{parts.path.rstrip('/')}/v1/collections/{quote(collection, safe='')}/documents:batch"
        credential = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._headers = {"Content-Type": "application/x-ndjson"} | credential
        self._idle: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()

    async def write(self, items: Sequence[Item]) -> list[ItemAnswer]:
        body = b"\n".join(item.encoded() for item in items)
        status, raw = await asyncio.to_thread(self._request, body)
        if status != 200:
            raise _error_of(status, raw)
        answers = [_parsed(line, number) for number, line in enumerate(filter(None, raw.split(b"\n")), 1)]
        return answers + [_UNKNOWN] * (len(items) - len(answers))

    def _request(self, body: bytes) -> tuple[int, bytes]:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = self._connection()
        try:
            connection.request("POST", self._path, body, self._headers)
            response = connection.getresponse()
            try:
                raw = response.read()
            except http.client.IncompleteRead as cut:
                connection.close()
                # Without the last line, which may be cut off.
                return response.status, cut.partial.rpartition(b"\n")[0]
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(f"the server does not answer: {str(error) or type(error).__name__}") from error
        self._idle.put(connection)
        return response.status, raw

    def _connection(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            return http.client.HTTPSConnection(self._host, self._port, timeout=_WITHIN, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=_WITHIN)

    def close(self) -> None:
        """Close the connections."""
        while not self._idle.empty():
            self._idle.get_nowait().close()


def _parsed(line: bytes, number: int) -> ItemAnswer:
    result = orjson.loads(line)
    if "code" not in result:
        return WRITTEN
    code = str(result["code"])
    begun = code != _NOT_BEGUN.code
    # The line of the batch is not that of the file.
    detail = str(result.get("detail")).removeprefix(f"line {number}: ")
    return ItemAnswer(code, detail, "retry_after" in result, begun, result.get("etag"))


def _error_of(status: int, raw: bytes) -> EventsyncError:
    try:
        found = orjson.loads(raw)
        detail = str(found["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        found, detail = {}, f"the server answers with HTTP {status}"
    if status == 413:
        return TooLarge(detail)
    if status == 429 or status >= 500:
        return Unavailable(detail)
    if status == 401:
        return Unauthenticated(
            str(found.get("reason", "token_invalid")), f"{detail} (--token or EVENTSYNC_TOKEN gives one)"
        )
    return ConfigurationError(f"the server refuses the import: {detail}")
