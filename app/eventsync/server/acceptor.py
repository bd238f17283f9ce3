"""Accepts connections many at a time.

uvloop accepts one connection in each turn of its loop. Under load a turn takes milliseconds, and a new connection (or
a health check) would wait for as many turns as there are connections before it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

_AT_ONCE: Final = 4
"""Connections that are accepted in one turn. The rest waits: open connections are served in between, and other
processes may accept from the same socket."""

_PAUSE: Final = 1.0
"""Seconds without accepting after the system has refused a connection (no more open files)."""


class Acceptor:
    """Accepts from a listening socket until `close`, which closes the socket."""

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._handing_over: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # The listener stays readable, so without a pause the loop would spin.
                logger.log(logging.ERROR, "no connection can be accepted for %g s: %s", _PAUSE, error)
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(_PAUSE, self._begin)
                return
            task = self._loop.create_task(self._hand_over(accepted))
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)

    async def _hand_over(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        try:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._make_protocol, accepted)
        except OSError:
            # The client has left already.
            accepted.close()

    def close(self) -> None:
        """Stop accepting."""
        if self._listener.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
