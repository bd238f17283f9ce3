"""The README of the Python client: its program and its functions run as they stand there."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from eventsync.settings import Settings
from eventsync_client import AsyncClient
from support.systems import head, running_system
from support.waiting import eventually, patience, within

CLIENT: Final = Path(__file__).parents[2] / "clients" / "python"
HERE: Final = "http://127.0.0.1:8000"
THEATERS: Final = "/v1/collections/theaters/documents"
README: Final = (CLIENT / "README.md").read_text()
PROGRAM, *FUNCTIONS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@asynccontextmanager
async def theaters(settings: Settings) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """A system with one theater, and a client of its API."""
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        await put(client, "first", name="Alhambra", seats=280)
        yield url, client


async def put(client: httpx.AsyncClient, key: str, **document: Any) -> None:
    (await client.put(f"{THEATERS}/{key}", json=document)).raise_for_status()


@pytest.fixture
def names() -> dict[str, Any]:
    """Everything that the blocks below the program define."""
    found: dict[str, Any] = {"__name__": "readme", "AsyncClient": AsyncClient}
    for block in FUNCTIONS:
        exec(block, found)  # noqa: S102 - our own page
    return found


def test_the_program_has_a_dozen_lines() -> None:
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) <= 12


async def test_the_program_shows_the_copy_and_each_change(settings: Settings) -> None:
    async with theaters(settings) as (url, client):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-u", "-c", PROGRAM.replace(HERE, url)), stdout=subprocess.PIPE, cwd=CLIENT
        )
        try:
            assert process.stdout is not None
            async with within(30):
                assert await process.stdout.readline() == b"1 theaters\n"
                assert (await process.stdout.readline()).startswith(b"create first {'_id': 'first', 'name': 'Alhambra'")
                await put(client, "first", name="Bijou")
                assert await process.stdout.readline() == b"update first {'_id': 'first', 'name': 'Bijou'}\n"
        finally:
            process.kill()
            await process.communicate()


async def test_effects_are_made_once(settings: Settings, names: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "audit.db"

    def effects() -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path)) as db:
            try:
                return db.execute("SELECT id, kind, version FROM audit ORDER BY rowid").fetchall()
            except sqlite3.OperationalError:
                return []  # there is no table yet

    async def audited(count: int) -> None:
        task = asyncio.create_task(names["audit"](url, str(path)))
        await eventually(lambda: len(effects()) == count, 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async with theaters(settings) as (url, client):
        for number in (1, 2, 3):
            await audited(number)
            await put(client, "first", name=f"Bijou {number}")
    assert effects() == [("first", "create", 1), ("first", "update", 2), ("first", "update", 3)]


async def test_functions(settings: Settings, names: dict[str, Any]) -> None:
    async with theaters(settings) as (url, client), within(60):
        await put(client, "second", name="Capitol", seats="many")
        async with AsyncClient(url) as writing:
            shape = await writing.shape("theaters").live()
            assert await names["rename"](writing, "first", "Bijou") == 2
            assert shape.documents["first"]["name"] == "Bijou"
            refused, code = await names["refusals"](writing)
            assert "'secrets' is not tracked" in refused
            assert code == "not_found"
        assert await names["seats"](url) == (280, ["second"])
        log = (await head(url)).partition(":")[0]
        for position in (f"{log}:0", "zzzzzzzz:1"):
            events = names["names"](url, position)
            assert [await anext(events) for _ in range(3)] == ["create first", "create second", "update first"]
            await events.aclose()
        assert await asyncio.to_thread(names["count"], url) == 2
