"""Enforcers that are broken on purpose, on a running system: the leak checker finds each by what principals are sent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.chaos.evidence import Violation
from support.chaos.leaks.followers import FOLLOWED
from support.chaos.leaks.run import LeakRun
from support.chaos.leaks.scene import COLLECTIONS
from support.systems import running_server, running_worker, tracked
from support.waiting import eventually


@asynccontextmanager
async def run_under_rules(
    client: Client, settings: Settings, folder: Path, *, followed: Iterable[tuple[str, str, str]] = FOLLOWED, **known: Any
) -> AsyncIterator[LeakRun]:
    """A worker, a server and principals, with the rules in force."""
    limits: dict[str, Any] = {"heartbeat": 0.3, "window_bytes": 64 * 1024, "frame_bytes": 8 * 1024, "auth_grace": 1.0}
    settings = settings.model_copy(update={"collections": COLLECTIONS, **limits})
    async with running_worker(settings), running_server(settings) as url:
        await tracked(url, COLLECTIONS)
        run = LeakRun(client, settings, lambda: ("serve", url), folder, seed=1, followed=followed, **known)
        await run.begin([url])
        yield run


async def worked(run: LeakRun, requests: int) -> list[Violation]:
    """Have principals work for so many requests, and judge."""
    async with run.at_work():
        await eventually(lambda: run.traffic.count >= requests, 60, pause=0.05)
    return await run.judge()


async def test_a_system_that_is_right_passes(client: Client, settings: Settings, tmp_path: Path) -> None:
    async with run_under_rules(client, settings, tmp_path) as run:
        found = await worked(run, 300)
    print(Counter((item.act, item.status, item.what) for item in run.ledger.received))
    assert found == [], "\n".join(map(str, found))


def seen(found: list[Violation]) -> Counter[str]:
    return Counter(violation.promise for violation in found)
