from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from eventsync.errors import ConfigurationError, IncompatibleFormat, Unavailable
from eventsync.server.supervision import child
from eventsync.server.supervision.child import Child, ChildSpec, ended
from support.waiting import within


@dataclass
class Rig:
    """A child of some Python code, and what it has said about itself."""

    screen: Any
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    force: asyncio.Event = field(default_factory=asyncio.Event)

    def child(self, code: str, **options: Any) -> Child:
        spec = ChildSpec("worker", (sys.executable, "-c", code), options.pop("stop_timeout", 10.0), **options)
        return Child(spec, self.screen.terminal, self.failed.set, self.force)


@pytest.fixture
def rig(screen: Any) -> Rig:
    return Rig(screen)


FOR_EVER = "import os, signal; print('here', os.getpid(), flush=True); signal.pause()"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {FOR_EVER}"


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").is_file()


def pids(rig: Rig) -> list[int]:
    return [int(line.rpartition("here ")[2]) for line in rig.screen.getvalue().splitlines() if "here " in line]


async def test_output_is_passed_on_line_by_line_behind_the_name(rig: Rig) -> None:
    async with rig.child(
        "import sys; print('one'); print('two', file=sys.stderr); import signal; signal.pause()"
    ).running():
        await rig.screen.shows("worker │ two")
    assert "worker │ two\n" in rig.screen.getvalue()


async def test_a_line_without_an_end_is_shown_and_bounded(rig: Rig) -> None:
    async with rig.child("import sys; sys.stdout.write('x' * 300_000); sys.exit(2)").running():
        await rig.failed.wait()
    lines = rig.screen.getvalue().splitlines()
    assert sum(line.count("x") for line in lines) == 300_000
    assert max(map(len, lines)) < 200_000


async def test_a_child_that_is_asked_to_end_is_gone(rig: Rig) -> None:
    async with rig.child(FOR_EVER).running():
        await rig.screen.shows("here")
        assert alive(pids(rig)[0])
    assert not alive(pids(rig)[0])
    assert rig.screen.getvalue().count("\n") == 1


async def test_one_that_does_not_end_is_killed_after_the_stop_timeout(rig: Rig) -> None:
    async with rig.child(STUBBORN, stop_timeout=0.1).running():
        await rig.screen.shows("here")
    assert not alive(pids(rig)[0])
    assert "did not end by itself" in rig.screen.getvalue()


async def test_one_that_does_not_end_is_killed_at_once_by_force(rig: Rig) -> None:
    async with within(5), rig.child(STUBBORN, stop_timeout=60).running():
        await rig.screen.shows("here")
        rig.force.set()
    assert not alive(pids(rig)[0])


async def test_one_that_is_killed_is_started_again_and_that_is_said(rig: Rig) -> None:
    async with rig.child(FOR_EVER).running():
        await rig.screen.shows("here")
        os.kill(pids(rig)[0], signal.SIGKILL)
        await rig.screen.shows("here", times=2)
    assert "worker was killed by SIGKILL; starting it again in 0.1 s" in rig.screen.getvalue()
    assert len(set(pids(rig))) == 2
    assert not any(map(alive, pids(rig)))


async def test_one_that_dies_again_and_again_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_DELAY", 0.001)
    failing = rig.child("raise SystemExit(3)", explain=lambda: "no luck")
    async with failing.running():
        await rig.failed.wait()
    assert isinstance(failing.failure, Unavailable)
    assert failing.failure.message == f"worker died {child.MAX_DEATHS} times in a row (ended with exit code 3): no luck"
    assert rig.screen.getvalue().count("starting it again") == child.MAX_DEATHS - 1


async def test_one_with_bad_options_is_given_up_at_once(rig: Rig) -> None:
    failing = rig.child("raise SystemExit(2)")
    async with failing.running():
        await rig.failed.wait()
    assert isinstance(failing.failure, ConfigurationError)
    assert "starting it again" not in rig.screen.getvalue()


async def test_one_that_does_not_know_what_is_stored_is_given_up_at_once(rig: Rig) -> None:
    failing = rig.child("raise SystemExit(65)", explain=lambda: "upgrade it")
    async with failing.running():
        await rig.failed.wait()
    assert isinstance(failing.failure, IncompatibleFormat)
    assert failing.failure.message == "worker can't use what is stored: upgrade it"
    assert "starting it again" not in rig.screen.getvalue()


async def test_a_command_that_does_not_exist_is_given_up_at_once(rig: Rig) -> None:
    spec = ChildSpec("mongod", ("/nowhere/mongod",), 1.0)
    missing = Child(spec, rig.screen.terminal, rig.failed.set, rig.force)
    async with missing.running():
        await rig.failed.wait()
    assert isinstance(missing.failure, ConfigurationError)
    assert "/nowhere/mongod can't be run" in missing.failure.message


async def test_with_a_log_nothing_is_shown(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with rig.child("print('quiet'); raise SystemExit(2)", log=log).running():
        await rig.failed.wait()
    assert log.read_text() == "quiet\n"
    assert rig.screen.getvalue() == ""


async def test_ctrl_c_in_the_terminal_does_not_reach_it(rig: Rig) -> None:
    code = "import os, signal; print('group', os.getpgid(0) == os.getpid(), flush=True); signal.pause()"
    async with rig.child(code).running():
        await rig.screen.shows("group True")


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "ended with exit code 0"), (-9, "was killed by SIGKILL"), (-77, "was killed by signal 77")],
)
def test_the_end_of_a_child_is_described_in_words(code: int, words: str) -> None:
    assert ended(code) == words
