"""Extensions of ASGI by our server: eviction of a client, direct writes to its connection, and waiting for room in it.

The scope of each connection carries them. Under another server they are absent, and the application does without.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from starlette.types import Scope

EVICT: Final = "eventsync.evict"
WRITE: Final = "eventsync.write"
WRITABLE: Final = "eventsync.writable"


class SocketWriter(Protocol):
    """Writes all of the parts to a connection at once, or nothing. Returns True if they were written."""

    def __call__(self, *parts: bytes) -> bool: ...


def evict(scope: Scope, code: int) -> None:
    """End the connection of `scope` now, even if the client reads nothing. A WebSocket client may get the close `code`.

    Another server than ours ends the connection when the application returns.
    """
    if (found := scope.get("extensions", {}).get(EVICT)) is not None:
        found(code)


def socket_writer(scope: Scope) -> SocketWriter | None:
    """Return the writer that puts bytes into the connection of `scope` past ASGI; None where the server has none.

    It writes nothing to a connection that has enough to send already, or is about to end. The bytes are a whole frame
    of a WebSocket, or a whole chunk of a chunked response that has begun. They may come in several parts, which are not
    joined. (A message through ASGI costs some 20 µs, and its bytes are made again for each client.)
    """
    found: SocketWriter | None = scope.get("extensions", {}).get(WRITE)
    return found


class Writable(Protocol):
    """An event that is set while a connection can take more, and when it is lost."""

    def is_set(self) -> bool: ...

    async def wait(self) -> object: ...


async def until_writable(scope: Scope, seconds: float) -> None:
    """Wait until the connection of `scope` can take more, or is lost. Under another server, return at once.

    Raises `TimeoutError` after `seconds`.
    """
    found: Writable | None = scope.get("extensions", {}).get(WRITABLE)
    if found is not None and not found.is_set():
        async with asyncio.timeout(seconds):
            await found.wait()
