"""The README's commands and script, run."""

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
from support.peers import chromium
from support.peers.chromium import running_chromium
from support.systems import running_system
from support.waiting import patience, within

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
HERE = "http://127.0.0.1:8000"


def commands() -> list[list[str]]:
    """Return every `curl` command of the README, split into words."""
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


@pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or "")
async def test_the_script_keeps_a_copy_in_a_page(settings: Settings, tmp_path: Path) -> None:
    script = re.search(r"```js\n(.*?)```", README, re.DOTALL)
    assert script is not None
    module = json.dumps(script[1] + "globalThis.documents = documents")
    insert = f"Object.assign(document.createElement('script'), {{type: 'module', textContent: {module}}})"
    path = "/v1/collections/theaters/documents"
    async with (
        running_system(settings) as url,
        running_chromium(tmp_path) as browser,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        await client.put(f"{path}/before", json={"city": "Shelbyville"})
        page = await browser.visit(f"{url}/healthz")  # a page of the server's origin, without a content policy
        await browser.until(page, f"document.head.append({insert}), true")
        await browser.until(page, "globalThis.documents?.get('before')?.city === 'Shelbyville'")
        await client.patch(f"{path}/before", json={"city": "Springfield"}, headers=MERGE_PATCH)
        await client.put(f"{path}/after", json={"city": "Ogdenville"})
        await browser.until(page, "documents.get('before').city === 'Springfield' && documents.has('after')")
        await client.delete(f"{path}/before")
        await browser.until(page, "documents.size === 1 && documents.get('after').city === 'Ogdenville'")


async def until(process: asyncio.subprocess.Process, kind: str) -> Any:
    """The data of the next event of this kind in a stream that curl prints."""
    assert process.stdout is not None
    async for line in process.stdout:
        if line.rstrip() == f"event: {kind}".encode():
            await process.stdout.readline()
            return json.loads((await process.stdout.readline()).removeprefix(b"data: "))
    raise AssertionError(f"the stream ended without {kind}")
