"""The Python client in a process of its own: the rate of small patches, and the memory of what it follows."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from eventsync_client import AsyncClient, Sqlite
from eventsync_client.core import Core, drained
from eventsync_client.replica import Update
from scripts.bench.clients.exactness import SHAPE, WrongError
from scripts.bench.clients.processes import obey

_AT: Final = "2026-11-29T12:00:00.000Z"
_FRAME: Final = 100
"""Events of a frame, where they do not come alone."""


class Methods:
    """Methods of the process; each answers with figures."""

    def __init__(self) -> None:
        self._client: AsyncClient | None = None

    async def rates(self, documents: int, size: int, patches: int) -> dict[str, float]:
        """Return patches by second of CPU: from the text of the messages on, without a store and with SQLite."""
        with tempfile.TemporaryDirectory() as directory:
            store = Sqlite(Path(directory) / "bench.db")
            store.open()
            try:
                return {
                    "core": _rate(documents, size, patches, _FRAME),
                    "core, alone": _rate(documents, size, patches, 1),
                    "with SQLite": _rate(documents, size, patches, _FRAME, store.apply),
                }
            finally:
                store.close()

    async def ready(self) -> dict[str, float]:
        """Answer when all is imported, and garbage is collected."""
        gc.collect()
        return {}

    async def follow(self, url: str) -> dict[str, float]:
        """Follow all documents, and keep them."""
        began = time.monotonic()
        self._client = await AsyncClient(url).__aenter__()
        shape = await self._client.shape(SHAPE).live()
        exact = time.monotonic() - began
        gc.collect()
        return {"s": exact, "count": len(shape.documents), "sum": sum(doc["n"] for doc in shape.documents.values())}

    async def leave(self) -> dict[str, float]:
        """Close the client."""
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
        return {}


def _rate(documents: int, size: int, patches: int, frame: int, keep: Callable[[Update], Any] = lambda _: None) -> float:
    core = Core()
    core.follow(SHAPE)
    core.start(0.0)
    core.opened(0.0)
    core.receive({"type": "welcome", "heartbeat": 15.0}, 0.0)
    snapshot, live, *frames = _messages(documents, size, patches, frame)

    def take(text: str) -> None:
        core.receive(json.loads(text), 0.0)
        for action in drained(core):
            if isinstance(action, Update):
                keep(action)

    take(snapshot)
    take(live)
    began = time.process_time()
    for text in frames:
        take(text)
    seconds = time.process_time() - began
    held = core.documents(SHAPE) or {}
    if sum(row.doc["n"] for row in held.values()) != sum(range(max(1, patches - documents + 1), patches + 1)):
        raise WrongError("the core is not exact")
    return patches / seconds


def _messages(documents: int, size: int, patches: int, frame: int) -> Iterator[str]:
    """Yield the messages of a server: all documents, then frames of so many events, each of one small patch."""
    docs = [{"_id": number, "n": 0, "at": 0.5, "text": "x" * (size - 60)} for number in range(documents)]
    rows = [{"id": f"int:{doc['_id']}", "version": 1, "doc": doc} for doc in docs]
    yield _text({"type": "snapshot", "shape": SHAPE, "position": "a:0", "part": 0, "last": True, "docs": rows})
    yield _text({"type": "live", "shape": SHAPE, "position": "a:0"})
    for start in range(0, patches, frame):
        events = [_event(seq, documents) for seq in range(start + 1, start + frame + 1)]
        yield _text(
            {"type": "events", "shape": SHAPE, "from": f"a:{start}", "to": f"a:{start + frame}", "events": events}
        )


def _text(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))


def _event(seq: int, documents: int) -> dict[str, Any]:
    turn, number = divmod(seq - 1, documents)
    patch = [{"op": "replace", "path": "/n", "value": seq}]
    about = {"at": _AT, "op_id": "0123456789abcdef", "by": "bench"}
    versions = {"base": turn + 1, "version": turn + 2}
    return {"seq": seq, "collection": SHAPE, "id": f"int:{number}", "op": "update", **versions, "patch": patch, **about}


if __name__ == "__main__":
    asyncio.run(obey(Methods()))
