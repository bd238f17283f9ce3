"""Writers that change data while clients follow it: through the API, and behind its back."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import httpx
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import AutoReconnect

from eventsync.domain.ids import format_id
from support.waiting import patience

_OUTAGE = (httpx.TransportError,)
PATCH = {"content-type": "application/json-patch+json"}


@dataclass
class Written:
    """Writes that the API acknowledged, by the operation's id. Each of them must be an event."""

    acknowledged: list[str] = field(default_factory=list)


class ApiWriter:
    """Random patches, replacements, deletes and re-creations through the HTTP API; outages are borne."""

    def __init__(self, url: str, collection: str, documents: list[dict[str, Any]], *, seed: int) -> None:
        self.written = Written()
        self._client = httpx.AsyncClient(base_url=url, timeout=patience(20))
        self._base = f"/v1/collections/{collection}/documents"
        self._documents = documents
        self._random = random.Random(seed)
        self._name = f"{collection}-{seed}"
        self._count = 0
        self.done = False
        self._stopping = False

    async def run(self, writes: int) -> None:
        async with self._client:
            for _ in range(writes):
                if self._stopping:
                    break
                await self.write()
        self.done = True

    def stop(self) -> None:
        """End with the write that is under way: one that is given up may be done later."""
        self._stopping = True

    async def write(self) -> None:
        document = self._random.choice(self._documents)
        path = f"{self._base}/{document['_id']['$oid']}"
        self._count += 1
        key = {"idempotency-key": f"{self._name}-{self._count}"}
        try:
            answer = await self._send(path, document, key)
        except _OUTAGE:
            return  # the outcome is unknown: nothing was promised
        if answer.is_success:
            self.written.acknowledged.append(key["idempotency-key"])
        else:
            # 409: the document is locked by a transaction of a server that was killed, until MongoDB ends it.
            assert answer.status_code in {404, 409, 503}, answer.text

    async def _send(self, path: str, document: dict[str, Any], key: dict[str, str]) -> httpx.Response:
        kind = self._random.random()
        if kind < 0.7:
            mark = {"by": self._name, "n": self._count, "tags": ["x"] * self._random.randrange(4)}
            patch = [{"op": "add", "path": "/mark", "value": mark}]
            return await self._client.patch(path, json=patch, headers=PATCH | key)
        if kind < 0.85:
            return await self._client.put(path, json=document | {"round": self._count}, headers=key)
        return await self._client.delete(path, headers=key)


async def write_behind(collection: AsyncCollection[dict[str, Any]], writes: int, *, seed: int) -> None:
    """Random changes without the API: operators, pipelines, replacements, deletes."""
    choose = random.Random(seed)
    ids = [row["_id"] async for row in collection.find({}, {"_id": 1})]
    for number in range(writes):
        query = {"_id": choose.choice(ids)}
        try:
            await _change(collection, query, choose.randrange(5), number)
        except AutoReconnect:
            continue


async def _change(collection: AsyncCollection[dict[str, Any]], query: dict[str, Any], kind: int, number: int) -> None:
    if kind == 0:
        await collection.update_one(
            query, {"$inc": {"counters.a": 1}, "$push": {"log": {"$each": [number], "$slice": -3}}}
        )
    elif kind == 1:
        await collection.update_one(query, [{"$set": {"sum": {"$add": [{"$ifNull": ["$sum", 0]}, number]}}}])
    elif kind == 2:
        await collection.replace_one(query, {"replaced": number, "list": [{"n": number}, [1, 2]]})
    elif kind == 3:
        await collection.update_one(
            query, {"$unset": {"mark": "", "log.0": ""}, "$set": {"seen": {"at": number}}}, upsert=True
        )
    else:
        await collection.delete_one(query)


async def documents_of(collection: AsyncCollection[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The collection's content, by id text, without the reserved field."""
    return {
        format_id(row["_id"]): {name: value for name, value in row.items() if name != "_sync"}
        async for row in collection.find()
    }
