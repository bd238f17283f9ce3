"""Writes through the HTTP API: patches, replacements, deletes and transactions, with and without an idempotency key.

Some have a condition, some are refused. Bursts of them come to one server at the same time.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from support.chaos.history import Answer, Effect, Key, Outcome, Recorder

_PATCH = {"content-type": "application/json-patch+json"}
_ATTEMPTS = 4
_UNSURE = range(500, 600)
_UNWRITTEN = ("nothing was written", "it was not written")
"""What an error says whose outcome is known."""


@dataclass(frozen=True, slots=True)
class _Request:
    """An HTTP request, and what it is to change. `required`: the version in its condition."""

    method: str
    path: str
    effects: tuple[Effect, ...]
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    required: int | None = None


class ApiWriter:
    """One client of one server. A request with a key is repeated while its outcome is unknown.

    `keyed`: the share of patches and replacements with a key. Without one, they may be committed with others.
    `versions`: the version of each document that a writer was last told, which conditions then name.
    """

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        url: str,
        keys: Sequence[Key],
        choose: random.Random,
        statuses: Counter[int],
        versions: dict[Key, int],
        *,
        keyed: float = 0.5,
    ) -> None:
        self._name = name
        self._recorder = recorder
        self._client = httpx.AsyncClient(base_url=url, timeout=3.0)
        self._keys = keys
        self._random = choose
        self._statuses = statuses
        self._versions = versions
        self._keyed = keyed
        self._count = 0

    async def write(self) -> None:
        """One random write, and its outcome."""
        self._count += 1
        operation = f"{self._name}-{self._count}"
        request = self._request(operation)
        # A delete without a key could not be told from another one.
        keyed = request.method in {"DELETE", "POST"} or self._random.random() < self._keyed
        headers = request.headers | ({"idempotency-key": operation} if keyed else {})
        headers |= {"prefer": "return=minimal"} if self._random.random() < 0.25 else {}
        self._recorder.invoke(operation, "api", request.effects, keyed=keyed, required=request.required)
        outcome, detail, answers = await self._attempts(request, headers, _ATTEMPTS if keyed else 1)
        self._recorder.end(operation, outcome, detail=detail, answers=answers)
        for effect, answer in zip(request.effects, answers, strict=False):
            self._versions[effect.key] = answer.version if effect.mark else 0

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
                self._statuses[answer.status_code] += 1
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
        kind = self._random.random()
        key = self._random.choice(self._keys)
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
        patch, kind, version = self._patch(mark), self._random.random(), self._versions.get(key)
        if kind < 0.05:
            patch.append({"op": "test", "path": "/mark", "value": "another"})
        if kind < 0.7 or not version:
            return _Request("PATCH", path, (Effect(key, mark),), patch, dict(_PATCH))
        headers = _PATCH | {"if-match": f'"{version}"'}
        return _Request("PATCH", path, (Effect(key, mark),), patch, headers, required=version)

    def _transaction(self, operation: str) -> _Request:
        keys = self._random.sample(self._keys, self._random.randrange(2, 5))
        effects = tuple(Effect(key, f"{operation}.{n}") for n, key in enumerate(keys))
        operations: list[dict[str, Any]] = [
            {"method": "PUT", "collection": effect.key[0], "id": effect.key[1], "doc": self._document(effect.mark)}
            for effect in effects
        ]
        return _Request("POST", "/v1/transactions", effects, {"operations": operations})

    def _patch(self, mark: str) -> list[dict[str, Any]]:
        tags = ["t"] * self._random.randrange(4)
        return [{"op": "add", "path": "/mark", "value": mark}, {"op": "add", "path": "/tags", "value": tags}]

    def _document(self, mark: str | None) -> dict[str, Any]:
        return {"mark": mark, "list": [{"n": self._random.randrange(9)}, []], "by": {"name": self._name}}


def _answers(response: httpx.Response) -> list[Answer]:
    """Read what a response says about each effect."""
    body = response.json()
    rows = body.get("results", [body | {"etag": response.headers.get("etag")}])
    return [Answer(row["id"], row["version"], row.get("etag"), row.get("doc"), row.get("patch")) for row in rows]


class Burst:
    """Writers that write at the same time."""

    def __init__(self, writers: Sequence[ApiWriter]) -> None:
        self._writers = writers

    async def write(self) -> None:
        """One write by each."""
        async with asyncio.TaskGroup() as group:
            for writer in self._writers:
                group.create_task(writer.write(), name="write of a burst")
