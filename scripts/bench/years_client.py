"""Clients of a long log, over the network: one that catches up by WebSocket, one that reads every event by HTTP.

They keep to `docs/protocol.md`, and raise `WrongError` at the first thing that is not as it should be.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from scripts.bench.years_history import Document, History

SHAPE = "docs"
_PATIENCE = 180.0
"""Seconds that one client may take."""


class WrongError(Exception):
    """A client has not got what it should have."""


@dataclass
class Client:
    """`rows` is what it has at `seq`: id text → document. The first `dense` events of the log are all of its shape."""

    log: str
    seq: int
    rows: dict[str, Document]
    dense: int
    bytes: int = 0
    events: int = 0
    documents: int = 0
    kinds: list[str] = field(default_factory=list)
    _parts: list[Document] = field(default_factory=list)

    async def catch_up(self, url: str) -> float:
        """Seconds from connecting until it is live."""
        began = time.perf_counter()
        subprotocols, hello = [Subprotocol("eventsync.v1")], {"type": "hello", "shapes": [SHAPE]}
        vector = {SHAPE: f"{self.log}:{self.seq}"}
        async with (
            asyncio.timeout(_PATIENCE),
            connect(
                f"{url.replace('http', 'ws')}/v1/sync", subprotocols=subprotocols, max_size=None, compression=None
            ) as socket,
        ):
            await socket.send(orjson.dumps(hello | {"vector": vector}).decode())
            while True:
                data = await socket.recv(decode=False)
                self.bytes += len(data)
                message = orjson.loads(data)
                if message["type"] == "live":
                    self._at(message["position"])
                    return time.perf_counter() - began
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind in {"welcome", "progress"}:
            return
        if kind not in self.kinds:
            self.kinds.append(kind)
        if kind == "events":
            self._events(message)
        elif kind in {"squashed", "snapshot"}:
            self._documents(message, whole=kind == "snapshot")
        elif kind == "reset":
            self.rows = {}
        else:
            raise WrongError(f"the server says {message}")

    def _events(self, message: dict[str, Any]) -> None:
        if _seq(message["from"]) > self.seq:
            raise WrongError(f"a hole: at {self.seq}, and events from {message['from']}")
        for event in message["events"]:
            if event["seq"] > self.seq:
                check_dense(self.seq, event["seq"], self.dense)
                self._event(event)
                self.seq = event["seq"]
        self._at(message["to"])

    def _event(self, event: dict[str, Any]) -> None:
        self.events += 1
        if event["op"] == "create":
            self.rows[event["id"]] = event["doc"]
        elif event["op"] == "update":
            _patch(self.rows[event["id"]], event["patch"])
        else:
            raise WrongError(f"nobody has made this event: {event}")

    def _documents(self, message: dict[str, Any], *, whole: bool) -> None:
        self._parts = [] if message["part"] == 0 else self._parts
        self._parts += message["docs"]
        if message["last"]:
            self.documents += len(self._parts)
            self.rows = {} if whole else self.rows
            self.rows |= {row["id"]: row["doc"] for row in self._parts}
            self._at(message["position" if whole else "to"])

    def _at(self, position: str) -> None:
        if _seq(position) < self.seq:
            raise WrongError(f"backwards: at {self.seq}, and now at {position}")
        self.seq = _seq(position)


async def read_log(url: str, log: str, after: int, history: History) -> tuple[float, int]:
    """Seconds, and bytes, for every event of `history` with a seq beyond `after`, page by page."""
    began, size, seq = time.perf_counter(), 0, after
    async with httpx.AsyncClient(base_url=url, timeout=30.0) as client:
        while seq < history.head:
            query = {"shape": SHAPE, "position": f"{log}:{seq}", "limit": "1000"}
            answer = (await client.get("/v1/sync/log", params=query)).raise_for_status()
            size += len(answer.content)
            page = orjson.loads(answer.content)
            for event in page["events"]:
                check_dense(seq, event["seq"], history.head)
                seq = event["seq"]
                if event["id"] != f"int:{history.about(seq)}":
                    raise WrongError(f"event {seq} should be about document {history.about(seq)}: {event}")
            if not page["events"]:
                raise WrongError(f"no event after {seq} of {history.head}")
    return time.perf_counter() - began, size


async def refused(url: str, log: str, after: int) -> bool:
    """Whether the events after a position are said not to be kept."""
    async with httpx.AsyncClient(base_url=url, timeout=30.0) as client:
        answer = await client.get("/v1/sync/log", params={"shape": SHAPE, "position": f"{log}:{after}"})
    return answer.status_code == 409


def check_dense(before: int, seq: int, dense: int) -> None:
    """Raise `WrongError` where an event is missing, or comes again, between `before` and `seq`."""
    if seq != before + 1 and before < dense:
        raise WrongError(f"event {seq} comes after event {before}")


def _patch(document: Document, patch: list[dict[str, Any]]) -> None:
    """These updates only replace what is there."""
    for step in patch:
        *path, name = step["path"].split("/")[1:]
        target = document
        for part in path:
            target = target[part]
        if step["op"] != "replace" or name not in target:
            raise WrongError(f"nobody has made this patch: {patch}")
        target[name] = step["value"]


def _seq(position: str) -> int:
    return int(position.partition(":")[2])
