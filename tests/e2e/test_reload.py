"""SIGHUP: a worker and a server restart in place with the current settings, and lose nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.clients import following
from support.systems import Processes, tracked
from support.waiting import patience


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("theaters",), "drain_timeout": 2.0, "lease_period": 1.0})


def write(tmp_path: Path, text: str) -> None:
    (tmp_path / "eventsync.toml").write_text(text)


async def test_a_server_starts_again_in_place_and_its_clients_miss_nothing(
    processes: Processes, client: Client, settings: Settings, tmp_path: Path
) -> None:
    processes.start("serve", "worker")
    await tracked(processes.url, ["theaters"])
    pid = processes._running["serve"].pid
    async with following(processes.url, "theaters", "websocket", seed=1) as follower:
        write(tmp_path, 'principal = "renamed"\n')
        processes.signal(signal.SIGHUP, "serve")
        await processes.said("serve", "SIGHUP: starting again, with the settings as they are now")
        await processes.said("serve", "listening on", times=2)
        await tracked(processes.url, ["theaters"])
        async with httpx.AsyncClient(base_url=processes.url, timeout=patience(20)) as http:
            made = await http.post("/v1/collections/theaters/documents", json={"_id": "a"})
            assert made.status_code == 201, made.text
        await follower.has("a")
        assert follower.replica.resets == 0
    os.kill(pid, 0)
    stored: Any = await client[settings.database]["theaters"].find_one({"_id": "a"})
    assert stored["_sync"]["by"] == "renamed"


async def test_settings_that_can_not_be_used_change_nothing(processes: Processes, tmp_path: Path) -> None:
    processes.start("serve", "worker")
    await tracked(processes.url, ["theaters"])
    write(tmp_path, "prot = 1\n")
    for word in ("serve", "worker"):
        processes.signal(signal.SIGHUP, word)
        await processes.said(word, "SIGHUP: nothing changes")
        assert "prot: no such setting; did you mean port?" in processes.log(word)
        assert "Traceback" not in processes.log(word)
    await tracked(processes.url, ["theaters"])


async def test_a_worker_gives_its_lease_back_and_leads_again(processes: Processes, tmp_path: Path) -> None:
    processes.start("serve", "worker")
    await tracked(processes.url, ["theaters"])
    write(tmp_path, 'log_level = "debug"\n')
    processes.signal(signal.SIGHUP, "worker")
    await processes.said("worker", "no longer leads")
    await processes.said("worker", " leads", times=2)
    await tracked(processes.url, ["theaters"])
    processes.signal(signal.SIGTERM, "worker", "serve")
    for word in ("worker", "serve"):
        assert await processes.ended(word, seconds=30) == 0, processes.log(word)
