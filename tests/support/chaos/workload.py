"""Writers of every kind, from one seed. Each write is recorded; faults are borne, and leave an unknown outcome."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any
from urllib.parse import quote

import httpx
from pymongo import WriteConcern
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, PyMongoError

from eventsync.domain.ids import parse_id
from eventsync.mongodb.client import Client
from eventsync.mongodb.errors import short
from support.chaos.history import Answer, Effect, Key, Outcome, Recorder
from support.chaos.rules import routing
from support.waiting import eventually

_PATCH = {"content-type": "application/json-patch+json"}
_ATTEMPTS = 4
_UNSURE = range(500, 600)
_UNWRITTEN = ("nothing was written", "it was not written")
"""Phrases of errors after which nothing was written."""


@dataclass(frozen=True, slots=True)
class _Request:
    """An HTTP request, and what it is to change. `required`: the version in its condition."""

    method: str
    path: str
    effects: tuple[Effect, ...]
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    required: int | None = None


@dataclass
class ApiWriter:
    """One client of one server. A request with a key is repeated while its outcome is unknown.

    `statuses`: how often each HTTP status came. `versions`: the version of each document in its last answer,
    which conditions then name. `keyed`: the share of patches and replacements with an idempotency key; those without
    may be committed with others.
    """

    name: str
    recorder: Recorder
    url: str
    keys: Sequence[Key]
    choose: random.Random
    statuses: Counter[int]
    versions: dict[Key, int]
    keyed: float = 0.5
    count: int = 0

    def __post_init__(self) -> None:
        self._client = httpx.AsyncClient(base_url=self.url, timeout=3.0)

    async def write(self) -> None:
        """Make one random write; record its outcome."""
        self.count += 1
        operation = f"{self.name}-{self.count}"
        request = self._request(operation)
        # A delete without a key could not be told from another one.
        keyed = request.method in {"DELETE", "POST"} or self.choose.random() < self.keyed
        headers = request.headers | ({"idempotency-key": operation} if keyed else {})
        headers |= {"prefer": "return=minimal"} if self.choose.random() < 0.25 else {}
        self.recorder.invoke(operation, "api", request.effects, keyed=keyed, required=request.required)
        outcome, detail, answers = await self._attempts(request, headers, _ATTEMPTS if keyed else 1)
        self.recorder.end(operation, outcome, detail=detail, answers=answers)
        for effect, answer in zip(request.effects, answers, strict=False):
            self.versions[effect.key] = answer.version if effect.mark else 0

    async def close(self) -> None:
        await self._client.aclose()

    async def _attempts(
        self, request: _Request, headers: dict[str, str], attempts: int
    ) -> tuple[Outcome, str, list[Answer]]:
        detail, doubtful = "", False
        for attempt in range(attempts):
            try:
                answer = await self._client.request(request.method, request.path, json=request.json, headers=headers)
            except httpx.TransportError as error:
                detail, doubtful = repr(error), True
            else:
                self.statuses[answer.status_code] += 1
                detail = answer.text[:200]
                if answer.is_success:
                    return "ok", "", _answers(answer)
                if answer.status_code not in _UNSURE:
                    break
                doubtful = doubtful or not any(said in answer.text for said in _UNWRITTEN)
            await asyncio.sleep(0.2 * attempt)
        # An earlier attempt may still be under way in a server that is frozen.
        return ("unknown" if doubtful else "failed"), detail, []

    def _request(self, operation: str) -> _Request:
        kind = self.choose.random()
        key = self.choose.choice(self.keys)
        path = f"/v1/collections/{key[0]}/documents/{quote(key[1], safe='')}"
        if kind < 0.5:
            return self._patched(key, path, operation)
        if kind < 0.55:
            return _Request(
                "PUT", path, (Effect(key, operation),), self._document(operation), {"if-none-match": "*"}, required=0
            )
        if kind < 0.75:
            return _Request("PUT", path, (Effect(key, operation),), self._document(operation))
        if kind < 0.87:
            return _Request("DELETE", path, (Effect(key, None),))
        return self._transaction(operation)

    def _patched(self, key: Key, path: str, mark: str) -> _Request:
        """A patch: of any state, of the version that was answered last, or with a test that fails."""
        patch, kind, version = self._patch(mark), self.choose.random(), self.versions.get(key)
        if kind < 0.05:
            patch.append({"op": "test", "path": "/mark", "value": "another"})
        if kind < 0.7 or not version:
            return _Request("PATCH", path, (Effect(key, mark),), patch, dict(_PATCH))
        headers = _PATCH | {"if-match": f'"{version}"'}
        return _Request("PATCH", path, (Effect(key, mark),), patch, headers, required=version)

    def _transaction(self, operation: str) -> _Request:
        keys = self.choose.sample(self.keys, self.choose.randrange(2, 5))
        effects = tuple(Effect(key, f"{operation}.{n}") for n, key in enumerate(keys))
        operations: list[dict[str, Any]] = [
            {"method": "PUT", "collection": effect.key[0], "id": effect.key[1], "doc": self._document(effect.mark)}
            for effect in effects
        ]
        return _Request("POST", "/v1/transactions", effects, {"operations": operations})

    def _patch(self, mark: str) -> list[dict[str, Any]]:
        tags = ["t"] * self.choose.randrange(4)
        fields = {"mark": mark, "tags": tags} | routing(self.choose)
        return [{"op": "add", "path": f"/{name}", "value": value} for name, value in fields.items()]

    def _document(self, mark: str | None) -> dict[str, Any]:
        fields = {"mark": mark, "list": [{"n": self.choose.randrange(9)}, []], "by": {"name": self.name}}
        return fields | routing(self.choose)


def _answers(response: httpx.Response) -> list[Answer]:
    """Read what a response says about each effect."""
    body = response.json()
    rows = body.get("results", [body | {"etag": response.headers.get("etag")}])
    return [Answer(row["id"], row["version"], row.get("etag"), row.get("doc"), row.get("patch")) for row in rows]


async def burst(writers: Sequence[ApiWriter]) -> None:
    """Make one write by each, at the same time."""
    await asyncio.gather(*(writer.write() for writer in writers))


Change = Callable[[AsyncCollection[dict[str, Any]], dict[str, Any], dict[str, Any]], Awaitable[object]]


@dataclass
class BehindWriter:
    """One writer of another service, which writes by the driver."""

    name: str
    recorder: Recorder
    client: Client
    database: str
    keys: Sequence[Key]
    choose: random.Random
    count: int = 0

    async def write(self) -> None:
        """Make one random write; record its outcome."""
        self.count += 1
        operation = f"{self.name}-{self.count}"
        kind = self.choose.random()
        if kind < 0.25:
            await self._transaction(operation, self.choose.choice((2, 3, 4, 30)))
        elif kind < 0.4:
            await self._delete(operation, self.choose.choice(self.keys))
        else:
            await self._put(operation, self.choose.choice(self.keys), self.choose.choice(_CHANGES))

    async def finish(self, collection: str, mark: str, *, seconds: float = 30.0) -> None:
        """Write `mark` into the document `end` until it is acknowledged. Raises `TimeoutError`."""
        self.recorder.invoke(mark, "behind", [Effect((collection, "end"), mark)])

        async def acknowledged() -> bool:
            with suppress(PyMongoError):
                end = self.client[self.database][collection]
                return bool(await end.update_one({"_id": "end"}, {"$set": {"mark": mark}}, upsert=True))
            return False

        await eventually(acknowledged, seconds, pause=0.1)
        self.recorder.end(mark, "ok")

    async def _put(self, operation: str, key: Key, change: Change) -> None:
        # Acknowledged by the primary alone, a write may be rolled back: nothing was promised.
        weak = self.choose.random() < 0.1
        collection = self.client[self.database].get_collection(key[0], write_concern=WriteConcern(1) if weak else None)
        effect = Effect(key, operation)
        with (
            suppress(PyMongoError),
            self.recorder.writing(operation, effect, weak=weak, refused=(DuplicateKeyError,)),
        ):
            await change(collection, {"_id": parse_id(key[1])}, {"mark": operation, **routing(self.choose)})

    async def _delete(self, operation: str, key: Key) -> None:
        self.recorder.invoke(operation, "behind", [Effect(key, None)])
        try:
            gone = await self.client[self.database][key[0]].find_one_and_delete({"_id": parse_id(key[1])})
        except PyMongoError as error:
            self.recorder.end(operation, "unknown", detail=short(error))
        else:
            self.recorder.end(operation, "ok", effects=None if gone else ())

    async def _transaction(self, operation: str, count: int) -> None:
        keys = self.choose.sample(self.keys, min(count, len(self.keys)))
        planned = [
            Effect(key, None if self.choose.random() < 0.2 else f"{operation}.{n}") for n, key in enumerate(keys)
        ]
        self.recorder.invoke(operation, "behind", planned)
        outcome: Outcome = "failed"
        made: list[Effect] = []
        detail = ""
        try:
            async with self.client.start_session() as session:
                await session.start_transaction()
                for effect in planned:
                    made += await self._step(effect, session)
                outcome = "unknown"
                await session.commit_transaction()
                outcome = "ok"
        except PyMongoError as error:
            detail = short(error)
        self.recorder.end(operation, outcome, effects=planned if outcome == "failed" else made, detail=detail)

    async def _step(self, effect: Effect, session: AsyncClientSession) -> list[Effect]:
        """One operation of a transaction; gives the effect, if it had one."""
        collection, query = self.client[self.database][effect.key[0]], {"_id": parse_id(effect.key[1])}
        if effect.mark is None:
            gone = await collection.find_one_and_delete(query, session=session)
            return [effect] if gone else []
        change = {"$set": {"mark": effect.mark, **routing(self.choose)}, "$inc": {"transactions": 1}}
        await collection.update_one(query, change, upsert=True, session=session)
        return [effect]


_TOTAL = {"$add": [{"$ifNull": ["$total", 0]}, 1]}
_CHANGES: tuple[Change, ...] = (
    lambda docs, query, fields: docs.update_one(
        query, {"$set": fields, "$push": {"log": {"$each": [fields["mark"]], "$slice": -3}}}, upsert=True
    ),
    lambda docs, query, fields: docs.update_one(query, {"$set": fields, "$inc": {"count": 1}}, upsert=True),
    lambda docs, query, fields: docs.update_one(
        query, [{"$set": {**fields, "total": _TOTAL}}, {"$unset": "tags"}], upsert=True
    ),
    lambda docs, query, fields: docs.replace_one(query, {**fields, "list": [[1, 2], {"a": None}]}, upsert=True),
    lambda docs, query, fields: docs.insert_one(query | fields),
)

_BURST, _MORE = 12, 12
"""Writes at the same time to one server, and documents besides those that all writers share."""

IDS = ("o1", "o2", "o3", "int:7", "int:8", "65a000000000000000000001")


class Workload:
    """Some writers of each kind on the same few documents, so that they conflict; and a burst for each server."""

    def __init__(
        self, recorder: Recorder, client: Client, urls: Sequence[str], database: str, names: Sequence[str], seed: int
    ) -> None:
        self.statuses: Counter[int] = Counter()
        keys = [(name, key) for name in names for key in IDS]
        versions: dict[Key, int] = {}

        def api(name: str, url: str, of: Sequence[Key], keyed: float) -> ApiWriter:
            choose = random.Random(f"{seed} {name}")
            return ApiWriter(name, recorder, url, of, choose, self.statuses, versions, keyed=keyed)

        more = [*keys, *((name, f"b{n}") for name in names for n in range(_MORE))]
        single = [api(f"api{n}", urls[n % len(urls)], keys, 0.5) for n in range(3)]
        bursts = [[api(f"burst{n}.{m}", url, more, 0.1) for m in range(_BURST)] for n, url in enumerate(urls)]
        behind = [
            BehindWriter(f"behind{n}", recorder, client, database, keys, random.Random(f"{seed} behind {n}"))
            for n in range(3)
        ]
        self._pause = random.Random(f"{seed} pauses")
        self._steps: list[Callable[[], Awaitable[None]]] = [writer.write for writer in single]
        self._steps += [partial(burst, writers) for writers in bursts]
        self._steps += [writer.write for writer in behind]
        self._writers = [*single, *chain.from_iterable(bursts)]
        self._last = behind[0]

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop`; what has begun then is ended first."""
        async with asyncio.TaskGroup() as group:
            for step in self._steps:
                group.create_task(self._repeat(step, stop))
        for writer in self._writers:
            await writer.close()

    async def _repeat(self, step: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        while not stop.is_set():
            await step()
            # Not as fast as possible: the machine is to run the system under test, too.
            await asyncio.sleep(self._pause.uniform(0.0, 0.03))

    async def finish(self, name: str, mark: str) -> None:
        """One last write to the collection, which is acknowledged."""
        await self._last.finish(name, mark)
