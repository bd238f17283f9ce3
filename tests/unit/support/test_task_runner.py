"""One failure stays one: pytest runs a module of failing tests, and the tests between them pass."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.waiting import patience

TESTS = Path(__file__).parents[2]

SETUP = """
    import asyncio
    import pytest

    @pytest.fixture(scope="session")
    def anyio_backend():
        return "asyncio", {"use_uvloop": True}

    @pytest.fixture(scope="session")
    async def shared():
        yield asyncio.get_running_loop()

    @pytest.fixture(scope="session")
    async def system():
        server = System()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            yield server
            server.stop.set()

    class System:
        def __init__(self):
            self.fails, self.stop = asyncio.Event(), asyncio.Event()

        async def run(self):
            waiting = {asyncio.ensure_future(self.fails.wait()), asyncio.ensure_future(self.stop.wait())}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
            if self.fails.is_set():
                raise OSError("the system is broken")

        async def answer(self):
            assert not self.fails.is_set()

    async def test_before(shared, system):
        await system.answer()
"""

BEHIND = """
    async def test_behind(shared, system):
        assert shared is asyncio.get_running_loop()
        await system.answer()
"""

FAILURES = {
    "a timeout": """
        async def test_fails(shared, system):
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
    """,
    "a timeout in a task group": """
        async def test_fails(shared, system):
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.Event().wait())
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
    """,
    "a cancellation that the test lets through": """
        async def test_fails(shared, system):
            raise asyncio.CancelledError
    """,
    "a test that cancels itself": """
        async def test_fails(shared, system):
            asyncio.current_task().cancel()
            await asyncio.Event().wait()
    """,
    "a failure in a task group": """
        async def test_fails(shared, system):
            async with asyncio.TaskGroup():
                pytest.fail("here")
    """,
    "an exit": """
        async def test_fails(shared, system):
            raise SystemExit(3)
    """,
    "a test that never ends": """
        async def test_fails(shared, system):
            await asyncio.Event().wait()
    """,
    "a test that swallows its cancellation": """
        async def test_fails(shared, system):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.Event().wait()
    """,
    "an error in a callback": """
        async def test_fails(shared, system):
            asyncio.get_running_loop().call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
    """,
    "a task of a test's fixture fails": """
        @pytest.fixture
        async def own():
            async with asyncio.TaskGroup() as group:
                async def fail():
                    raise OSError("the fixture's task")
                yield lambda: group.create_task(fail())

        async def test_fails(shared, system, own):
            own()
            await asyncio.Event().wait()
    """,
    "a deadline of a test's fixture passes": """
        @pytest.fixture
        async def own():
            async with asyncio.timeout(None) as deadline:
                yield deadline

        async def test_fails(shared, system, own):
            own.reschedule(asyncio.get_running_loop().time())
            await asyncio.Event().wait()
    """,
    "a task of the shared system fails": """
        async def test_fails(shared, system):
            system.fails.set()
            await asyncio.Event().wait()
    """,
}

IN_FIXTURES = {
    "set-up fails": """
        @pytest.fixture
        async def own():
            raise asyncio.CancelledError
            yield

        async def test_fails(shared, system, own):
            pass
    """,
    "set-up never ends": """
        @pytest.fixture
        async def own():
            await asyncio.Event().wait()
            yield

        async def test_fails(shared, system, own):
            pass
    """,
    "tear-down fails": """
        @pytest.fixture
        async def own():
            yield
            raise asyncio.CancelledError

        async def test_passes(shared, system, own):
            pass
    """,
    "tear-down never ends": """
        @pytest.fixture
        async def own():
            yield
            await asyncio.Event().wait()

        async def test_passes(shared, system, own):
            pass
    """,
}


class Outcome:
    """Return the outcomes of one pytest run, by test."""

    def __init__(self, said: str) -> None:
        self.said = said
        self._found = re.findall(r"^(PASSED|FAILED|ERROR) test_module.py::(\w+)", said, re.MULTILINE)

    def of(self, name: str) -> set[str]:
        return {kind for kind, test in self._found if test == name}

    def unlike(self, kind: str) -> set[str]:
        return {test for found, test in self._found if found != kind}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One run of all these tests, each before one that has nothing to do with its failure."""
    directory = tmp_path_factory.mktemp("failures")
    conftest = "from support import task_runner, waiting\ntask_runner.TIME_LIMIT = task_runner._LAST_WORDS = 0.1\n"
    (directory / "conftest.py").write_text(f"{conftest}pytest_plugins = ['support.task_runner']\n")
    parts = [SETUP]
    for number, text in enumerate((FAILURES | IN_FIXTURES).values()):
        parts += [renamed(text, number), renamed(BEHIND, number)]
    (directory / "test_module.py").write_text("\n".join(textwrap.dedent(part) for part in parts))
    (directory / "pytest.ini").write_text(f"[pytest]\nanyio_mode = auto\npythonpath = {TESTS}\n")
    options = ["-rA", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:schemathesis"]
    command = [sys.executable, "-m", "pytest", *options, str(directory)]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=patience(60), check=False)
    return Outcome(done.stdout + done.stderr)


def renamed(text: str, number: int) -> str:
    return re.sub(r"\b(own|test_fails|test_passes|test_behind)\b", rf"\1_{number}", text)


@pytest.mark.parametrize(("number", "failure"), [*enumerate(FAILURES)])
def test_one_failure_stays_one(outcome: Outcome, number: int, failure: str) -> None:
    assert outcome.of(f"test_fails_{number}") == {"FAILED"}, outcome.said
    assert outcome.of(f"test_behind_{number}") == {"PASSED"}, outcome.said


@pytest.mark.parametrize(("number", "failure"), [*enumerate(IN_FIXTURES, start=len(FAILURES))])
def test_one_broken_fixture_stays_one(outcome: Outcome, number: int, failure: str) -> None:
    name = f"test_passes_{number}" if "test_passes" in IN_FIXTURES[failure] else f"test_fails_{number}"
    assert "ERROR" in outcome.of(name), outcome.said
    assert outcome.of(f"test_behind_{number}") == {"PASSED"}, outcome.said


def test_nothing_else_fails(outcome: Outcome) -> None:
    assert len(outcome.unlike("PASSED")) == len(FAILURES | IN_FIXTURES), outcome.said


def test_the_cause_is_named(outcome: Outcome) -> None:
    assert "OSError: the system is broken" in outcome.said
    assert "fixture 'system' ended before the test did" in outcome.said
