"""Documents of a collection on the server: reads, writes, history."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

import httpx

from eventsync_client.http import Http
from eventsync_client.replica import Json
from eventsync_client.shapes import Value, id_text
from eventsync_client.values import Codec

Condition = int | str | None
"""A version (`7`, whatever the content), an entity tag (`"7.5f2c81ab09d3e417"`, one state) or `*`."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document, its version, and the tag of this state. `position`: a position at which it was so, in the past."""

    id: str
    version: int
    doc: Any
    etag: str | None = None
    position: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write. `doc` is None after a delete, and after a repeat of a write that was made before."""

    id: str
    version: int
    etag: str | None
    doc: Any
    repeated: bool = False


class Collection:
    """Each write has an `Idempotency-Key`, so it is repeated until its outcome is known, and made once.

    All raise `RequestError` and its subclasses: `NotFound`, `VersionMismatch`, `Conflict`, `Forbidden`,
    `Unauthenticated`; and `OutcomeUnknown` if there is no answer within `timeout` seconds.
    """

    def __init__(self, http: Http, name: str, codec: Codec, *, timeout: float = 30.0) -> None:
        self.name = name
        self.timeout = timeout
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
        answer = await self._http.request("GET", self._at(id), query=query, timeout=self.timeout)
        body = answer.json()
        doc = self._codec.decode(body["doc"])
        return Document(body["id"], body["version"], doc, answer.headers.get("etag"), body.get("position"))

    async def history(self, id: Value, *, after_version: int | None = None) -> AsyncIterator[Json]:
        """Yield the events of a document, as on the wire, from the oldest that is kept."""
        query = {} if after_version is None else {"after_version": str(after_version)}
        while True:
            answer = await self._http.request("GET", f"{self._at(id)}/events", query=query, timeout=self.timeout)
            page = answer.json()
            for event in page["events"]:
                yield event
            if "next" not in page:
                return
            query["after"] = page["next"]

    # --- writes ---------------------------------------------------------------------------------------------------

    async def insert(self, doc: Mapping[str, Any], *, idempotency_key: str | None = None) -> Written:
        """Create a document; without `_id` the server chooses one."""
        return await self._write("POST", self._path, doc, {}, idempotency_key)

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
        return await self._write("PUT", self._at(id), doc, headers, idempotency_key)

    async def patch(
        self,
        id: Value,
        patch: Mapping[str, Any] | Sequence[Mapping[str, Any]],
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

    async def _write(self, method: str, path: str, value: Any, headers: dict[str, str], key: str | None) -> Written:
        headers["Idempotency-Key"] = key or str(uuid.uuid4())
        body = None if value is None else self._codec.encode(value)
        answer = await self._http.request(method, path, body=body, headers=headers, timeout=self.timeout)
        return self._written(answer)

    def _written(self, answer: httpx.Response) -> Written:
        body = answer.json()
        doc = body.get("doc")
        return Written(
            body["id"],
            body["version"],
            answer.headers.get("etag"),
            None if doc is None else self._codec.decode(doc),
            body.get("repeated", False),
        )


def _conditions(if_match: Condition, if_none_match: Condition) -> dict[str, str]:
    named = {"If-Match": if_match, "If-None-Match": if_none_match}
    return {name: _tag(value) for name, value in named.items() if value is not None}


def _tag(value: int | str) -> str:
    return f'"{value}"' if isinstance(value, int) else value
