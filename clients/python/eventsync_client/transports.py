"""The three transports: WebSocket, Server-Sent Events, long polls. Each is a link that receives protocol messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.typing import Subprotocol

from eventsync_client.positions import vector_text
from eventsync_client.replica import Json

Transport = Literal["websocket", "sse", "http"]

MAX_MESSAGE: Final = 256 * 1024 * 1024
"""Longest message that is accepted, in bytes. A document of 16 MiB may have 96 MiB of JSON."""

_OPEN_TIMEOUT: Final = 10.0
_POLL_WAIT: Final = 20.0
"""Seconds that a poll waits for events."""

_POLL_LIMIT: Final = 1000
_SNAPSHOT_PART: Final = 1000
"""Documents of one part that is made of a snapshot over HTTP."""

_HEARTBEAT: Final = 25.0
_FOREIGN: Final = "http_error"
"""The code of an answer that has none."""

UNFIT: Final = 4431
"""The end of a connection whose request has too long a head: another transport's is shorter."""


class Ended(Exception):
    """The connection has ended, or did not come to be. `code` is that of a WebSocket's close, or stands for one."""

    def __init__(self, code: int | None, reason: str, *, retry_after: float = 0.0, blocked: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.blocked = blocked
        """True if something between does not let this transport through."""


@dataclass(frozen=True, slots=True)
class Request:
    """The parameters of a connection."""

    url: str
    shapes: Sequence[str]
    vector: Mapping[str, str]
    client_id: str | None
    token: str | None

    @property
    def headers(self) -> dict[str, str]:
        """The credential, for transports of HTTP."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


class Link(Protocol):
    """One connection."""

    two_way: bool

    async def receive(self) -> Json:
        """Return the next message. Raises `Ended`."""

    async def send(self, message: Json) -> None:
        """Send a message, where `two_way`."""

    async def close(self) -> None:
        """End the connection."""


async def open_link(transport: Transport, request: Request, http: httpx.AsyncClient) -> Link:
    """Connect. Raises `Ended`."""
    if transport == "websocket":
        return await _open_websocket(request)
    if transport == "sse":
        return await _open_events(request, http)
    return _Polls(request, http)


# --- WebSocket --------------------------------------------------------------------------------------------------


class _Socket:
    two_way = True

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def receive(self) -> Json:
        try:
            return _parsed(await self._connection.recv())
        except ConnectionClosed as error:
            frame = error.rcvd
            raise Ended(
                int(frame.code) if frame else None, frame.reason if frame else "the connection was lost"
            ) from error

    async def send(self, message: Json) -> None:
        # The reader gets the end of the connection, too, and with its code.
        with suppress(ConnectionClosed):
            await self._connection.send(json.dumps(message))

    async def close(self) -> None:
        await self._connection.close()


async def _open_websocket(request: Request) -> Link:
    address = "ws" + request.url.removeprefix("http") + "/v1/sync"
    try:
        connection = await connect(
            address,
            subprotocols=[Subprotocol("eventsync.v1")],
            compression=None,
            max_size=MAX_MESSAGE,
            open_timeout=_OPEN_TIMEOUT,
            close_timeout=1.0,
            ping_interval=None,  # the server has a heartbeat of its own
        )
    except InvalidURI as error:
        raise Ended(4400, str(error)) from error
    except InvalidHandshake as error:
        raise Ended(None, f"no WebSocket gets through: {error}", blocked=True) from error
    except (OSError, EOFError) as error:
        raise Ended(None, f"the server cannot be reached: {error}") from error
    return _Socket(connection)


def _parsed(text: str | bytes) -> Json:
    try:
        message = json.loads(text)
    except ValueError as error:
        raise Ended(None, f"a message cannot be read: {error}") from error
    if not isinstance(message, dict):
        raise Ended(None, "a message is no object")
    return message


# --- HTTP -------------------------------------------------------------------------------------------------------


def retry_after_of(answer: httpx.Response) -> float:
    """Return the seconds of `Retry-After`, 0 without it."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def problem_of(answer: httpx.Response) -> Json:
    """Return the problem document of an answer; one of the status alone if it has none."""
    try:
        problem = answer.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        return {"code": _FOREIGN, "detail": f"the answer is {answer.status_code} {answer.reason_phrase}"}
    return problem


def is_foreign(problem: Json) -> bool:
    """Return True for the problem of an answer that is not of the server, but of something before it."""
    return bool(problem["code"] == _FOREIGN)


def is_temporary(status: int) -> bool:
    """Return True for a status after which the same request may succeed."""
    return status >= 500 or status in {408, 425, 429}


def _ended(answer: httpx.Response) -> Ended:
    """Return the end of a connection that a status refuses, with the close code that stands for it."""
    problem, status = problem_of(answer), answer.status_code
    detail = str(problem.get("detail", ""))
    if is_temporary(status) or is_foreign(problem):
        return Ended(None, detail, retry_after=retry_after_of(answer))
    if status == 401:
        return Ended(4401, str(problem.get("reason", detail)), retry_after=retry_after_of(answer))
    return Ended({403: 4403, 431: UNFIT}.get(status, 4400), detail)


class _Events:
    two_way = False

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer
        self._lines = _lines(answer)
        self._began = False
        self._retry = 0.0

    async def receive(self) -> Json:
        data: list[bytes] = []
        try:
            async for line in self._lines:
                name, _, value = line.partition(b":")
                if name == b"data":
                    data.append(value.removeprefix(b" "))
                elif name == b"retry" and self._began:
                    # Behind the first message it is the server's word to clients that it leaves.
                    self._retry = int(value) / 1000
                elif not line and data:
                    self._began = True
                    return _parsed(b"\n".join(data))
        except (httpx.HTTPError, ValueError) as error:
            raise Ended(None, f"the stream was lost: {error}") from error
        raise Ended(None, "the stream has ended", retry_after=self._retry)

    async def send(self, message: Json) -> None:
        raise NotImplementedError("an event stream has one direction")

    async def close(self) -> None:
        await self._answer.aclose()


async def _open_events(request: Request, http: httpx.AsyncClient) -> Link:
    query: dict[str, Any] = {"shape": list(request.shapes), "vector": vector_text(request.shapes, request.vector)}
    if request.client_id is not None:
        query["client_id"] = request.client_id
    timeout = httpx.Timeout(_OPEN_TIMEOUT, read=None)
    asked = http.build_request(
        "GET", f"{request.url}/v1/sync/sse", params=query, headers=request.headers, timeout=timeout
    )
    try:
        async with asyncio.timeout(3 * _OPEN_TIMEOUT):
            answer = await http.send(asked, stream=True)
            if answer.status_code != 200:
                await answer.aread()
    except (httpx.HTTPError, TimeoutError) as error:
        raise Ended(None, f"the server cannot be reached: {error}") from error
    if answer.status_code != 200:
        raise _ended(answer)
    return _Events(answer)


async def _lines(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the lines of an answer. (httpx also splits at characters that may be within a line of JSON.)"""
    buffer = bytearray()
    async for chunk in answer.aiter_bytes():
        searched = len(buffer)
        buffer += chunk
        start = 0
        while (end := buffer.find(b"\n", max(start, searched))) >= 0:
            yield bytes(buffer[start:end]).removesuffix(b"\r")
            start = end + 1
        del buffer[:start]
        if len(buffer) > MAX_MESSAGE:
            raise Ended(None, f"a message has more than {MAX_MESSAGE} bytes")
    if buffer:
        yield bytes(buffer)


class _Polls:
    """Polls of the log, one task for each shape. Pages become messages of the other transports."""

    two_way = False

    def __init__(self, request: Request, http: httpx.AsyncClient) -> None:
        self._request = request
        self._http = http
        self._messages: asyncio.Queue[Json | Ended] = asyncio.Queue(maxsize=1)
        self._welcome: Json | None = {"type": "welcome", "heartbeat": _HEARTBEAT, "vector": {}}
        self._tasks = [
            asyncio.create_task(self._follow(shape), name=f"poll {shape}") for shape in dict.fromkeys(request.shapes)
        ]

    async def receive(self) -> Json:
        if self._welcome is not None:
            message, self._welcome = self._welcome, None
            return message
        item = await self._messages.get()
        if isinstance(item, Ended):
            raise item
        return item

    async def send(self, message: Json) -> None:
        raise NotImplementedError("polls have one direction")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _follow(self, shape: str) -> None:
        position, live = self._request.vector.get(shape), False
        try:
            while True:
                if position is None:
                    position, live = await self._snapshot(shape), False
                else:
                    position, live = await self._page(shape, position, live=live)
        except _ShapeRefused as refused:
            await self._messages.put(refused.message)
        except Ended as ended:
            await self._messages.put(ended)
        except httpx.HTTPError as error:
            await self._messages.put(Ended(None, f"the connection was lost: {error!r}"))
        except (KeyError, ValueError) as error:
            await self._messages.put(Ended(None, f"an answer cannot be read: {error!r}"))

    async def _snapshot(self, shape: str) -> str:
        timeout = httpx.Timeout(_OPEN_TIMEOUT, read=6 * _OPEN_TIMEOUT)
        address = f"{self._request.url}/v1/sync/snapshot"
        query = {"shape": shape}
        async with self._http.stream(
            "GET", address, params=query, headers=self._request.headers, timeout=timeout
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise _refusal(shape, answer)
            lines = _lines(answer)
            position = str(json.loads(await anext(lines))["position"])
            message = {"type": "snapshot", "shape": shape, "position": position}
            part, docs = 0, list[Json]()
            async for line in lines:
                docs.append(json.loads(line))
                if len(docs) == _SNAPSHOT_PART:
                    await self._messages.put(message | {"part": part, "last": False, "docs": docs})
                    part, docs = part + 1, []
        # Only now: an answer that is cut off raises before.
        await self._messages.put(message | {"part": part, "last": True, "docs": docs})
        return position

    async def _page(self, shape: str, position: str, *, live: bool) -> tuple[str | None, bool]:
        query: dict[str, Any] = {"shape": shape, "position": position, "limit": _POLL_LIMIT}
        if live:
            query["wait"] = _POLL_WAIT
        answer = await self._http.get(
            f"{self._request.url}/v1/sync/log",
            params=query,
            headers=self._request.headers,
            timeout=httpx.Timeout(_OPEN_TIMEOUT, read=_POLL_WAIT + 15.0),
        )
        if answer.status_code in {409, 410}:
            reason = problem_of(answer).get("reason", "damaged")
            await self._messages.put({"type": "reset", "shape": shape, "reason": reason})
            return None, False
        if answer.status_code != 200:
            raise _refusal(shape, answer)
        page = answer.json()
        await self._messages.put(page | {"type": "events", "shape": shape})
        if page["live"] and not live:
            await self._messages.put({"type": "live", "shape": shape, "position": page["to"]})
        return str(page["to"]), live or bool(page["live"])


class _ShapeRefused(Exception):
    def __init__(self, message: Json) -> None:
        super().__init__(message["message"])
        self.message = message


def _refusal(shape: str, answer: httpx.Response) -> Exception:
    """Return the refusal of one shape; or the end of all polls, where the status says nothing of the shape."""
    ended = _ended(answer)
    if ended.code in {None, 4401}:
        return ended
    return _ShapeRefused({"type": "error", "code": problem_of(answer)["code"], "message": ended.reason, "shape": shape})
