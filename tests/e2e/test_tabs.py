"""Tabs of the JavaScript client in Chromium: they share one connection, and its tab is ended in every way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from eventsync.settings import Settings
from support.peers import chromium
from support.peers.chromium import Chromium, running_chromium
from support.systems import running_system
from support.waiting import eventually, patience, within

PACKAGE = Path(__file__).parents[2] / "clients" / "js"
LIVE = "tab.isLive()"
LEADS = "tab.leads()"

pytestmark = [
    pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or ""),
    pytest.mark.skipif(
        not (PACKAGE / "node_modules/esbuild").is_dir(), reason="needs npm packages: scripts/peers installs them"
    ),
]

ENDS: Final[dict[str, Callable[[Chromium, str], Awaitable[None]]]] = {
    "closed": Chromium.close_page,
    "killed": Chromium.crash,
    "frozen": lambda browser, session: browser.freeze(session, frozen=True),
    "busy": lambda browser, session: browser.start(session, "const end = Date.now() + 9000; while (Date.now() < end);"),
}


class Browser:
    """The tabs of one browser, by their sessions."""

    def __init__(self, chromium: Chromium, url: str, script: str, http: httpx.AsyncClient) -> None:
        self.chromium = chromium
        self.http = http
        self.url = url
        self.script = script
        self.tabs: list[str] = []

    async def open(self, condition: str = LIVE, *, path: str = "/healthz") -> str:
        tab = await self.chromium.visit(f"{self.url}{path}")
        await self.chromium.start(tab, self.script)
        await self.chromium.until(tab, f"globalThis.tab && {condition}")
        self.tabs.append(tab)
        return tab

    async def run(self, tab: str, body: str) -> Any:
        return await self.chromium.run(tab, body)

    async def leader(self) -> str:
        (leading,) = [tab for tab in self.tabs if await self.run(tab, f"return {LEADS}")]
        return leading

    async def another_leader(self, tabs: list[str]) -> str:
        """Wait until one of these tabs leads and is live. Return it."""
        waiting = [asyncio.create_task(self.chromium.until(tab, f"{LEADS} && {LIVE}")) for tab in tabs]
        done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        return tabs[waiting.index(done.pop())]

    async def connections(self) -> int:
        """Return the number of connections that the server counts."""
        found = re.search(
            r'^eventsync_connections{transport="websocket"} (\d+)', (await self.http.get("/metrics")).text, re.MULTILINE
        )
        assert found is not None
        return int(found[1])

    async def write(self, id_: str, n: int) -> None:
        (await self.http.put(f"/v1/collections/accounts/documents/{id_}", json={"n": n})).raise_for_status()

    async def check(self, tabs: Iterable[str], *, since: int = 0) -> None:
        """Wait until these tabs show what the server has; each must have had every event once, in order."""
        rows = (await self.http.get("/v1/collections/accounts/documents")).json()["documents"]
        want = orjson.dumps({row["id"]: {"version": row["version"], "doc": row["doc"]} for row in rows}).decode()
        for tab in tabs:
            await self.chromium.until(tab, f"tab.shows({want})")
            seqs = await self.run(tab, "return tab.seqs")
            assert seqs == sorted(set(seqs))
            # A new leader that is far behind may get documents in place of events, and so the others.
            if not await self.run(tab, "return tab.sources"):
                assert [seq for seq in seqs if seq > since] == [*range(since + 1, max(seqs, default=since) + 1)]
            assert await self.run(tab, "return tab.errors") == []


@asynccontextmanager
async def browsing(url: str, script: str, profile: Path) -> AsyncIterator[Browser]:
    async with running_chromium(profile) as browser, httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
        yield Browser(browser, url, script, http)


async def test_ten_tabs_have_one_connection(settings: Settings, script: str, tmp_path: Path) -> None:
    async with running_system(settings) as url, browsing(url, script, tmp_path) as browser:
        for _ in range(10):
            await browser.open()
        assert await browser.connections() == 1
        first = await browser.leader()
        assert first == browser.tabs[0]
        await browser.run(browser.tabs[7], "await (await tab.cards.insert({ _id: 'mine', n: 1 })).done")
        for number in range(30):
            await browser.write(f"a{number % 7}", number)
        await browser.check(browser.tabs)
        statuses = [await browser.run(tab, "return tab.db.status") for tab in browser.tabs]
        assert statuses == statuses[:1] * 10
        assert statuses[0]["name"] == "live"
        for leader in browser.tabs[:3]:
            await browser.chromium.close_page(leader)
        browser.tabs = browser.tabs[3:]
        await browser.another_leader(browser.tabs)
        await browser.write("b", 1)
        await browser.check(browser.tabs)
        assert await browser.connections() == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
async def test_a_leader_that_ends_is_replaced(settings: Settings, script: str, tmp_path: Path, how: str) -> None:
    """Others write all the time, and a follower writes when its leader ends."""
    async with running_system(settings) as url, browsing(url, script, tmp_path) as browser:
        for _ in range(4):
            await browser.open()
        leader = await browser.leader()
        others = [tab for tab in browser.tabs if tab != leader]
        ending = asyncio.Event()

        async def keep_writing() -> None:
            number = 0
            while not ending.is_set():
                number += 1
                await browser.write(f"a{number % 5}", number)

        async with asyncio.TaskGroup() as group:
            group.create_task(keep_writing())
            await browser.run(others[0], "tab.mine = await tab.cards.insert({ _id: 'mine', n: 1 })")
            await ENDS[how](browser.chromium, leader)
            await browser.run(others[1], "tab.mine = await tab.cards.patch('mine', { m: 2 })")
            async with within(10 if how == "busy" else 1):
                await browser.another_leader(others)
            for tab in others[:2]:
                await browser.run(tab, "await tab.mine.done")
            ending.set()
        await browser.check(others)
        if how == "frozen":
            await browser.chromium.freeze(leader, frozen=False)
        if how in {"frozen", "busy"}:
            await browser.chromium.until(leader, f"!{LEADS} && {LIVE}")
            await browser.write("last", 1)
            await browser.check(browser.tabs)
        await eventually(lambda: _is_one(browser))
        mine = (await browser.http.get("/v1/collections/accounts/documents/mine")).json()
        assert mine["doc"] == {"_id": "mine", "n": 1, "m": 2}
        assert mine["version"] == 2


async def _is_one(browser: Browser) -> bool:
    return await _are(browser, 1)


async def _are(browser: Browser, connections: int) -> bool:
    return await browser.connections() == connections


@pytest.mark.slow
async def test_a_write_of_a_killed_tab_arrives(settings: Settings, script: str, tmp_path: Path) -> None:
    """It is promised once `patch` resolves; the tabs of the test are killed just then, the leader first."""
    async with running_system(settings) as url, browsing(url, script, tmp_path) as browser:
        for number in range(4):
            while len(browser.tabs) < 3:
                await browser.open()
            leader = await browser.leader()
            writer = next(tab for tab in browser.tabs if tab != leader)
            if number % 2:
                await browser.chromium.crash(leader)
            await browser.run(writer, f"await tab.cards.insert({{ _id: 'w{number}', n: {number} }})")
            await browser.chromium.crash(writer)
            browser.tabs = [tab for tab in browser.tabs if tab != writer and not (number % 2 and tab == leader)]
            await browser.another_leader(browser.tabs)
            await browser.chromium.until(browser.tabs[0], f"tab.cards.get('w{number}') && !tab.db.status.pending")
        await browser.check(browser.tabs, since=4)
        assert await browser.connections() == 1


@pytest.mark.slow
@pytest.mark.parametrize("isolated", [True, False])
async def test_a_page_that_the_browser_had_in_its_cache_is_live_again(
    settings: Settings, script: str, tmp_path: Path, *, isolated: bool
) -> None:
    """A tab goes to another page and back. Without a store it has a connection of its own, else another tab leads."""
    if isolated:
        script = script.replace('store: idb("tabs"), ', "")
        assert 'idb("tabs")' not in script
    async with running_system(settings) as url, browsing(url, script, tmp_path) as browser:
        here = "/assets/client.js"  # The browser does not keep pages that forbid it to store them.
        tab = await browser.open(path=here)
        await browser.run(tab, "addEventListener('pageshow', ({ persisted }) => (tab.wasCached = persisted))")
        other = None if isolated else await browser.open()
        await browser.write("a", 1)
        await browser.check(browser.tabs)
        await browser.chromium.navigate(tab, f"{url}/livez")
        if other:
            await browser.another_leader([other])
        else:
            await eventually(lambda: _are(browser, 0))
        await browser.write("a", 2)
        await browser.chromium.start(tab, "history.back()")
        await browser.chromium.until(tab, f"globalThis.tab && tab.wasCached && {LIVE}")
        await browser.write("a", 3)
        await browser.check(browser.tabs)
        await browser.run(tab, "await (await tab.cards.insert({ _id: 'mine', n: 1 })).done")
        await browser.check(browser.tabs)
        await eventually(lambda: _is_one(browser))
        assert await browser.run(tab, "return tab.statuses.includes('failed')") is False
