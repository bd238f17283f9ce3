"""Writers that change data while clients follow it: through the API, and behind its back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import httpx
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.ids import format_id
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.documents import LEAVES
from support.histories import History
from support.waiting import patience

_OUTAGE = (httpx.TransportError,)
PATCH = {"content-type": "application/json-patch+json"}


class ApiWriter:
    """Random patches, replacements, deletes and re-creations through the HTTP API; outages are borne."""

    def __init__(self, url: str, collection: str, documents: list[dict[str, Any]], *, seed: int) -> None:
        self.acknowledged: list[str] = []
        """The operation ids of the writes that the API acknowledged. Each of them must be an event."""
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
            self.acknowledged.append(key["idempotency-key"])
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
    """Write to the documents of a collection without the API."""
    keys = [row["_id"] async for row in collection.find({}, {"_id": 1})]
    await History(collection, random.Random(seed), keys, LEAVES, stamped=False).run(writes)


async def change_one(
    collection: AsyncCollection[dict[str, Any]], fields: dict[str, Any], chance: random.Random
) -> None:
    """Change one document of ten by `fields`: all of it, one field, or nothing but its existence."""
    one = {"_id": chance.randint(0, 9)}
    match chance.randint(0, 9):
        case 0:
            await collection.delete_one(one)
        case 1 | 2:
            await collection.replace_one(one, fields, upsert=True)
        case 3:
            await collection.update_one(one, {"$unset": {chance.choice(list(fields)): ""}})
        case _:
            name = chance.choice(list(fields))
            await collection.update_one(one, {"$set": {name: fields[name]}}, upsert=True)


async def documents_of(collection: AsyncCollection[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The collection's content, by id text, without the reserved field."""
    return {
        format_id(row["_id"]): {name: value for name, value in row.items() if name != "_sync"}
        async for row in collection.find()
    }


async def assert_each_is_one_event(client: Client, settings: Settings, writers: Sequence[ApiWriter]) -> None:
    """Assert that the log is dense, and that each acknowledged write is in it exactly once."""
    stores = Stores.of(client, settings)
    log = await stores.logs.current()
    assert log is not None
    rows = await stores.log["events"].find({"_id.l": log.id}, sort=[("_id", 1)]).to_list()
    assert [row["_id"]["n"] for row in rows] == list(range(1, len(rows) + 1))
    assert len({row["t"] for row in rows}) == len(rows), "no change has two events"
    bodies = "".join(row["b"] for row in rows)
    for writer in writers:
        assert writer.acknowledged
        for key in writer.acknowledged:
            assert bodies.count(f'"op_id":"{key}"') == 1, key
