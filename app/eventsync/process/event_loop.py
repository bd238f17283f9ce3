"""The event loop of every process: uvloop, with DNS look-ups that do not block each other.

libuv uses at most half of its four threads for look-ups, and PyMongo waits for a look-up without a timeout. Two names
that no name server answers for (replica set members that are down) would block the look-up of the new primary: writes
stalled for 86 s after a failover of 11 s.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import uvloop

T = TypeVar("T")

LOOKUP_TIMEOUT: Final = 5.0
"""Seconds that a caller waits for a look-up. The look-up itself continues and serves later callers."""

MAX_LOOKUPS: Final = 256
"""Concurrent look-ups. A process only needs the few names of its replica set."""

Answer = list[tuple[Any, Any, int, str, Any]]
"""The return type of `socket.getaddrinfo`."""


class Loop(uvloop.Loop):
    """A uvloop event loop that looks up each name in its own thread, once for all concurrent callers.

    The threads are daemons, so neither the loop nor the process waits for a name server at its end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lookups: dict[tuple[object, ...], asyncio.Future[Answer]] = {}

    async def getaddrinfo(
        self,
        host: bytes | str | None,
        port: bytes | str | int | None,
        *,
        family: int = 0,
        type: int = 0,  # noqa: A002 - the signature of the base class
        proto: int = 0,
        flags: int = 0,
    ) -> Answer:
        """Return the addresses of `host`, as `socket.getaddrinfo` does.

        Raises `socket.gaierror`, with EAI_AGAIN if no answer comes within `LOOKUP_TIMEOUT`, if `MAX_LOOKUPS` other
        look-ups are in progress, or if the system allows no further threads.
        """
        if _is_address(host):
            return socket.getaddrinfo(host, port, family, type, proto, flags)  # parses the text and does no I/O
        question = (host, port, family, type, proto, flags)
        if (answer := self._lookups.get(question)) is None:
            answer = self._look_up(question)
        # `await answer` would let a cancelled caller cancel the look-up for all.
        await asyncio.wait({answer}, timeout=LOOKUP_TIMEOUT)
        if not answer.done():
            raise socket.gaierror(socket.EAI_AGAIN, f"no name server answers for {host!r}")
        return answer.result()

    def _look_up(self, question: tuple[Any, ...]) -> asyncio.Future[Answer]:
        if len(self._lookups) >= MAX_LOOKUPS:
            raise socket.gaierror(socket.EAI_AGAIN, f"{MAX_LOOKUPS} other names are being looked up")
        answer: asyncio.Future[Answer] = self.create_future()

        def done(result: Answer | OSError) -> None:
            del self._lookups[question]
            if isinstance(result, OSError):
                answer.set_exception(result)
                answer.exception()  # marks it as retrieved: all callers may have timed out
            else:
                answer.set_result(result)

        def ask() -> None:
            result: Answer | OSError
            try:
                result = socket.getaddrinfo(*question)
            except (OSError, UnicodeError) as error:  # an empty or too long label raises UnicodeError
                result = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error))
            with suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(done, result)

        try:
            threading.Thread(target=ask, name=f"look up {question[0]!r}", daemon=True).start()
        except RuntimeError as error:  # the system allows no further threads
            raise socket.gaierror(socket.EAI_AGAIN, f"{question[0]!r} can't be looked up: {error}") from error
        # Only now: nobody would complete the look-up of a thread that was not started. `done` runs after this.
        self._lookups[question] = answer
        return answer


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in such a loop, as `asyncio.run` does, and return its result."""
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)


def _is_address(host: bytes | str | None) -> bool:
    if host is None:
        return True
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host)
    except ValueError:
        return False
    return True
