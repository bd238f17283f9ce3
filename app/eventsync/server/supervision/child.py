"""A child process: started, restarted whenever it dies, and ended in bounded time. None outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from eventsync.concurrency.waiting import set_within
from eventsync.errors import ConfigurationError, EventsyncError, IncompatibleFormat, Unavailable
from eventsync.server.supervision.orphans import die_with_parent

STEADY: Final = 10.0
"""Seconds after which a child counts as working: the count of its deaths starts at one again."""

MAX_DEATHS: Final = 8
"""Deaths in a row, each before `STEADY`, after which a child is given up."""

_DELAY, _DELAY_CAP = 0.1, 5.0
_HOPELESS: Final = frozenset({2, 62})
"""Exit codes that a restart can't change: bad options (ours and mongod's), data of another MongoDB version."""

_LINE_BYTES: Final = 64 * 1024


class Voice(Protocol):
    """Reports about a child to people."""

    def say(self, text: str, style: str = "", /) -> None:
        """Report an event in the life of a child."""

    def line(self, name: str, text: str, /) -> None:
        """Report a line of the output of the child `name`."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """The command of a child, and the conditions that it runs under.

    With `log`, its output goes to that file; without, line by line to the parent's voice. `stop_timeout` is the time
    from SIGTERM to SIGKILL, in seconds. `orphaned` is the signal that it gets when its parent dies.
    `descriptors` are open files of the parent that it inherits, under the same numbers.
    """

    name: str
    command: tuple[str, ...]
    stop_timeout: float
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    log: Path | None = None
    own_output: bool = True
    """False: the child writes to its parent's own output."""
    descriptors: tuple[int, ...] = ()
    orphaned: signal.Signals = signal.SIGTERM
    explain: Callable[[], str] = str
    """Returns what is known about the last death besides the exit code."""


class Child:
    """Runs a child. When it gives up, it sets `failure` and calls `on_failure`. `force` ends `stop_timeout` early."""

    def __init__(self, spec: ChildSpec, voice: Voice, on_failure: Callable[[], None], force: asyncio.Event) -> None:
        self._spec = spec
        self.failure: EventsyncError | None = None
        self._voice = voice
        self._on_failure = on_failure
        self._force = force
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the child running while the block runs, and end it afterwards."""
        keeping = asyncio.create_task(self._keep(), name=f"keep {self._spec.name}")
        try:
            yield
        finally:
            self._ending.set()
            await keeping

    async def _keep(self) -> None:
        deaths = 0
        while not self._ending.is_set():
            started = time.monotonic()
            try:
                code = await self._live()
            except OSError as error:
                return self._give_up(ConfigurationError(f"{self._spec.command[0]} can't be run: {error}"))
            if self._ending.is_set():
                return None
            # A child that has worked for a while died of something new, not of the fault of the last deaths.
            deaths = 1 if time.monotonic() - started > STEADY else deaths + 1
            if failure := self._hopeless(code, deaths):
                return self._give_up(failure)
            await self._pause(code, min(_DELAY_CAP, _DELAY * 2 ** (deaths - 1)))
        return None

    def _hopeless(self, code: int, deaths: int) -> EventsyncError | None:
        name, why = self._spec.name, self._spec.explain() or "its messages are above"
        if code == IncompatibleFormat.exit_code:
            return IncompatibleFormat(f"{name} can't use what is stored: {why}")
        if code in _HOPELESS:
            return ConfigurationError(f"{name} can't run like this ({ended(code)}): {why}")
        if deaths >= MAX_DEATHS:
            return Unavailable(f"{name} died {deaths} times in a row ({ended(code)}): {why}")
        return None

    def _give_up(self, failure: EventsyncError) -> None:
        self.failure = failure
        self._on_failure()

    async def _pause(self, code: int, delay: float) -> None:
        self._voice.say(f"{self._spec.name} {ended(code)}; starting it again in {delay:g} s", "yellow")
        await set_within(self._ending, delay)

    async def _live(self) -> int:
        """Run the child once. Return its exit code."""
        process = await self._start()
        output = asyncio.create_task(self._pass_on(process), name=f"output of {self._spec.name}")
        exited = asyncio.create_task(process.wait(), name=f"end of {self._spec.name}")
        await first(self._ending, exited)
        if not exited.done():
            process.terminate()
            await first(self._force, exited, within=self._spec.stop_timeout)
        if not exited.done():
            self._voice.say(f"{self._spec.name} did not end by itself; killing it", "yellow")
            process.kill()
        code = await exited
        await output
        return code

    async def _start(self) -> Process:
        log = self._spec.log.open("ab") if self._spec.log else None
        try:
            return await asyncio.create_subprocess_exec(
                *self._spec.command,
                stdin=subprocess.DEVNULL,
                stdout=log or (subprocess.PIPE if self._spec.own_output else None),
                stderr=subprocess.STDOUT if self._spec.own_output else None,
                env=self._spec.environment,
                pass_fds=self._spec.descriptors,
                # Ctrl-C in the terminal is for the parent, which ends the children in order.
                start_new_session=True,
                preexec_fn=partial(die_with_parent, self._spec.orphaned, os.getpid()),
                limit=_LINE_BYTES,
            )
        finally:
            if log:
                log.close()

    async def _pass_on(self, process: Process) -> None:
        if process.stdout is None:
            return
        rest = b""
        while chunk := await process.stdout.read(_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._voice.line(self._spec.name, line.decode(errors="replace"))
        if rest:
            self._voice.line(self._spec.name, rest.decode(errors="replace"))


def ended(code: int) -> str:
    """Describe how a process ended; `code` is that of `subprocess`."""
    if code >= 0:
        return f"ended with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"


async def first(event: asyncio.Event, other: asyncio.Task[object], *, within: float | None = None) -> None:
    """Wait until `event` is set, `other` is done, or `within` seconds are over."""
    waiting: asyncio.Task[Any] = asyncio.create_task(event.wait(), name="wait")
    await asyncio.wait({waiting, other}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
