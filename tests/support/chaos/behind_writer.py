"""Writes behind the API: operators, pipelines, replacements, inserts, deletes and transactions by the driver."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pymongo import WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, PyMongoError

from eventsync.domain.ids import parse_id
from eventsync.mongodb.client import Client
from eventsync.mongodb.errors import short
from support.chaos.history import Effect, Key, Outcome, Recorder
from support.waiting import patience

Change = Callable[[AsyncCollection[dict[str, Any]], dict[str, Any], str], Awaitable[object]]


class BehindWriter:
    """One writer of another service."""

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        client: Client,
        database: str,
        keys: Sequence[Key],
        choose: random.Random,
    ) -> None:
        self._name = name
        self._recorder = recorder
        self._client = client
        self._database = client[database]
        self._keys = keys
        self._random = choose
        self._count = 0

    async def write(self) -> None:
        """One random write, and its outcome."""
        self._count += 1
        operation = f"{self._name}-{self._count}"
        kind = self._random.random()
        if kind < 0.25:
            await self._transaction(operation, self._random.choice((2, 3, 4, 30)))
        elif kind < 0.4:
            await self._delete(operation, self._random.choice(self._keys))
        else:
            await self._put(operation, self._random.choice(self._keys), self._random.choice(_CHANGES))

    async def finish(self, collection: str, mark: str, *, seconds: float = 30.0) -> None:
        """Write `mark` into the document `end` until it is acknowledged. Raises `TimeoutError`."""
        deadline = time.monotonic() + patience(seconds)
        self._recorder.invoke(mark, "behind", [Effect((collection, "end"), mark)])
        while time.monotonic() < deadline:
            try:
                change = {"$set": {"mark": mark}}
                await self._database[collection].update_one({"_id": "end"}, change, upsert=True)
            except PyMongoError:
                await asyncio.sleep(0.1)
                continue
            self._recorder.end(mark, "ok")
            return
        raise TimeoutError(f"MongoDB takes no writes: {mark}")

    async def _put(self, operation: str, key: Key, change: Change) -> None:
        self._recorder.invoke(operation, "behind", [Effect(key, operation)])
        # Acknowledged by the primary alone, a write may be rolled back: nothing was promised.
        weak = self._random.random() < 0.1
        collection = self._database.get_collection(key[0], write_concern=WriteConcern(1) if weak else None)
        try:
            await change(collection, {"_id": parse_id(key[1])}, operation)
        except DuplicateKeyError as error:
            self._recorder.end(operation, "failed", detail=short(error))
        except PyMongoError as error:
            self._recorder.end(operation, "unknown", detail=short(error))
        else:
            self._recorder.end(operation, "unknown" if weak else "ok")

    async def _delete(self, operation: str, key: Key) -> None:
        self._recorder.invoke(operation, "behind", [Effect(key, None)])
        try:
            gone = await self._database[key[0]].find_one_and_delete({"_id": parse_id(key[1])})
        except PyMongoError as error:
            self._recorder.end(operation, "unknown", detail=short(error))
        else:
            self._recorder.end(operation, "ok", effects=None if gone else ())

    async def _transaction(self, operation: str, count: int) -> None:
        keys = self._random.sample(self._keys, min(count, len(self._keys)))
        planned = [
            Effect(key, None if self._random.random() < 0.2 else f"{operation}.{n}") for n, key in enumerate(keys)
        ]
        self._recorder.invoke(operation, "behind", planned)
        outcome: Outcome = "failed"
        made: list[Effect] = []
        detail = ""
        try:
            async with self._client.start_session() as session:
                await session.start_transaction()
                for effect in planned:
                    made += await self._step(effect, session)
                outcome = "unknown"
                await session.commit_transaction()
                outcome = "ok"
        except PyMongoError as error:
            detail = short(error)
        self._recorder.end(operation, outcome, effects=planned if outcome == "failed" else made, detail=detail)

    async def _step(self, effect: Effect, session: AsyncClientSession) -> list[Effect]:
        """One operation of a transaction; gives the effect, if it had one."""
        collection, query = self._database[effect.key[0]], {"_id": parse_id(effect.key[1])}
        if effect.mark is None:
            gone = await collection.find_one_and_delete(query, session=session)
            return [effect] if gone else []
        change = {"$set": {"mark": effect.mark}, "$inc": {"transactions": 1}}
        await collection.update_one(query, change, upsert=True, session=session)
        return [effect]


async def _operators(collection: AsyncCollection[dict[str, Any]], query: dict[str, Any], mark: str) -> None:
    push = {"log": {"$each": [mark], "$slice": -3}}
    await collection.update_one(query, {"$set": {"mark": mark}, "$inc": {"count": 1}, "$push": push}, upsert=True)


async def _pipeline(collection: AsyncCollection[dict[str, Any]], query: dict[str, Any], mark: str) -> None:
    total = {"$add": [{"$ifNull": ["$total", 0]}, 1]}
    await collection.update_one(query, [{"$set": {"mark": mark, "total": total}}, {"$unset": "tags"}], upsert=True)


async def _replace(collection: AsyncCollection[dict[str, Any]], query: dict[str, Any], mark: str) -> None:
    await collection.replace_one(query, {"mark": mark, "list": [[1, 2], {"a": None}]}, upsert=True)


async def _insert(collection: AsyncCollection[dict[str, Any]], query: dict[str, Any], mark: str) -> None:
    await collection.insert_one(query | {"mark": mark})


_CHANGES: tuple[Change, ...] = (_operators, _operators, _pipeline, _replace, _insert)
