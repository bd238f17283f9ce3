"""Effects of a Python program, exactly once: it is killed (SIGKILL) again and again while it makes them."""

from __future__ import annotations

import asyncio
import os
import random
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
from support.waiting import eventually, patience, within

KILLS: Final = 60
THEATERS: Final = "/v1/collections/theaters/documents"

PROGRAM: Final = """
import asyncio, os, sys
from eventsync_client import AsyncClient, Sqlite

url, path = sys.argv[1:]

async def follow():
    async with AsyncClient(url, store=Sqlite(path), client_id="billing") as client:
        async for change in client.shape("theaters").changes():
            async with change.transaction() as db:
                db.execute("CREATE TABLE IF NOT EXISTS effects (id TEXT, kind TEXT, n INTEGER)")
                document = change.after or change.before
                db.execute("INSERT INTO effects VALUES (?, ?, ?)", (change.id, change.kind, document["n"]))
            print(".", end="", flush=True)

# One interpreter imports for all: each line of the input starts a process.
while sys.stdin.readline():
    if pid := os.fork():
        print(f"pid {pid}", file=sys.stderr, flush=True)
        os.waitpid(pid, 0)
        print("gone", file=sys.stderr, flush=True)
    else:
        asyncio.run(follow())
"""


class Programs:
    """One process of the program after another."""

    def __init__(self, url: str, path: Path) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = 0

    def start(self) -> None:
        assert self._parent.stdin is not None
        assert self._parent.stderr is not None
        self._parent.stdin.write(b"\n")
        self._parent.stdin.flush()
        self.pid = int(self._parent.stderr.readline().split()[1])

    def effect(self) -> None:
        """Wait for the next effect to be printed."""
        assert self._parent.stdout is not None
        assert os.read(self._parent.stdout.fileno(), 1) == b"."

    def kill(self) -> None:
        assert self._parent.stderr is not None
        os.kill(self.pid, signal.SIGKILL)
        assert self._parent.stderr.readline() == b"gone\n"
        self.pid = 0

    def end(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
        self._parent.kill()
        self._parent.communicate()


async def test_effects_are_made_once_whenever_the_program_is_killed(settings: Settings, tmp_path: Path) -> None:
    rng, path, done = random.Random(20), tmp_path / "effects.db", asyncio.Event()
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as api:
        programs = Programs(url, path)
        await asyncio.to_thread(programs.start)
        # From here on, each change that is written comes as its event.
        await eventually(lambda: is_followed(path), 30)
        await asyncio.to_thread(programs.kill)
        writing = asyncio.create_task(write(api, rng, done))
        try:
            for _ in range(KILLS):
                await asyncio.to_thread(programs.start)
                # Right behind an effect, or somewhere between two.
                for _ in range(rng.randint(1, 4)):
                    async with within(60):
                        await asyncio.to_thread(programs.effect)
                await asyncio.sleep(rng.uniform(0.0, 0.03))
                await asyncio.to_thread(programs.kill)
            done.set()
            written = await writing
            await asyncio.to_thread(programs.start)
            async with within(60):
                while effects_of(path).total() < written.total():
                    await asyncio.to_thread(programs.effect)
            await asyncio.to_thread(programs.kill)
        finally:
            writing.cancel()
            programs.end()
    assert effects_of(path) == written
    assert written.total() > 2 * KILLS


async def write(api: httpx.AsyncClient, rng: random.Random, done: asyncio.Event) -> Counter[tuple[str, str, int]]:
    """Write until it is done; return each change: id, kind, number."""
    made: Counter[tuple[str, str, int]] = Counter()
    there: dict[str, int] = {}
    number = 0
    while not done.is_set():
        number += 1
        key = f"t{rng.randrange(12)}"
        kind = "create" if key not in there else rng.choice(["update", "update", "delete"])
        path = f"{THEATERS}/{key}"
        answer = await (api.delete(path) if kind == "delete" else api.put(path, json={"n": number}))
        answer.raise_for_status()
        made[key, kind, there.pop(key) if kind == "delete" else number] += 1
        if kind != "delete":
            there[key] = number
        await asyncio.sleep(0.02)
    return made


def is_followed(path: Path) -> bool:
    """Return True once the program's store has a position."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=patience(10))) as db, suppress(sqlite3.OperationalError):
        return bool(db.execute("SELECT 1 FROM eventsync_shapes WHERE taken AND position IS NOT NULL").fetchone())
    return False


def effects_of(path: Path) -> Counter[tuple[str, str, int]]:
    with closing(sqlite3.connect(path, timeout=patience(10))) as db:
        return Counter(db.execute("SELECT id, kind, n FROM effects"))
