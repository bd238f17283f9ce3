"""A pytest plugin that keeps one failure one: each test and each asynchronous fixture runs in a task of its own.

The runner of anyio's plugin runs all of them in one task for the whole session, and whatever cancels that task ends it
for good: a deadline or a task group that a fixture holds open while a test runs, a `CancelledError` that a test lets
through. So does `pytest.fail` inside a task group. Every later test then fails with `ClosedResourceError`.

Here a cancellation ends one task. A fixture whose background task fails ends the test that runs, with the fixture's own
error, and is made again for the next test. A test that outlasts `TIME_LIMIT` is cancelled and fails.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from types import TracebackType
from typing import Any, NoReturn, Self

import pytest
import uvloop
from _pytest.outcomes import OutcomeException
from anyio._backends._asyncio import AsyncIOBackend
from anyio.abc import TestRunner

from support.waiting import patience

TIME_LIMIT = 120.0
"""Seconds for one test, or for the set-up or tear-down of one fixture, on an idle machine (`support.waiting`)."""

_MOST = 1200.0
"""Seconds after which something hangs, however busy the machine is."""

_LAST_WORDS = 10.0
"""Seconds that a cancelled task has to end, on an idle machine."""

_open: list[_Fixture] = []
"""The asynchronous fixtures that are set up, oldest first."""

_END = object()


def pytest_configure() -> None:
    """Have anyio's plugin use this runner; `tests/unit/support/test_task_runner.py` notices if it does not."""
    AsyncIOBackend.create_test_runner = staticmethod(lambda options: TaskRunner(**options))  # type: ignore[method-assign, assignment]


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Remember how to have pytest make a fixture again."""
    known = set(_open)
    result = yield
    for fixture in set(_open) - known:
        fixture.release = lambda: fixturedef.finish(request)  # type: ignore[arg-type]
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Give up the fixtures that have ended by themselves, whatever their scope."""
    result = yield
    for fixture in [one for one in _open if one.task.done()]:
        fixture.release()
    return result


class TaskRunner(TestRunner):
    """One event loop; a task for each test and each fixture, all of them in one context."""

    def __init__(self, *, use_uvloop: bool = False) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop if use_uvloop else None)
        self._context = contextvars.copy_context()
        self._stray: list[BaseException] = []

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._runner.get_loop().set_exception_handler(self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._runner.__exit__(kind, error, traceback)

    def is_running(self) -> bool:
        return self._runner.get_loop().is_running()

    def run_test(self, test_func: Callable[..., Coroutine[Any, Any, Any]], kwargs: dict[str, Any]) -> None:
        self._run(test_func(**kwargs))

    def run_fixture(self, fixture_func: Callable[..., Coroutine[Any, Any, Any]], kwargs: dict[str, Any]) -> Any:
        return self._run(fixture_func(**kwargs))

    def run_asyncgen_fixture(
        self, fixture_func: Callable[..., AsyncGenerator[Any, Any]], kwargs: dict[str, Any]
    ) -> Iterator[Any]:
        loop = self._runner.get_loop()
        fixture = _Fixture(fixture_func.__name__, loop)
        fixture.task = self._start(fixture.run(fixture_func(**kwargs)))
        self._until_complete(_has_begun(fixture), fixture.task)
        if fixture.task.done():
            self._conclude(fixture.task)
        _open.append(fixture)
        yield fixture.value.result()
        _open.remove(fixture)
        if not fixture.told:
            fixture.finish.set()
            self._until_complete(_ended(fixture.task), fixture.task)
            self._conclude(fixture.task)

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        task = self._start(work)
        self._until_complete(_ended(task, *_open), task)
        return self._conclude(task)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._runner.get_loop().create_task(_without_exit(work), context=self._context)

    def _until_complete(self, waiting: Coroutine[Any, Any, None], task: asyncio.Task[Any]) -> None:
        try:
            self._runner.get_loop().run_until_complete(waiting)
        except KeyboardInterrupt:
            # Fixtures are torn down in this loop: the test must not continue meanwhile.
            task.cancel()
            self._runner.get_loop().run_until_complete(asyncio.wait({task}, timeout=_LAST_WORDS))
            raise

    def _conclude(self, task: asyncio.Task[Any]) -> Any:
        """Return what a task has returned, or raise what it has raised, with what its loop reports besides."""
        stray, self._stray = self._stray, []
        try:
            result = task.result()
        except OutcomeException:
            raise
        except asyncio.CancelledError as error:
            raise RuntimeError("cancelled, by nobody who waits for it") from error
        except BaseException as error:
            if stray:
                raise BaseExceptionGroup("the test and tasks beside it failed", [error, *stray]) from None
            raise
        if stray:
            raise BaseExceptionGroup("tasks beside the test failed", stray) if len(stray) > 1 else stray[0]
        return result

    def _handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if isinstance(error := context.get("exception"), Exception):
            self._stray.append(error)
        else:
            loop.default_exception_handler(context)


class _Fixture:
    """A fixture in its task, from set-up to tear-down."""

    task: asyncio.Task[None]
    release: Callable[[], None]

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.value: asyncio.Future[Any] = loop.create_future()
        self.finish = asyncio.Event()
        self.told = False
        """True if its error was raised in a test."""

    async def run(self, generator: AsyncGenerator[Any, Any]) -> None:
        self.value.set_result(await anext(generator))
        try:
            await self.finish.wait()
        except asyncio.CancelledError as error:
            # By a deadline or a task group of the fixture's own: it has to hear of it where it stands.
            await generator.athrow(error)
            raise RuntimeError(f"fixture {self.name!r} continues although it was cancelled") from error
        if await anext(generator, _END) is not _END:
            raise RuntimeError(f"fixture {self.name!r} yields more than once")


async def _without_exit(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except SystemExit as error:
        # It would leave the loop at once, and pytest with it.
        raise RuntimeError(f"SystemExit({error.code})") from error


async def _has_begun(fixture: _Fixture) -> None:
    waited = {fixture.task, fixture.value}
    done, _ = await asyncio.wait(waited, timeout=min(patience(TIME_LIMIT), _MOST), return_when=asyncio.FIRST_COMPLETED)
    if not done:
        await _cancel(fixture.task)
        _fail_late(fixture.task)


async def _ended(task: asyncio.Task[Any], *fixtures: _Fixture) -> None:
    """Wait for a task; end it when its time is over, or as soon as a fixture has ended before it."""
    watched = {fixture.task: fixture for fixture in fixtures}
    done, _ = await asyncio.wait(
        {task, *watched}, timeout=min(patience(TIME_LIMIT), _MOST), return_when=asyncio.FIRST_COMPLETED
    )
    if task in done:
        return
    await _cancel(task)
    for ended in done:
        watched[ended].told = True
        _fail_by(watched[ended])
    _fail_late(task)


async def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=patience(_LAST_WORDS))


def _fail_by(fixture: _Fixture) -> NoReturn:
    cause = None if fixture.task.cancelled() else fixture.task.exception()
    raise RuntimeError(f"fixture {fixture.name!r} ended before the test did") from cause


def _fail_late(task: asyncio.Task[Any]) -> NoReturn:
    message = f"not done after {TIME_LIMIT:g} s (of an idle machine)"
    if not task.done():
        raise TimeoutError(f"{message}, nor after it was cancelled; it stands at {task.get_stack()}")
    try:
        task.result()
    except BaseException as error:
        raise TimeoutError(message) from error
    raise TimeoutError(message)
