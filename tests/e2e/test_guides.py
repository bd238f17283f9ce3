"""The guides: their commands, programs and scripts run as they stand in the pages."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.settings import Settings
from eventsync_client import AsyncClient
from support.environment import environment_of
from support.peers import chromium
from support.peers.chromium import running_chromium
from support.systems import running_system
from support.waiting import patience, within

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HERE = "http://127.0.0.1:8000"
HEALTH_FILE = "/tmp/alive"  # noqa: S108 - as the page has it
THEATERS = "/v1/collections/theaters/documents"
_BLOCK = re.compile(
    r"(?:<!-- tested by (?P<test>\S+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


def blocks(page: str, kind: str) -> list[str]:
    """Return the blocks of a page that this module runs."""
    found = _BLOCK.finditer((DOCS / page).read_text())
    return [block["text"] for block in found if block["kind"] == kind and not block["test"]]


PAGES = [name for name in sorted(str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")) if blocks(name, "sh")]


def test_each_page_with_commands_is_run_or_names_its_test() -> None:
    named = [
        block["test"] for file in DOCS.rglob("*.md") for block in _BLOCK.finditer(file.read_text()) if block["test"]
    ]
    assert len(named) >= 3
    assert all((ROOT / test).exists() for test in named)
    assert {"start.md", "guides/shell.md", "guides/monitoring.md", "guides/backup.md"} <= set(PAGES)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
async def test_the_commands_of_a_page_succeed(page: str, settings: Settings, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    alive.touch()
    async with system(settings) as (url, _):
        script = "\n".join(blocks(page, "sh")).replace(HERE, url).replace(HEALTH_FILE, str(alive))
        environment = environment_of(settings, 0)
        environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
        process = await asyncio.create_subprocess_exec(
            "sh", "-eux", "-c", script, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            async with within(60):
                out, err = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    assert process.returncode == 0, out.decode() + err.decode()
    assert re.findall(r'"code":"(\w+)"', out.decode()) == REFUSED.get(page, []), out.decode()
    for expected in EXPECTED.get(page, ()):
        assert expected in out.decode(), out.decode()


REFUSED = {"guides/access.md": ["not_found", "forbidden", "forbidden", "unauthenticated"]}
"""Page → what its commands are refused, in this order."""

EXPECTED = {
    "guides/access.md": (
        '"total":50,"team":"red"}}',
        '"total":55,"margin":9',
        '"op":"create","enter":true',
        '"patch":[]',
        '"op":"delete","leave":true',
        "2 of 2 cases",
        "user: read    allows it",
        "-orders/2",
        "revoked: sub:ben",
    ),
    "start.md": ("event: welcome", '"op":"create"', '"path":"/seats","value":280', "event: live"),
    "guides/partial.md": ('"op":"create","enter":true', '"op":"delete","leave":true', "tracked: cards"),
    "guides/shell.md": ('"version":3', "event: snapshot", '"value":290'),
    "guides/monitoring.md": ("eventsync_log_head", '"sequencer_live":true'),
}
"""Page → what its commands print, among other things."""


@asynccontextmanager
async def system(settings: Settings) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """A system with one theater, and a client of its API."""
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        made = await client.put(f"{THEATERS}/first", json={"name": "Alhambra"})
        assert made.status_code == 201
        yield url, client


async def test_the_programs_of_python(settings: Settings) -> None:
    names: dict[str, Any] = {"__name__": "guide"}
    for block in blocks("guides/python.md", "python"):
        exec(block, names)  # noqa: S102 - our own page
    async with system(settings) as (url, client), within(30):
        openings = names["openings"](url)
        assert await anext(openings) == "Alhambra"
        await client.put(f"{THEATERS}/second", json={"name": "Capitol"})
        assert await anext(openings) == "Capitol"
        await openings.aclose()
        assert await names["names"](url) == ["Alhambra", "Capitol"]
        assert await asyncio.to_thread(names["count"], url) == 2
        async with AsyncClient(url) as writing:
            assert await names["rename"](writing, "first", "Bijou") == 2
            closed, missing = await names["close_all"](writing, ["first", "third"])
            assert (closed.doc["open"], missing.code) == (False, "not_found")
            assert await names["names_from"](writing, "g") == ["Capitol"]
    assert callable(names["read_token"])


@pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or "")
async def test_the_script_shows_a_copy_and_writes(settings: Settings, tmp_path: Path) -> None:
    script = "\n".join(blocks("guides/browser.md", "js")) + "Object.assign(globalThis, { theaters, rename })"
    insert = f"Object.assign(document.createElement('script'), {{type: 'module', textContent: {json.dumps(script)}}})"
    async with system(settings) as (url, client), running_chromium(tmp_path) as browser:
        page = await browser.visit(f"{url}/healthz")  # a page of the server's origin, without a content policy
        await browser.until(page, f"document.head.append({insert}), true")
        await browser.until(page, "document.title === 'live' && document.body.textContent === 'Alhambra'")
        await browser.until(page, "rename('first', theaters.documents.get('first').version, 'Bijou'), true")
        await browser.until(page, "document.body.textContent === 'Bijou'")
        await browser.until(page, "!theaters.documents.get('first').pending")
        assert (await client.get(f"{THEATERS}/first")).json()["doc"]["name"] == "Bijou"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
async def test_the_program_of_node_follows_and_writes(settings: Settings, tmp_path: Path) -> None:
    (program,) = blocks("guides/node.md", "js")
    package = (ROOT / "clients" / "js" / "src" / "client.js").as_uri()
    (tmp_path / "program.mjs").write_text(program.replace('"eventsync"', json.dumps(package)))
    async with system(settings) as (url, client), within(60):
        process = await asyncio.create_subprocess_exec(
            "node", str(tmp_path / "program.mjs"), url, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = await process.communicate()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
        assert process.returncode == 0, err.decode()
        first, *lines = out.decode().splitlines()
        made = first.partition(" ")[0]
        assert first == f"{made} has version 1"
        assert lines[-1] == f"create {made} Odeon"
        assert {*lines} <= {"create first Alhambra", lines[-1]}
        assert (await client.get(f"{THEATERS}/{made}")).json()["doc"]["name"] == "Odeon"


@pytest.mark.parametrize("number", [0, 1], ids=["without a lifespan", "with a lifespan"])
async def test_the_application_mounts_eventsync(
    number: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment_of(settings, 0).items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    for block in blocks("guides/mounting.md", "python")[: number + 1]:
        exec(block, names)  # noqa: S102 - our own page
    app = names["app"]
    transport = httpx.ASGITransport(app=app)
    async with (
        system(settings),
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=patience(20)) as client,
        within(20),
    ):
        # It answers 503 until it has reached MongoDB.
        while (found := await client.get(f"/sync{THEATERS}/first")).status_code == 503:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert found.json()["doc"]["name"] == "Alhambra", found.text
