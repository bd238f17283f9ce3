"""Requests of the HTTP API that are repeated until their outcome is known."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx

from eventsync_client.actions import Why
from eventsync_client.errors import (
    Conflict,
    Forbidden,
    Gone,
    LogReset,
    NotFound,
    OutcomeUnknown,
    RequestError,
    Unauthenticated,
    VersionMismatch,
)
from eventsync_client.replica import Json
from eventsync_client.transports import is_foreign, is_temporary, problem_of, retry_after_of

_SHORTEST: Final = 0.1
_LONGEST: Final = 5.0

_KINDS: Final[Mapping[int, type[RequestError]]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: VersionMismatch,
}


class Http:
    """Requests to one server, with its credential."""

    def __init__(self, client: httpx.AsyncClient, url: str, token: Callable[[Why], Awaitable[str]] | None) -> None:
        self._client = client
        self._url = url
        self._ask = token
        self._token: str | None = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        repeat: bool = True,
    ) -> httpx.Response:
        """Return an answer of 2xx. What is temporary is tried again, within the timeout, unless `repeat` is False.

        So the request must be one that may be repeated: a read, or a write with an `Idempotency-Key`.

        Raises `RequestError`, and its subclass `OutcomeUnknown` if there is no answer in time.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        sent = dict(headers or {})
        if body is not None:
            sent = {"Content-Type": "application/json"} | sent
        content = None if body is None else json.dumps(body).encode()
        key = sent.get("Idempotency-Key")
        attempts, renewed = 0, False
        while True:
            sent |= await self._credential(end, key)
            unknown = OutcomeUnknown(0, "no_answer", "no answer came in time", key)
            delay = random.random() * min(_LONGEST, _SHORTEST * 2 ** min(attempts, 8))
            attempts += 1
            try:
                left = max(0.1, end - loop.time())
                answer = await self._client.request(
                    method, self._url + path, params=query, headers=sent, content=content, timeout=left
                )
            except httpx.HTTPError as error:
                unknown.__cause__ = error
            else:
                if answer.is_success:
                    return answer
                if answer.status_code == 401 and self._ask is not None and not renewed:
                    renewed, self._token = True, await _answered(self._ask, "refused", end, key)
                    continue
                if not _may_succeed(answer):
                    raise _error(answer)
                delay += retry_after_of(answer)
                unknown = _unknown(answer, unknown)
            if not repeat or loop.time() + delay >= end:
                raise unknown
            await asyncio.sleep(delay)

    async def _credential(self, end: float, key: str | None) -> dict[str, str]:
        if self._ask is None:
            return {}
        if self._token is None:
            self._token = await _answered(self._ask, "connect", end, key)
        return {"Authorization": f"Bearer {self._token}"}


async def _answered(ask: Callable[[Why], Awaitable[str]], why: Why, end: float, key: str | None) -> str:
    """Return a token. Raises `OutcomeUnknown` if there is none at `end`, a time of the loop."""
    limit = asyncio.timeout_at(end)
    try:
        async with limit:
            return await ask(why)
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise OutcomeUnknown(0, "no_answer", "no token came in time", key) from error


def body_of(answer: httpx.Response) -> Json:
    """Return the object of an answer. Raises `RequestError` for an answer that is not one of eventsync."""
    try:
        body = answer.json()
    except ValueError as error:
        raise RequestError(answer.status_code, "http_error", "the answer is no JSON") from error
    if not isinstance(body, dict):
        raise RequestError(answer.status_code, "http_error", "the answer is no object")
    return body


def _unknown(answer: httpx.Response, before: OutcomeUnknown) -> OutcomeUnknown:
    """Return the error by the last answer that came."""
    problem = problem_of(answer)
    return OutcomeUnknown(answer.status_code, problem["code"], str(problem.get("detail", "")), before.idempotency_key)


def _may_succeed(answer: httpx.Response) -> bool:
    """Return True if the same request may succeed later: the server says when, or has not been asked.

    What a proxy says in place of the server decides nothing, but that a request is too large.
    """
    status = answer.status_code
    if is_temporary(status) or (status == 409 and "retry-after" in answer.headers):
        return True
    return status != 413 and is_foreign(problem_of(answer))


def _error(answer: httpx.Response) -> RequestError:
    return refusal(answer.status_code, problem_of(answer), answer.headers.get("etag"))


def refusal(status: int, problem: Json, etag: str | None) -> RequestError:
    """Return the error that a problem document stands for."""
    kind = LogReset if problem["code"] == "reset" else _KINDS.get(status, RequestError)
    arguments = (status, problem["code"], str(problem.get("detail", "")), problem)
    if kind is VersionMismatch:
        return VersionMismatch(*arguments, etag=etag)
    return kind(*arguments)


def result_error(result: Json, key: str | None) -> RequestError:
    """Return the error of one operation of a batch. `key`: its idempotency key."""
    status = int(result["status"])
    if is_temporary(status) or (status == 409 and "retry_after" in result):
        return OutcomeUnknown(status, result["code"], str(result.get("detail", "")), key)
    return refusal(status, result, result.get("etag"))
