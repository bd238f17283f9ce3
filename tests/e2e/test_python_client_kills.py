"""Effects of the example `replica`, exactly once: it is killed (SIGKILL) again and again while it makes them."""

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
import pytest

from eventsync.settings import Settings
from support.systems import running_system
from support.waiting import eventually, patience

KILLS: Final = 60
CARDS: Final = "/v1/collections/cards/documents"
ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "guides" / "python.md"
SERVICE: Final = ROOT / "examples" / "replica" / "replica.py"

Move = tuple[str, str | None, str | None]
"""A card, its column before, and its column after."""

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
        asyncio.run(names["record"](url, path))
"""


def test_the_page_shows_the_service() -> None:
    (text,) = re.findall(
        r"^<!-- tested by tests/e2e/test_python_client_kills.py -->\n```python\n(.*?)^```$",
        PAGE.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert text == SERVICE.read_text()


class Programs:
    """One process of the program after another."""

    def __init__(self, url: str, path: Path) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, SERVICE.read_text(), url, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
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


@pytest.mark.slow
async def test_effects_are_made_once_whenever_the_program_is_killed(settings: Settings, tmp_path: Path) -> None:
    rng, path, done = random.Random(20), tmp_path / "moves.db", asyncio.Event()
    of_cards = settings.model_copy(update={"collections": ("cards",)})
    async with running_system(of_cards) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as api:
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


async def write(api: httpx.AsyncClient, rng: random.Random, done: asyncio.Event) -> Counter[Move]:
    """Move cards until it is done, each time to a new column; return the moves."""
    made: Counter[Move] = Counter()
    columns: dict[str, str] = {}
    number = 0
    while not done.is_set():
        number += 1
        key = f"card{rng.randrange(12)}"
        was = columns.pop(key, None)
        now = None if was is not None and rng.random() < 1 / 3 else str(number)
        path = f"{CARDS}/{key}"
        answer = await (api.delete(path) if now is None else api.put(path, json={"column": now}))
        answer.raise_for_status()
        made[key, was, now] += 1
        if now is not None:
            columns[key] = now
        await asyncio.sleep(0.02)
    return made


def is_followed(path: Path) -> bool:
    """Return True once the program's store has a position."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=patience(10))) as db, suppress(sqlite3.OperationalError):
        return bool(db.execute("SELECT 1 FROM eventsync_shapes WHERE taken AND position IS NOT NULL").fetchone())
    return False


def effects_of(path: Path) -> Counter[Move]:
    """Return the moves that the program has recorded."""
    with closing(sqlite3.connect(path, timeout=patience(10))) as db, suppress(sqlite3.OperationalError):
        return Counter(db.execute("SELECT card, was, now FROM moves"))
    return Counter()
