"""Helper processes for work that would hold up the event loop.

Threads do not help: decoding, encoding and freeing a large document are single calls that hold the interpreter lock for
100 ms and more. A helper process runs pure functions on the bytes that it receives, and returns bytes. The first job
that needs a helper starts it. It ends after an idle period, or when its server is gone.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from eventsync.concurrency.slices import turn
from eventsync.errors import EventsyncError, TooComplex, Unavailable
from eventsync.process.memory import return_free_memory
from eventsync.settings import Settings

T = TypeVar("T")

_LENGTH: Final = struct.Struct("<Q")
_ANSWER: Final = struct.Struct("<QQ")
"""The header of an answer: its length, and the number of large values that follow, each after its own length."""
_READY: Final = b"\n"
"""The first output of a helper: from then on it reads jobs."""
_IDLE: Final = 60.0
"""Seconds without work after which a helper ends and so returns its memory."""

_READ_AHEAD: Final = 1024 * 1024
_PIECE: Final = 256 * 1024
"""Bytes of an answer that are copied in one iteration, and of a value from which on it is sent apart from the answer.

The JSON of a document may have 90 MiB. To unpickle a value is to copy it, all at once.
"""

_CLEANED_AFTER: Final = 100
"""Jobs between two garbage collections of a helper, which holds millions of objects without cycles."""

_PATIENCE: Final = 10
"""Times that work no request waits for may take as long: no client can split it up, and all others wait for it."""

_NICE: Final = 2
"""Niceness of helpers: event loops have priority if there are fewer cores than processes."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error raised in a helper. (Pickle can't restore errors with keyword arguments.)"""

    kind: type[Exception]
    args: tuple[Any, ...]
    state: dict[str, Any]
    trace: str

    @classmethod
    def of(cls, error: Exception) -> _Failed:
        return cls(type(error), error.args, dict(vars(error)), traceback.format_exc())

    def error(self) -> Exception:
        error = self.kind.__new__(self.kind, *self.args)
        vars(error).update(self.state)
        if not isinstance(error, EventsyncError):
            error.add_note(f"in a helper process:\n{self.trace}")
        return error


class HelperTimeout(Unavailable):
    """A helper did not finish work that no request waits for. It may succeed later, on a machine that is less busy."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"a helper process did not finish its work within {seconds:g} s")
        self.seconds = seconds


class Offload:
    """Runs pure functions: small work in this process, larger work in a bounded number of helper processes.

    The queue for helpers is bounded in bytes; work beyond that is refused with `Unavailable`.
    """

    def __init__(
        self, *, above: int, processes: int, waiting_bytes: int, seconds: float, for_requests: bool = True
    ) -> None:
        """Send work on more than `above` bytes to one of `processes` helpers, with a timeout of `seconds`.

        After it, `TooComplex` is raised if the work is done `for_requests`, else `HelperTimeout`.
        """
        self.above = above
        self._places = asyncio.Semaphore(processes)
        self._max_waiting_bytes = waiting_bytes
        self._seconds = seconds
        self._for_requests = for_requests
        self._idle: list[_Helper] = []
        self._all: set[_Helper] = set()
        self._killed: set[asyncio.Task[None]] = set()
        self.waiting_bytes = 0
        """Bytes of work in progress or queued."""
        self.done = 0
        """Jobs finished by helpers."""
        self.refused = 0

    @property
    def helps(self) -> bool:
        """True if large work goes to helpers."""
        return self.above < sys.maxsize

    @classmethod
    @asynccontextmanager
    async def running(
        cls, settings: Settings, *, processes: int | None = None, for_requests: bool = True
    ) -> AsyncIterator[Offload]:
        """Yield an `Offload` with the bounds of `settings`, or other `processes`; end its helpers after the block.

        Work that is not `for_requests` may take ten times as long.
        """
        offload = cls(
            above=settings.offload_above,
            processes=processes or settings.offload_processes,
            waiting_bytes=settings.offload_waiting_bytes,
            seconds=settings.offload_timeout * (1 if for_requests else _PATIENCE),
            for_requests=for_requests,
        )
        try:
            yield offload
        finally:
            await offload.close()

    async def call(self, size: int, function: Callable[..., T], *args: Any) -> T:
        """Return `function(*args)`, work on about `size` bytes. Raises the errors of `function` and of `run`."""
        if size > self.above:
            return await self.run(function, *args, size=size)
        await turn(size)
        return function(*args)

    async def run(self, function: Callable[..., T], *args: Any, size: int) -> T:
        """Return `function(*args)`, computed by a helper. `function` is a module's, and all arguments can be pickled.

        Raises `Unavailable` if the queue is full or the helper died, and after a timeout `TooComplex` or
        `HelperTimeout`.
        """
        # A single job may be larger than the whole queue, if nothing else waits.
        if self.waiting_bytes and self.waiting_bytes + size > self._max_waiting_bytes:
            self.refused += 1
            raise Unavailable.busy("too much large work at a time", 1.0, 5.0)
        self.waiting_bytes += size
        try:
            async with self._places:
                result: T = await self._run(_pickled((function.__module__, function.__qualname__, args)))
                return result
        finally:
            self.waiting_bytes -= size

    async def _run(self, job: Sequence[bytes | memoryview]) -> Any:
        helper = await self._helper()
        whole = False
        try:
            async with asyncio.timeout(self._seconds):
                answer = await helper.ask(job)
            whole = True
        except TimeoutError as error:
            if not self._for_requests:
                raise HelperTimeout(self._seconds) from error
            raise TooComplex(f"the request takes more than {self._seconds:g} s of work; split it up") from error
        except (OSError, EOFError) as error:
            raise Unavailable("the helper process that worked on the request has ended") from error
        finally:
            # An interrupted helper would give its pending answer to the next job.
            if whole:
                self._rest(helper)
            else:
                self._kill(helper)
        self.done += 1
        if isinstance(answer, _Failed):
            raise answer.error()
        return answer

    async def _helper(self) -> _Helper:
        while self._idle:
            helper = self._idle.pop()
            helper.wake()
            # An idle helper may have died: the kernel ends large processes where memory is short.
            if helper.alive:
                return helper
            self._all.discard(helper)
        try:
            return await self._started()
        except (OSError, EOFError) as error:  # the system allows no further processes, or ended it
            raise Unavailable("a helper process could not be started").because(str(error)) from error

    async def _started(self) -> _Helper:
        helper = await _Helper.spawned()
        self._all.add(helper)
        try:
            # Not part of the work: a busy machine may take seconds for it.
            await helper.ready()
        except BaseException:
            self._kill(helper)
            raise
        return helper

    def _kill(self, helper: _Helper) -> None:
        helper.kill()
        self._all.discard(helper)
        ending = asyncio.create_task(helper.ended(), name="end a helper process")
        self._killed.add(ending)
        ending.add_done_callback(self._killed.discard)

    def _rest(self, helper: _Helper) -> None:
        self._idle.append(helper)
        helper.rest(_IDLE, lambda: self._dismiss(helper))

    def _dismiss(self, helper: _Helper) -> None:
        self._idle.remove(helper)
        self._all.discard(helper)
        helper.end()

    async def close(self) -> None:
        """Kill all helpers. No caller waits for them any more."""
        for helper in list(self._all):
            self._kill(helper)
        self._idle = []
        await asyncio.gather(*self._killed)


def inline() -> Offload:
    """Return an `Offload` that runs all work in this process, for commands and tests."""
    return Offload(above=sys.maxsize, processes=1, waiting_bytes=0, seconds=1.0)


class _Parts:
    """A file object that keeps each write as it is, so that large values are pickled without a copy."""

    def __init__(self) -> None:
        self.written: list[bytes | memoryview] = []

    def write(self, part: bytes | memoryview) -> None:
        self.written.append(part)


def _pickled(value: Any) -> Sequence[bytes | memoryview]:
    parts = _Parts()
    pickle.Pickler(parts, 5).dump(value)
    return parts.written


class AnswerPickler(pickle.Pickler):
    """Pickles an answer without its large values, which are then in `apart`."""

    def __init__(self, to: BytesIO) -> None:
        super().__init__(to, 5)
        self.apart: list[bytes] = []

    def persistent_id(self, value: Any) -> int | None:
        """Return the place of a large value in `apart`, and None for all else."""
        if type(value) is not bytes or len(value) < _PIECE:
            return None
        self.apart.append(value)
        return len(self.apart) - 1


class AnswerUnpickler(pickle.Unpickler):
    """Unpickles an answer of `AnswerPickler`. Its large values are those of `apart`, not copies."""

    def __init__(self, answer: bytes, apart: Sequence[bytes]) -> None:
        super().__init__(BytesIO(answer))
        self._apart = apart

    def persistent_load(self, place: int) -> bytes:
        """Return a large value."""
        return self._apart[place]


class _Helper:
    """A helper process, as the server sees it: one job at a time, through standard input and output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ending: asyncio.TimerHandle | None = None

    @classmethod
    async def spawned(cls) -> _Helper:
        # The environment contains credentials, so pass on only the path of the code.
        environment = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "eventsync.concurrency.offload",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_READ_AHEAD,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the server, which ends its helpers
        )
        return cls(process)

    async def ready(self) -> None:
        """Wait until the helper reads jobs. Raises `EOFError` if it ends before that."""
        if self._process.stdout is None:
            raise EOFError
        await self._process.stdout.readexactly(len(_READY))

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, job: Sequence[bytes | memoryview]) -> Any:
        """Send a job and return the answer. Raises `OSError` or `EOFError` if the helper ends before that."""
        to, back = self._process.stdin, self._process.stdout
        if to is None or back is None:
            raise EOFError
        to.write(_LENGTH.pack(sum(map(len, job))))
        for part in job:
            to.write(part)
            await to.drain()
        length, count = _ANSWER.unpack(await back.readexactly(_ANSWER.size))
        answer = await _pieces(back, length)
        apart = [await _pieces(back, *_LENGTH.unpack(await back.readexactly(_LENGTH.size))) for _ in range(count)]
        return AnswerUnpickler(answer, apart).load()

    def rest(self, seconds: float, then: Callable[[], None]) -> None:
        """Call `then` after `seconds`, unless `wake` is called first."""
        self._ending = asyncio.get_running_loop().call_later(seconds, then)

    def wake(self) -> None:
        if self._ending is not None:
            self._ending.cancel()

    def end(self) -> None:
        """Let the helper end by closing its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def kill(self) -> None:
        self.wake()
        if self.alive:
            with suppress(ProcessLookupError):
                self._process.kill()

    async def ended(self) -> None:
        await self._process.wait()


async def _pieces(source: asyncio.StreamReader, length: int) -> bytes:
    """Read `length` bytes in pieces. Copying the JSON of a large document at once would block for 100 ms."""
    whole = BytesIO()
    while length > 0:
        piece = await source.readexactly(min(length, _PIECE))
        whole.write(piece)
        length -= len(piece)
        if length:
            await asyncio.sleep(0)
    return whole.getvalue()  # which is no copy


# --- in the helper ----------------------------------------------------------------------------------------------------


def main() -> None:
    """Answer jobs until the input ends, which it also does when the server crashes."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    # Jobs make millions of objects and hardly a cycle: the collector would walk through all of them for nothing. It
    # runs now and then, below.
    gc.freeze()
    gc.disable()
    return_free_memory()
    # Redirect anything printed to the log, so that it does not corrupt an answer.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(_READY)
    answers.flush()
    done = 0
    while (job := _read(sys.stdin.buffer)) is not None:
        answer = BytesIO()
        pickler = AnswerPickler(answer)
        pickler.dump(_answer(job))
        del job
        try:
            _write(answers, answer.getvalue(), pickler.apart)
        except BrokenPipeError:
            os._exit(0)  # the server is gone; skip the flush at exit, which would fail
        del answer, pickler
        done += 1
        if done % _CLEANED_AFTER == 0:
            gc.collect()


def _write(to: BinaryIO, answer: bytes, apart: Sequence[bytes]) -> None:
    to.write(_ANSWER.pack(len(answer), len(apart)))
    to.write(answer)
    for value in apart:
        to.write(_LENGTH.pack(len(value)))
        to.write(value)
    to.flush()


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    job = source.read(length)
    return job if len(job) == length else None


def _answer(job: bytes) -> Any:
    try:
        module, name, args = pickle.loads(job)  # noqa: S301 - from our own server
        return getattr(importlib.import_module(module), name)(*args)
    except Exception as error:  # noqa: BLE001 - raised again in the server
        return _Failed.of(error)


if __name__ == "__main__":
    # Import this module by its real name: pickled answers refer to its classes, which here belong to `__main__`.
    importlib.import_module("eventsync.concurrency.offload").main()
