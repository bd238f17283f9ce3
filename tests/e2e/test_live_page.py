"""The live page in a real browser."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from eventsync.settings import Settings
from support.peers import chromium
from support.peers.chromium import running_chromium
from support.systems import running_system
from support.waiting import patience

pytestmark = pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or "")


TITLES = ("Ran", "Ikiru")
LIVE = "document.querySelector('#status').dataset.status === 'live'"
ROWS = "document.querySelectorAll('#grid tbody tr').length"


async def test_what_it_says_finds_and_leaves_behind(settings: Settings, tmp_path: Path) -> None:
    tracked = settings.model_copy(update={"collections": ("films",)})
    async with (
        running_system(tracked) as url,
        running_chromium(tmp_path) as browser,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        for number, title in enumerate(TITLES):
            await client.put(f"/v1/collections/films/documents/f{number}", json={"title": title})
        page = await browser.visit(f"{url}/?collection=nosuch")
        await browser.until(page, LIVE)
        await browser.until(page, "document.querySelector('#notices').textContent.includes('nosuch')")
        await browser.until(page, "document.querySelector('#collection').value === 'films'")
        await browser.until(page, f"{ROWS} === 2")
        # Values and ids, and not the names of fields.
        for text, count in (("title", 0), ("ikiru", 1), ("f0", 1)):
            typed = f"(filter.value = '{text}', filter.dispatchEvent(new Event('input')))"
            await browser.until(page, f"((filter) => {typed})(document.querySelector('#filter'))")
            await browser.until(page, f"{ROWS} === {count}")
        assert (await client.get("/v1/state-vectors")).json()["clients"] == []
