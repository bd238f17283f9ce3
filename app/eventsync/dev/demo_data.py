"""The demo: forty theaters, loaded through the API on the first start."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Container
from importlib.resources import files
from pathlib import Path
from typing import Final

from eventsync.dev.server_client import ServerAnswer, ServerClient
from eventsync.errors import Unavailable

COLLECTION: Final = "theaters"
_LOADING, _LOADED = "loading\n", "loaded\n"
_RETRY, _PATIENCE = 0.05, 30.0


def documents() -> list[bytes]:
    """The demo documents, each in canonical Extended JSON."""
    return (files("eventsync.dev") / "demo" / "theaters.ndjson").read_bytes().splitlines()


def first_id() -> str:
    """The id text of the first one."""
    return str(json.loads(documents()[0])["_id"]["$oid"])


async def load(client: ServerClient, marker: Path, say: Callable[[str], None]) -> None:
    """Load the demo, once in the life of a data directory, and only into an empty collection.

    Killed in the middle, it goes on the next time: `marker` remembers, and each document has its own idempotency key.

    Raises `Unavailable` when it can't be done.
    """
    state = _state(marker)
    if state == _LOADED or (state != _LOADING and not await _empty(client)):
        return
    _remember(marker, _LOADING)
    for document in documents():
        await _create(client, document)
    _remember(marker, _LOADED)
    say(f"loaded {len(documents())} demo documents into the collection {COLLECTION!r}")


def _state(marker: Path) -> str:
    return marker.read_text() if marker.is_file() else ""


def _remember(marker: Path, state: str) -> None:
    marker.write_text(state)


async def _create(client: ServerClient, document: bytes) -> None:
    key = f"demo-{COLLECTION}-{json.loads(document)['_id']['$oid']}"
    # 409: it was made more than a day ago, when the key was still remembered.
    await _answer(lambda: client.create(COLLECTION, document, key), {201, 409})


async def _empty(client: ServerClient) -> bool:
    listing = f"/v1/collections/{COLLECTION}/documents?limit=1"
    # 404: the worker has yet to begin to track the collection.
    answer = await _answer(lambda: client.get(listing), {200}, later={404, 503})
    return not answer.body["documents"]


async def _answer(
    ask: Callable[[], Awaitable[ServerAnswer]], good: Container[int], *, later: Container[int] = frozenset({503})
) -> ServerAnswer:
    """Ask until there is an answer that is `good`; a server that is being restarted has none for a while.

    Raises `Unavailable` for any other answer, and after `_PATIENCE` seconds.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            answer = await ask()
            if answer.status in good:
                return answer
            said = answer.detail
            final = answer.status not in later
        except Unavailable as error:
            said, final = error.message, False
        if final or time.monotonic() > deadline:
            raise Unavailable(f"the demo can't be loaded: {said}")
        await asyncio.sleep(_RETRY)
