"""The demo data: forty theaters, loaded through the API at the first start."""

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
_RETRY, _TIMEOUT = 0.05, 30.0


def documents() -> list[bytes]:
    """Return the demo documents, each in canonical Extended JSON."""
    return (files("eventsync.dev") / "demo" / "theaters.ndjson").read_bytes().splitlines()


def first_id() -> str:
    """Return the id of the first document, as text."""
    return str(json.loads(documents()[0])["_id"]["$oid"])


async def load(client: ServerClient, marker: Path, say: Callable[[str], None]) -> None:
    """Load the demo data once in the life of a data directory, and only into an empty collection.

    If it is interrupted, the next run continues: `marker` records the state, and each document has an idempotency key.

    Raises `Unavailable` if it fails.
    """
    state = _state(marker)
    if state == _LOADED or (state != _LOADING and not await _is_empty(client)):
        return
    _record(marker, _LOADING)
    for document in documents():
        await _create(client, document)
    _record(marker, _LOADED)
    say(f"loaded {len(documents())} demo documents into the collection {COLLECTION!r}")


def _state(marker: Path) -> str:
    return marker.read_text() if marker.is_file() else ""


def _record(marker: Path, state: str) -> None:
    marker.write_text(state)


async def _create(client: ServerClient, document: bytes) -> None:
    key = f"demo-{COLLECTION}-{json.loads(document)['_id']['$oid']}"
    # 409: it was made so long ago that its idempotency key is forgotten.
    await _answer(lambda: client.create(COLLECTION, document, key), {201, 409})


async def _is_empty(client: ServerClient) -> bool:
    listing = f"/v1/collections/{COLLECTION}/documents?limit=1"
    # 404: the worker does not track the collection yet.
    answer = await _answer(lambda: client.get(listing), {200}, later={404, 503})
    return not answer.body["documents"]


async def _answer(
    ask: Callable[[], Awaitable[ServerAnswer]], good: Container[int], *, later: Container[int] = frozenset({503})
) -> ServerAnswer:
    """Repeat a request until its status is `good`, while the server restarts or answers a status of `later`.

    Raises `Unavailable` for any other status, and after `_TIMEOUT` seconds.
    """
    deadline = time.monotonic() + _TIMEOUT
    while True:
        try:
            answer = await ask()
            if answer.status in good:
                return answer
            reason = answer.detail
            final = answer.status not in later
        except Unavailable as error:
            reason, final = error.message, False
        if final or time.monotonic() > deadline:
            raise Unavailable(f"the demo can't be loaded: {reason}")
        await asyncio.sleep(_RETRY)
