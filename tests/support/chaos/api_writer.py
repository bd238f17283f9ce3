"""Writes through the HTTP API: patches, replacements, deletes and transactions, with and without an idempotency key."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from support.chaos.history import Effect, Key, Outcome, Recorder

_PATCH = {"content-type": "application/json-patch+json"}
_ATTEMPTS = 4
_UNSURE = range(500, 600)


@dataclass(frozen=True, slots=True)
class _Request:
    """An HTTP request, and what it is to change."""

    method: str
    path: str
    effects: tuple[Effect, ...]
    json: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class ApiWriter:
    """One client of one server. A request with a key is repeated while its outcome is unknown."""

    def __init__(
        self,
        name: str,
        recorder: Recorder,
        url: str,
        keys: Sequence[Key],
        choose: random.Random,
        statuses: Counter[int],
    ) -> None:
        self._name = name
        self._recorder = recorder
        self._client = httpx.AsyncClient(base_url=url, timeout=3.0)
        self._keys = keys
        self._random = choose
        self._statuses = statuses
        self._count = 0

    async def write(self) -> None:
        """One random write, and its outcome."""
        self._count += 1
        operation = f"{self._name}-{self._count}"
        request = self._request(operation)
        # A delete without a key could not be told from another one.
        keyed = request.method in {"DELETE", "POST"} or self._random.random() < 0.5
        headers = request.headers | ({"idempotency-key": operation} if keyed else {})
        self._recorder.invoke(operation, "api", request.effects, keyed=keyed)
        outcome, detail = await self._attempts(request, headers, _ATTEMPTS if keyed else 1)
        self._recorder.end(operation, outcome, detail=detail)

    async def close(self) -> None:
        await self._client.aclose()

    async def _attempts(self, request: _Request, headers: dict[str, str], attempts: int) -> tuple[Outcome, str]:
        detail = ""
        for attempt in range(attempts):
            try:
                answer = await self._client.request(request.method, request.path, json=request.json, headers=headers)
            except httpx.TransportError as error:
                detail = repr(error)
            else:
                self._statuses[answer.status_code] += 1
                detail = answer.text[:200]
                if answer.is_success:
                    return "ok", ""
                if answer.status_code not in _UNSURE:
                    # An earlier attempt may still be under way in a server that is frozen.
                    return ("failed" if attempt == 0 else "unknown"), detail
            await asyncio.sleep(0.2 * attempt)
        return "unknown", detail

    def _request(self, operation: str) -> _Request:
        kind = self._random.random()
        key = self._random.choice(self._keys)
        path = f"/v1/collections/{key[0]}/documents/{quote(key[1], safe='')}"
        if kind < 0.5:
            return _Request("PATCH", path, (Effect(key, operation),), self._patch(operation), dict(_PATCH))
        if kind < 0.75:
            return _Request("PUT", path, (Effect(key, operation),), self._document(operation))
        if kind < 0.87:
            return _Request("DELETE", path, (Effect(key, None),))
        return self._transaction(operation)

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
