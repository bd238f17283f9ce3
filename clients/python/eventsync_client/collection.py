"""Documents of a collection on the server: reads, writes, history."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import httpx

from eventsync_client.errors import RequestError
from eventsync_client.http import Http, body_of, result_error
from eventsync_client.replica import Json
from eventsync_client.shapes import Value, id_text
from eventsync_client.values import Codec

Condition = int | str | None
"""A version (`7`, whatever the content), an entity tag (`"7.5f2c81ab09d3e417"`, one state) or `*`."""


Patch = Mapping[str, Any] | Sequence[Mapping[str, Any]]
"""A merge patch (a mapping, RFC 7396) or a JSON Patch (a list, RFC 6902)."""

_PAGE: Final = 500
"""Documents of one page of `find`, at most."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document, its version, and the tag of this state. `position`: a position at which it was so, in the past."""

    id: str
    version: int
    doc: Any
    etag: str | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Events of a document, as on the wire. `since`: a position up to which none are kept; None if all are."""

    events: list[Json]
    since: str | None


@dataclass(frozen=True, slots=True)
class Moment:
    """A point of a document's history. `version` is None where there was no document."""

    version: int | None
    position: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The JSON Patch from a document at one point of its history to the document at another."""

    id: str
    start: Moment
    end: Moment
    patch: list[Json]


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write. `doc` is None after a delete, and after a repeat of a write that was made before."""

    id: str
    version: int
    etag: str | None
    doc: Any
    repeated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A write of a batch, as the write of a `Collection` with the same name."""

    method: Literal["POST", "PUT", "PATCH", "DELETE"]
    id: Value = None
    doc: Mapping[str, Any] | None = None
    changes: Patch | None = None
    if_match: Condition = None
    if_none_match: Condition = None
    idempotency_key: str | None = None

    @classmethod
    def insert(cls, doc: Mapping[str, Any], *, idempotency_key: str | None = None) -> Self:
        """Create a document; without `_id` the server chooses one."""
        return cls(method="POST", doc=_document(doc), idempotency_key=idempotency_key)

    @classmethod
    def replace(
        cls,
        id: Value,
        doc: Mapping[str, Any],
        *,
        if_match: Condition = None,
        if_none_match: Condition = None,
        idempotency_key: str | None = None,
    ) -> Self:
        """Replace a document, or create it. `if_none_match="*"` creates only."""
        return cls(
            method="PUT",
            id=id,
            doc=_document(doc),
            if_match=if_match,
            if_none_match=if_none_match,
            idempotency_key=idempotency_key,
        )

    @classmethod
    def patch(cls, id: Value, patch: Patch, *, if_match: Condition = None, idempotency_key: str | None = None) -> Self:
        """Change a document by a merge patch (a mapping) or a JSON Patch (a list)."""
        return cls(method="PATCH", id=id, changes=patch, if_match=if_match, idempotency_key=idempotency_key)

    @classmethod
    def delete(cls, id: Value, *, if_match: Condition = None, idempotency_key: str | None = None) -> Self:
        """Delete a document."""
        return cls(method="DELETE", id=id, if_match=if_match, idempotency_key=idempotency_key)

    def on_the_wire(self, codec: Codec, key: str) -> Json:
        """Return the operation as `documents:batch` takes it, with its idempotency key."""
        item: Json = {"method": self.method, "idempotency_key": key}
        if self.method != "POST":
            item["id"] = id_text(self.id)
        if self.doc is not None:
            item["doc"] = codec.encode(self.doc)
        if self.changes is not None:
            item["patch"] = codec.encode(self.changes)
        named = {"if_match": self.if_match, "if_none_match": self.if_none_match}
        return item | {name: _tag(value) for name, value in named.items() if value is not None}


class Collection:
    """Each write has an `Idempotency-Key`, so it is repeated until its outcome is known, and made once.

    All raise `RequestError` and its subclasses: `NotFound`, `VersionMismatch`, `Conflict`, `Forbidden`,
    `Unauthenticated`; and `OutcomeUnknown` if there is no answer within `timeout` seconds, or, where `repeat` is set to
    False, at the first failure that may be temporary.
    """

    def __init__(self, http: Http, name: str, codec: Codec, *, timeout: float = 30.0) -> None:
        self.name = name
        self.timeout = timeout
        self.repeat = True
        self._http = http
        self._codec = codec
        self._path = f"/v1/collections/{quote(name, safe='')}/documents"

    def _at(self, id: Value) -> str:
        return f"{self._path}/{quote(id_text(id), safe='')}"

    # --- reads ----------------------------------------------------------------------------------------------------

    async def get(self, id: Value, *, version: int | None = None, position: str | None = None) -> Document:
        """Return a document as it is, or as it was at a version or a position."""
        query = {"version": None if version is None else str(version), "position": position}
        return await self._read(id, {name: value for name, value in query.items() if value is not None})

    async def at(self, id: Value, time: datetime | str) -> Document:
        """Return a document as it was at a time, with an offset."""
        if isinstance(time, datetime):
            if time.tzinfo is None:
                raise ValueError("a time has an offset: datetime.now(UTC)")
            time = time.isoformat(timespec="milliseconds")
        return await self._read(id, {"at": time})

    async def _read(self, id: Value, query: Mapping[str, str]) -> Document:
        answer = await self._read_from(self._at(id), query)
        body = body_of(answer)
        doc = self._codec.decode(body["doc"])
        return Document(body["id"], body["version"], doc, answer.headers.get("etag"), body.get("position"))

    async def history(self, id: Value, *, after_version: int | None = None) -> AsyncIterator[Json]:
        """Yield the events of a document, as on the wire, from the oldest that is kept."""
        async for page in self.history_pages(id, after_version=after_version):
            for event in page.events:
                yield event

    async def history_pages(self, id: Value, *, after_version: int | None = None) -> AsyncGenerator[HistoryPage]:
        """Yield the same events page by page, with the place where they begin; at least one page."""
        query = {} if after_version is None else {"after_version": str(after_version)}
        while True:
            page = body_of(await self._read_from(f"{self._at(id)}/events", query))
            yield HistoryPage(page["events"], page.get("since"))
            if "next" not in page:
                return
            query["after"] = page["next"]

    async def diff(self, id: Value, start: int | str, end: int | str | None = None) -> Difference:
        """Return the difference of a document at two points of its history: from `start` to `end`, or to the present.

        A point is a version, a position (`k3f9ab2c:128`) or a time (`2026-11-23T05:22:46Z`).
        """
        query = {"from": str(start)} | ({} if end is None else {"to": str(end)})
        body = body_of(await self._read_from(f"{self._at(id)}/diff", query))
        before, after = [Moment(body[side]["version"], body[side]["position"]) for side in ("from", "to")]
        return Difference(body["id"], before, after, self._codec.decode(body["patch"]))

    async def _read_from(self, path: str, query: Mapping[str, str]) -> httpx.Response:
        return await self._http.request("GET", path, query=query, timeout=self.timeout, repeat=self.repeat)

    async def find(
        self, filter: Mapping[str, Any] | None = None, *, sort: str | Sequence[str] = (), limit: int | None = None
    ) -> AsyncGenerator[Document]:
        """Yield the documents that a filter finds, page by page, each as it is when its page is read.

        `sort`: paths, with `-` before those that descend; by id without it. `limit`: documents at most. A filter and a
        sort need an index of MongoDB, else `RequestError` with the code `index_needed`.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit is at least 1, not {limit}")
        query: dict[str, str] = {}
        if filter is not None:
            query["filter"] = json.dumps(self._codec.encode(filter))
        if sort:
            query["sort"] = sort if isinstance(sort, str) else ",".join(sort)
        left = limit
        while True:
            query["limit"] = str(_PAGE if left is None else min(_PAGE, left))
            page = body_of(await self._read_from(self._path, query))
            for row in page["documents"]:
                yield Document(row["id"], row["version"], self._codec.decode(row["doc"]))
            if left is not None:
                left -= len(page["documents"])
            if "next" not in page or left == 0:
                return
            query["after"] = page["next"]

    # --- writes ---------------------------------------------------------------------------------------------------

    async def insert(self, doc: Mapping[str, Any], *, idempotency_key: str | None = None) -> Written:
        """Create a document; without `_id` the server chooses one."""
        return await self._write("POST", self._path, _document(doc), {}, idempotency_key)

    async def replace(
        self,
        id: Value,
        doc: Mapping[str, Any],
        *,
        if_match: Condition = None,
        if_none_match: Condition = None,
        idempotency_key: str | None = None,
    ) -> Written:
        """Replace a document, or create it. `if_none_match="*"` creates only."""
        headers = _conditions(if_match, if_none_match)
        return await self._write("PUT", self._at(id), _document(doc), headers, idempotency_key)

    async def patch(
        self,
        id: Value,
        patch: Patch,
        *,
        if_match: Condition = None,
        idempotency_key: str | None = None,
    ) -> Written:
        """Change a document by a merge patch (a mapping, RFC 7396) or a JSON Patch (a list, RFC 6902)."""
        kind = "merge-patch" if isinstance(patch, Mapping) else "json-patch"
        headers = {"Content-Type": f"application/{kind}+json", **_conditions(if_match, None)}
        return await self._write("PATCH", self._at(id), patch, headers, idempotency_key)

    async def delete(self, id: Value, *, if_match: Condition = None, idempotency_key: str | None = None) -> Written:
        """Delete a document."""
        return await self._write("DELETE", self._at(id), None, _conditions(if_match, None), idempotency_key)

    async def batch(self, operations: Sequence[Operation]) -> list[Written | RequestError]:
        """Carry out many independent writes by one request. Return the outcome of each, in order; an error is its own.

        Operations on one document are applied in their order. Each has an idempotency key, so a batch whose answer is
        lost is repeated: what was written is not written again, what had failed is decided again. An operation that
        was not decided in time is an `OutcomeUnknown`, with its key: the same one with this key finds out. Raises
        `RequestError` if the server refuses the batch as a whole, such as one of more than `batch_operations` (1,000):
        then nothing was written.
        """
        if not operations:
            return []
        keys = [operation.idempotency_key or str(uuid.uuid4()) for operation in operations]
        items = [item.on_the_wire(self._codec, key) for item, key in zip(operations, keys, strict=True)]
        headers = {"Prefer": "return=representation"}
        answer = await self._http.request(
            "POST",
            f"{self._path}:batch",
            body={"operations": items},
            headers=headers,
            timeout=self.timeout,
            repeat=self.repeat,
        )
        return [self._outcome(result, key) for result, key in zip(body_of(answer)["results"], keys, strict=True)]

    def _outcome(self, result: Json, key: str) -> Written | RequestError:
        if result["status"] >= 400:
            return result_error(result, key)
        return self._written(result, result.get("etag"))

    async def _write(self, method: str, path: str, value: Any, headers: dict[str, str], key: str | None) -> Written:
        headers["Idempotency-Key"] = key or str(uuid.uuid4())
        body = None if value is None else self._codec.encode(value)
        answer = await self._http.request(
            method, path, body=body, headers=headers, timeout=self.timeout, repeat=self.repeat
        )
        return self._written(body_of(answer), answer.headers.get("etag"))

    def _written(self, body: Json, etag: str | None) -> Written:
        doc = body.get("doc")
        decoded = None if doc is None else self._codec.decode(doc)
        return Written(body["id"], body["version"], etag, decoded, body.get("repeated", False))


def _document(doc: object) -> Mapping[str, Any]:
    if isinstance(doc, Mapping):
        return doc
    raise TypeError(f"a document is a mapping of its fields, not of type {type(doc).__name__}")


def _conditions(if_match: Condition, if_none_match: Condition) -> dict[str, str]:
    named = {"If-Match": if_match, "If-None-Match": if_none_match}
    return {name: _tag(value) for name, value in named.items() if value is not None}


def _tag(value: int | str) -> str:
    return f'"{value}"' if isinstance(value, int) else value
