"""The event loop of every process: uvloop's, with look-ups of names that can't hold each other up.

libuv looks names up on at most half of its four threads, and PyMongo waits for a look-up without a bound. So two names
that no name server answers for (members of the replica set that are gone) keep the new primary's name from being looked
up at all: writes stood for 86 s after a failover of 11 s.
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
"""Seconds that a caller waits for a name server. The look-up itself goes on, and serves whoever asks meanwhile."""

MAX_LOOKUPS: Final = 256
"""Most names that are being looked up at a time; a process knows the few names of its replica set."""

Answer = list[tuple[Any, Any, int, str, Any]]
"""What `socket.getaddrinfo` returns."""


class Loop(uvloop.Loop):
    """A uvloop event loop that looks up each name in a thread of its own, once for all who ask for it.

    The threads are daemons: neither the end of the loop nor that of the process waits for a name server.
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

        Raises `socket.gaierror`: with EAI_AGAIN where no answer comes within `LOOKUP_TIMEOUT`, or where `MAX_LOOKUPS`
        other names are being looked up.
        """
        if _is_address(host):
            return socket.getaddrinfo(host, port, family, type, proto, flags)  # reads nothing but the text
        question = (host, port, family, type, proto, flags)
        if (answer := self._lookups.get(question)) is None:
            answer = self._look_up(question)
        # Not `await answer`: a caller that is cancelled would cancel it for all.
        await asyncio.wait({answer}, timeout=LOOKUP_TIMEOUT)
        if not answer.done():
            raise socket.gaierror(socket.EAI_AGAIN, f"no name server answers for {host!r}")
        return answer.result()

    def _look_up(self, question: tuple[Any, ...]) -> asyncio.Future[Answer]:
        if len(self._lookups) >= MAX_LOOKUPS:
            raise socket.gaierror(socket.EAI_AGAIN, f"{MAX_LOOKUPS} other names are being looked up")
        answer: asyncio.Future[Answer] = self.create_future()
        self._lookups[question] = answer

        def done(result: Answer | OSError) -> None:
            del self._lookups[question]
            if isinstance(result, OSError):
                answer.set_exception(result)
                answer.exception()  # everybody may have given up, and that is nothing to warn of
            else:
                answer.set_result(result)

        def ask() -> None:
            result: Answer | OSError
            try:
                result = socket.getaddrinfo(*question)
            except (OSError, UnicodeError) as error:  # a label that is empty or too long is a UnicodeError
                result = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error))
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self.call_soon_threadsafe(done, result)

        threading.Thread(target=ask, name=f"look up {question[0]!r}", daemon=True).start()
        return answer


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` in a loop of this kind, as `asyncio.run` would, and return what it returns."""
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
