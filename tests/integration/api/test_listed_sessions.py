"""The sessions in a server's record are bounded in bytes: without a record, a server counts as ended."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

import httpx
import pytest

from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from eventsync.sync.reports import Reports
from support.peers.python import connect, reading
from support.systems import running_server, running_system
from support.waiting import eventually, patience, within

PATH = "/v1/admin/clients"
PAGE, SHAPES = 20_000, 20


def long_id(number: int) -> str:
    return f"docs/{number:02}{'x' * 16_000}"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",), "page_bytes": PAGE, "report_interval": 0.25})


@asynccontextmanager
async def following(url: str) -> AsyncIterator[None]:
    """A session with as many shapes as are listed, whose texts are as long as they may be. None of them exists."""
    async with connect(f"{url.replace('http', 'ws')}/v1/sync") as socket, within(60):
        await socket.send(json.dumps({"type": "hello", "shapes": [long_id(0)]}))
        for number in range(1, SHAPES):
            await socket.send(json.dumps({"type": "subscribe", "shape": long_id(number)}))
        live = 0
        while live < SHAPES:
            live += json.loads(await socket.recv())["type"] == "live"
        async with reading(socket):
            yield


async def test_a_session_of_long_shapes_is_listed_in_few_bytes(settings: Settings) -> None:
    async with (
        running_system(settings) as url,
        running_server(settings) as other,
        following(url),
        httpx.AsyncClient(timeout=patience(30)) as client,
    ):

        async def listed(server: str, **query: str) -> Any:
            found = (await client.get(server + PATH, params=query)).raise_for_status().json()
            return found["clients"]

        for server in (url, other):
            (session,) = await eventually(partial(listed, server, shape=long_id(0)))
            assert len(json.dumps(session)) < 8192
            assert session["shapes"][0]["shape"].startswith(long_id(0)[:200])
            assert 1 <= len(session["shapes"]) == SHAPES - session["more_shapes"]
            assert await listed(server, shape=long_id(99)) == []


async def test_pages_of_sessions_are_bounded_in_bytes(settings: Settings) -> None:
    async with running_system(settings) as url, httpx.AsyncClient(timeout=patience(30)) as client:
        found: list[list[str]] = []
        async with following(url), following(url), following(url), following(url), following(url), following(url):
            query: dict[str, str] = {"limit": "1000"}
            while True:
                answer = (await client.get(url + PATH, params=query)).raise_for_status()
                assert len(answer.content) <= PAGE + 8192 + 1000
                found.append([each["id"] for each in answer.json()["clients"]])
                if "next" not in answer.json():
                    break
                query["after"] = answer.json()["next"]
    ids = [each for page in found for each in page]
    assert len(ids) == 6
    assert ids == sorted(set(ids))


async def test_a_record_that_is_too_large_is_written_without_its_sessions(
    settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    records = stores.log["processes"]
    renewed: list[datetime] = []

    async def sessions(_: Reports) -> list[dict[str, Any]]:
        """Sessions that exceed a document; and when the record was renewed before."""
        record = await records.find_one({"kind": "server"})
        assert record is not None
        renewed.append(record["at"])
        return [{"id": "0" * 32, "text": "x" * 16 * 1024 * 1024}]

    monkeypatch.setattr(Reports, "sessions", sessions)
    with caplog.at_level(logging.WARNING, logger="eventsync.sync.reports"):
        async with running_system(settings) as url, httpx.AsyncClient(timeout=patience(30)) as client:

            async def again() -> bool:
                (await client.get(url + PATH)).raise_for_status()
                return len(set(renewed)) > 1

            await eventually(again)
    assert any("without its sessions" in record.getMessage() for record in caplog.records)
