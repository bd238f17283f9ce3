"""Several server processes on one port: kept running, replaced one after the other, ended together.

This process listens and never accepts. The servers inherit its sockets and accept from them. When a server ends,
waiting connections stay in the queue, and another server accepts them. (With sockets of their own, by SO_REUSEPORT, the
connections that wait at a server would be lost with it.)
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from eventsync.concurrency.waiting import set_within
from eventsync.errors import EventsyncError
from eventsync.server.supervision.child import Child, ChildSpec

logger = logging.getLogger(__name__)

GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL, in addition to the time for the drain."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """The command of a server process. The numbers of the `sockets` and of a pipe follow it as options.

    The server writes a line into the pipe once it serves clients. It may take `ready_timeout` seconds for that, and
    `drain_timeout` seconds to drain its sessions at the end.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str]
    sockets: Sequence[socket.socket]
    drain_timeout: float
    ready_timeout: float

    def child(self, name: str, ready: int) -> ChildSpec:
        """Return the specification of a child that writes to `ready`, the end of the pipe."""
        listeners = tuple(listener.fileno() for listener in self.sockets)
        words = ("--listen-fds", ",".join(map(str, listeners)), "--ready-fd", str(ready))
        return ChildSpec(
            name,
            (*self.command, *words),
            stop_timeout=self.drain_timeout + GRACE,
            environment=self.environment,
            own_output=False,
            descriptors=(*listeners, ready),
        )


class ServerProcesses:
    """Runs `count` server processes until SIGTERM or SIGINT. SIGHUP replaces them, one after the other."""

    def __init__(self, spec: ServerSpec, count: int) -> None:
        self._spec = spec
        self._count = count
        self._current: list[_Server] = []
        self._running: set[_Server] = set()
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._replace = asyncio.Event()

    async def run(self) -> None:
        """Run until a signal; a second one ends everything at once. Raises the failure that gave up a server."""
        with self._signals_heard():
            async with asyncio.TaskGroup() as group:
                self._current = [self._start(group, number) for number in range(self._count)]
                replacing = group.create_task(self._replacing(group), name="replace server processes")
                await self._stop.wait()
                # New connections are refused from now on: no server would accept them.
                for listener in self._spec.sockets:
                    listener.close()
                for server in self._running:
                    server.end()
                replacing.cancel()
        for server in self._current:
            if server.failure is not None:
                raise server.failure

    @contextmanager
    def _signals_heard(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_all, number)
        loop.add_signal_handler(signal.SIGHUP, self._replace.set)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _end_all(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            logger.warning("%s again: ending the server processes at once", number.name)
            self._force.set()
            return
        logger.info("%s: ending %d server processes", number.name, len(self._running))
        self._stop.set()

    def _start(self, group: asyncio.TaskGroup, number: int) -> _Server:
        server = _Server(self._spec, f"server {number + 1}", self._failed, self._force)
        self._running.add(server)
        running = group.create_task(server.run(), name=server.name)
        running.add_done_callback(lambda _: self._running.discard(server))
        return server

    def _failed(self, server: _Server) -> None:
        if server in self._current:
            self._stop.set()

    async def _replacing(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._replace.wait()
            # A signal that comes meanwhile starts another round: this one may have read older settings.
            self._replace.clear()
            logger.info("SIGHUP: replacing %d server processes, one after the other", self._count)
            if await self._replace_all(group):
                logger.info("all server processes are replaced")

    async def _replace_all(self, group: asyncio.TaskGroup) -> bool:
        for number, old in enumerate(self._current):
            new = self._start(group, number)
            # The old server goes only once the new one serves, so settings that do not work replace nothing.
            if not await new.serves(self._spec.ready_timeout):
                late = f"it does not serve within {self._spec.ready_timeout:g} s"
                why = new.failure.diagnosis if new.failure else late
                await new.ended()
                logger.error("the new %s is given up, those that run stay: %s", new.name, why)
                return False
            self._current[number] = new
            await old.ended()
        return True


class _Server:
    """One server process, restarted whenever it dies, until `end`."""

    def __init__(self, spec: ServerSpec, name: str, on_failure: _OnFailure, force: asyncio.Event) -> None:
        self.name = name
        self._reading, self._writing = os.pipe()
        self._child = Child(spec.child(name, self._writing), _Log(), self._fail, force)
        self._on_failure = on_failure
        self._known = asyncio.Event()
        """Set once the server serves, or has failed."""
        self._end = asyncio.Event()
        self._gone = asyncio.Event()

    @property
    def failure(self) -> EventsyncError | None:
        """The reason why the server was given up."""
        return self._child.failure

    async def run(self) -> None:
        """Run the server until `end`, and until its process is gone."""
        try:
            with self._listened_to():
                async with self._child.running():
                    await self._end.wait()
        finally:
            self._gone.set()

    def end(self) -> None:
        """Ask the server to drain its sessions and end."""
        self._end.set()

    async def ended(self) -> None:
        """End the server, and wait until it is gone, which is bounded by `stop_timeout`."""
        self.end()
        await self._gone.wait()

    async def serves(self, seconds: float) -> bool:
        """Return True if the server serves clients within so many seconds."""
        return await set_within(self._known, seconds) and self.failure is None

    def _fail(self) -> None:
        self._known.set()
        self._on_failure(self)

    @contextmanager
    def _listened_to(self) -> Iterator[None]:
        """Read the pipe while the block runs. Both ends stay open across restarts."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._reading, self._heard)
        try:
            yield
        finally:
            loop.remove_reader(self._reading)
            os.close(self._reading)
            os.close(self._writing)

    def _heard(self) -> None:
        os.read(self._reading, 1024)
        if not self._known.is_set():
            logger.info("%s serves", self.name)
        self._known.set()


_OnFailure = Callable[[_Server], None]


class _Log:
    """Reports about server processes to their own log."""

    def say(self, text: str, _style: str = "", /) -> None:
        logger.warning("%s", text)

    def line(self, name: str, text: str, /) -> None:
        logger.info("%s: %s", name, text)
