"""curl: an event stream by `curl -N`, and polls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from support.peers.peer import Answer, Asked, Ended, Link, Polling, Received, TransportName
from support.replica import vector_text
from support.waiting import patience

_PIPE: Final = asyncio.subprocess.PIPE
_COMMAND: Final = ("curl", "--silent", "--show-error", "--get")


def _queries(pairs: list[tuple[str, str]]) -> list[str]:
    return [word for name, value in pairs for word in ("--data-urlencode", f"{name}={value}")]


def _headers(asked: Asked) -> list[str]:
    return [word for name, value in asked.headers.items() for word in ("--header", f"{name}: {value}")]


class _Stream:
    """Reads an event stream by the rules of the HTML standard, section 9.2.6."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.ended: Ended | None = None
        self._process = process
        self._last_id = ""

    async def receive(self) -> Received | None:
        assert self._process.stdout is not None
        kind, data = "", list[str]()
        while line := await self._process.stdout.readline():
            text = line.decode().removesuffix("\n")
            if not text:
                if data:
                    return self._event(kind, data)
                kind = ""
                continue
            field, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                kind = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                self._last_id = value
            else:
                assert field in {"", "retry"}, text
        await self._over()
        return None

    def _event(self, kind: str, data: list[str]) -> Received:
        message = json.loads("\n".join(data))
        assert message["type"] == kind
        return Received(message, self._last_id)

    async def _over(self) -> None:
        assert self._process.stderr is not None
        said = (await self._process.stderr.read()).decode()
        # 22: --fail, the last word is the status.
        refused = await self._process.wait() == 22
        self.ended = Ended(int(said.split()[-1]) if refused else None, said)


@dataclass(frozen=True, slots=True)
class CurlSse:
    """`curl -N` on the event stream."""

    name: str = "curl-sse"
    transport: TransportName = "sse"

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:
        headers = _headers(asked)
        if asked.vector:
            headers += ["--header", f"Last-Event-ID: {vector_text(dict(asked.vector))}"]
        queries = _queries([("shape", shape) for shape in asked.shapes])
        words = [*_COMMAND, "--no-buffer", "--fail", *headers, *queries, f"{url}/v1/sync/sse"]
        process = await asyncio.create_subprocess_exec(*words, stdout=_PIPE, stderr=_PIPE, limit=2**24)
        try:
            yield _Stream(process)
        finally:
            if process.returncode is None:
                process.kill()
            # Reads what is left, so that the pipes are closed here and not by the garbage collector.
            await process.communicate()


@dataclass(frozen=True, slots=True)
class CurlPolling:
    """A curl for each request."""

    name: str = "curl"
    transport: TransportName = "http"

    @asynccontextmanager
    async def open(self, url: str, asked: Asked) -> AsyncIterator[Link]:
        async def get(path: str, query: dict[str, str]) -> Answer:
            queries = _queries([*query.items()])
            limit = ("--max-time", str(patience(10)))
            words = [*_COMMAND, *limit, "--write-out", "\n%{http_code}", *_headers(asked), *queries, url + path]
            process = await asyncio.create_subprocess_exec(*words, stdout=_PIPE, stderr=_PIPE)
            try:
                out, said = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            body, _, status = out.rpartition(b"\n")
            return Answer(int(status), body if process.returncode == 0 else said)

        yield Polling(get, asked)
