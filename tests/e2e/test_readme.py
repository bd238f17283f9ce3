"""The README's commands do what it says, and its words on settings and files are true."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.settings import Settings
from support.systems import running_system
from support.waiting import patience, within

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HERE = "http://127.0.0.1:8000"


def commands() -> list[list[str]]:
    """Every `curl` of the README as words."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    joined = [block.replace("\\\n", " ") for block in blocks]
    return [shlex.split(line) for block in joined for line in block.splitlines() if line.startswith("curl ")]


async def curl(words: list[str], url: str) -> asyncio.subprocess.Process:
    given = [word.replace(HERE, url) for word in words]
    return await asyncio.create_subprocess_exec(
        *given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )


async def test_a_write_by_curl_appears_in_the_stream(settings: Settings) -> None:
    follow, write = commands()
    demo = [json.loads(line) for line in (ROOT / "app/eventsync/dev/demo/theaters.ndjson").read_text().splitlines()]
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
        for document in demo[:3]:
            made = await client.post("/v1/collections/theaters/documents", json=document)
            assert made.status_code == 201
        following = await curl(follow, url)
        try:
            async with within(20):
                await until(following, "live")
                writing = await curl(write, url)
                answered, _ = await writing.communicate()
                # What was created before may still be on its way when the stream is live.
                while (event := (await until(following, "events"))["events"][-1])["op"] != "update":
                    continue
        finally:
            following.terminate()
            await following.wait()
    assert event["patch"] == json.loads(answered)["patch"]
    assert event["patch"] == [{"op": "replace", "path": "/location/address/city", "value": "Springfield"}]


async def until(process: asyncio.subprocess.Process, kind: str) -> Any:
    """The data of the next event of this kind in a stream that curl prints."""
    assert process.stdout is not None
    async for line in process.stdout:
        if line.rstrip() == f"event: {kind}".encode():
            await process.stdout.readline()
            return json.loads((await process.stdout.readline()).removeprefix(b"data: "))
    raise AssertionError(f"the stream ended without {kind}")


@pytest.mark.parametrize(
    "page", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", *(f"docs/{f.name}" for f in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text()):
        assert (file.parent / target).exists(), target


def test_the_code_map_names_what_is_there() -> None:
    architecture = (ROOT / "ARCHITECTURE.md").read_text()
    table = architecture[architecture.index("## Code map") : architecture.index("Imports point down")]
    for path in re.findall(r"`((?:app|workers|tests)/[a-z_/.]*)`", table):
        assert (ROOT / path).exists(), path
