"""Effects of a Python program, exactly once: it is killed (SIGKILL) again and again while it makes them."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import httpx

from eventsync.settings import Settings
from support.systems import running_system
from support.waiting import eventually, patience

KILLS: Final = 60
THEATERS: Final = "/v1/collections/theaters/documents"
PAGE: Final = Path(__file__).parents[2] / "docs" / "guides" / "python.md"

PROGRAM: Final = """
import asyncio, os, sys

program, url, path = sys.argv[1:]
names = {"__name__": "guide"}
exec(program, names)
# One interpreter imports for all: each line of the input starts a process.
while sys.stdin.readline():
    if pid := os.fork():
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)
    else:
        asyncio.run(names["audit"](url, path))
"""


def service() -> str:
    """Return the service of the page, as it stands there."""
    (text,) = re.findall(
        r"^<!-- tested by tests/e2e/test_python_client_kills.py -->\n```python\n(.*?)^```$",
        PAGE.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return str(text)


def test_the_service_is_short() -> None:
    assert len([line for line in service().splitlines() if line.strip()]) <= 20


class Programs:
    """One process of the program after another."""

    def __init__(self, url: str, path: Path) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, service(), url, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = 0

    def start(self) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(b"\n")
        self._parent.stdin.flush()
        self.pid = int(self._parent.stdout.readline())

    def kill(self) -> None:
        assert self._parent.stdout is not None
        os.kill(self.pid, signal.SIGKILL)
        assert self._parent.stdout.readline() == b"gone\n"
        self.pid = 0

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        self._parent.kill()
        self._parent.communicate()


async def test_effects_are_made_once_whenever_the_program_is_killed(settings: Settings, tmp_path: Path) -> None:
    rng, path, done = random.Random(20), tmp_path / "audit.db", asyncio.Event()
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as api:
        programs = Programs(url, path)
        await asyncio.to_thread(programs.start)
        # From here on, each change that is written comes as its event.
        await eventually(lambda: is_followed(path), 30)
        await asyncio.to_thread(programs.kill)
        writing = asyncio.create_task(write(api, rng, done))
        try:
            for _ in range(KILLS):
                before = effects_of(path).total()
                await asyncio.to_thread(programs.start)
                # Right behind an effect, or somewhere between two.
                more = rng.randint(1, 4)
                await eventually(lambda: effects_of(path).total() >= before + more, 60, pause=0.005)  # noqa: B023
                await asyncio.sleep(rng.uniform(0.0, 0.03))
                await asyncio.to_thread(programs.kill)
            done.set()
            written = await writing
            await asyncio.to_thread(programs.start)
            await eventually(lambda: effects_of(path).total() >= written.total(), 60)
            await asyncio.to_thread(programs.kill)
        finally:
            writing.cancel()
            programs.end()
    assert effects_of(path) == written
    assert written.total() > KILLS


async def write(api: httpx.AsyncClient, rng: random.Random, done: asyncio.Event) -> Counter[tuple[str, str, str]]:
    """Write until it is done; return each change: id, kind, number."""
    made: Counter[tuple[str, str, str]] = Counter()
    there: dict[str, str] = {}
    number = 0
    while not done.is_set():
        number += 1
        key = f"t{rng.randrange(12)}"
        kind = "create" if key not in there else rng.choice(["update", "update", "delete"])
        path = f"{THEATERS}/{key}"
        answer = await (api.delete(path) if kind == "delete" else api.put(path, json={"name": str(number)}))
        answer.raise_for_status()
        made[key, kind, there.pop(key) if kind == "delete" else str(number)] += 1
        if kind != "delete":
            there[key] = str(number)
        await asyncio.sleep(0.02)
    return made


def is_followed(path: Path) -> bool:
    """Return True once the program's store has a position."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=patience(10))) as db, suppress(sqlite3.OperationalError):
        return bool(db.execute("SELECT 1 FROM eventsync_shapes WHERE taken AND position IS NOT NULL").fetchone())
    return False


def effects_of(path: Path) -> Counter[tuple[str, str, str]]:
    """Return the effects: id, kind, name."""
    with closing(sqlite3.connect(path, timeout=patience(10))) as db, suppress(sqlite3.OperationalError):
        return Counter(db.execute("SELECT id, kind, name FROM audit"))
    return Counter()
