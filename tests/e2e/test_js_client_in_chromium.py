"""The JavaScript client in Chromium: its token ends, its token function fails, its network is gone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
import pytest

from eventsync.settings import Settings
from support.peers import chromium
from support.peers.chromium import Chromium, running_chromium
from support.ruled import DOCS, Ruled, moved_system
from support.systems import running_system
from support.tcp_proxy import tcp_proxy
from support.waiting import eventually, patience

PACKAGE = Path(__file__).parents[2] / "clients" / "js"
DOCUMENTS = "/v1/collections/accounts/documents"
RULES: Final = DOCS | {"collections": {"accounts": DOCS["collections"]["docs"]}}
LONG = 60
"""Seconds after which the server has closed the connection of a token that ended in a few."""

TOKENS: Final = """
globalThis.asked = [];
globalThis.options = { principal: "ada", transport: "websocket", token: async (why) => {
  asked.push(why);
  if (!answers[why]) throw new Error("the issuer is away");
  return answers[why];
} };
"""
"""The token function answers `answers[why]`."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or ""),
    pytest.mark.skipif(
        not (PACKAGE / "node_modules/esbuild").is_dir(), reason="needs npm packages: scripts/peers installs them"
    ),
]


class Page:
    """A page with the client, at the address of a server or of a proxy before it."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    async def until(self, condition: str) -> None:
        await self._browser.until(self._session, condition)

    async def run(self, body: str) -> Any:
        return await self._browser.run(self._session, body)

    async def check(self, http: httpx.AsyncClient) -> None:
        """Wait until it shows what the server has; it must have had every event once, in order, and no error."""
        await self.until("tab.isLive() && !tab.db.status.pending")
        rows = (await http.get(DOCUMENTS)).raise_for_status().json()["documents"]
        want = orjson.dumps({row["id"]: {"version": row["version"], "doc": row["doc"]} for row in rows}).decode()
        await self.until(f"tab.shows({want})")
        assert await self.run("return tab.errors") == []
        assert await self.run("return tab.sources") == []
        seqs = await self.run("return tab.seqs")
        assert seqs == [*range(1, len(seqs) + 1)]
        assert len(seqs) >= sum(row["version"] for row in rows)


@asynccontextmanager
async def opened(url: str, script: str, profile: Path, before: str = "") -> AsyncIterator[Page]:
    """Open a page of a browser of its own, and wait until it is live. `before` is run before the client is made."""
    async with running_chromium(profile) as browser:
        session = await browser.visit(f"{url}/healthz")
        await browser.start(session, before + script)
        await browser.until(session, "globalThis.tab && tab.isLive()")
        await browser.run(session, "tab.statuses.length = 0")
        yield Page(browser, session)


@asynccontextmanager
async def guarded(settings: Settings, folder: Path) -> AsyncIterator[Ruled]:
    """Run a server whose clock stands. It says in `welcome` only when a token ends: it has no heartbeat."""
    quiet = settings.model_copy(update={"collections": ("accounts",), "heartbeat": 3600.0})
    async with moved_system(quiet, folder, RULES) as ruled:
        yield ruled


def ends_soon(ruled: Ruled) -> str:
    return ruled.token(exp=int(ruled.clock.now()) + 3)


async def test_a_token_that_ends_is_renewed_on_the_live_connection(
    settings: Settings, script: str, tmp_path: Path
) -> None:
    async with guarded(settings, tmp_path) as ruled, ruled.client("writer") as http:
        before = f"globalThis.answers = {json.dumps({'connect': ends_soon(ruled), 'expiring': ruled.token()})};"
        async with opened(ruled.url, script, tmp_path / "profile", before + TOKENS) as page:

            async def is_renewed() -> bool:
                (session,) = ruled.sync().sessions._sessions
                return (session._live_access.ends_in or 0) > LONG

            await eventually(is_renewed, 20)
            ruled.advance(LONG)
            (await http.put(f"{DOCUMENTS}/late", json={"n": 1})).raise_for_status()
            await page.until("tab.cards.get('late')")
            await page.run("await (await tab.cards.insert({ _id: 'mine' })).done")
            await page.check(http)
            assert await page.run("return asked") == ["connect", "expiring"]
            assert set(await page.run("return tab.statuses")) <= {"live"}


async def test_a_token_function_that_fails_for_a_while_loses_nothing(
    settings: Settings, script: str, tmp_path: Path
) -> None:
    """First the connection stays, then the token ends, and the client waits for another one."""
    async with guarded(settings, tmp_path) as ruled:
        before = f"globalThis.answers = {json.dumps({'connect': ends_soon(ruled)})};"
        async with opened(ruled.url, script, tmp_path / "profile", before + TOKENS) as page:
            await page.until("asked.filter((why) => why === 'expiring').length > 2")
            assert await page.run("return tab.statuses") == []
            await page.run("answers.connect = null")
            ruled.advance(LONG)
            await page.until("tab.db.status.name === 'waiting' && /the issuer is away/.test(tab.db.status.reason)")
            async with ruled.client("writer") as http:
                (await http.put(f"{DOCUMENTS}/late", json={"n": 1})).raise_for_status()
                await page.run("await tab.cards.insert({ _id: 'mine' })")
                assert await page.run("return [...tab.cards.documents.keys()]") == ["mine"]
                assert await page.run("return tab.db.status.pending") == 1
                token = json.dumps(ruled.token())
                await page.run(f"answers.connect = answers.refused = answers.expiring = {token}; tab.db.hurry()")
                await page.check(http)
                assert "failed" not in await page.run("return tab.statuses")


async def test_writes_of_an_offline_page_arrive_once(settings: Settings, script: str, tmp_path: Path) -> None:
    """Its connections are cut, and of new ones nothing arrives, while the page and others write."""
    async with (
        running_system(settings) as url,
        tcp_proxy(url) as proxy,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as http,
        opened(proxy.url, script, tmp_path) as page,
    ):

        async def put(id_: str, n: int) -> None:
            (await http.put(f"{DOCUMENTS}/{id_}", json={"n": n})).raise_for_status()

        for id_ in "abc":
            await put(id_, 1)
        await page.check(http)
        for number in range(2):
            proxy.hold(".*")
            assert proxy.cut() > 0
            await page.until("tab.db.status.name !== 'live'")
            await put("a", 2 + number)
            await put(f"late{number}", 1)
            await page.run(
                f"""
                await tab.cards.insert({{ _id: 'mine{number}', n: 1 }});
                await tab.cards.patch('mine{number}', {{ n: 2 }});
                await tab.cards.patch('b', {{ m: {number} }});
                """
            )
            assert await page.run("return tab.db.status.pending") == 3
            shown = f"return [tab.cards.get('mine{number}').n, tab.cards.get('b').m, tab.cards.get('a').n]"
            assert await page.run(shown) == [2, number, 1 + number]
            proxy.release()
            await page.run("tab.db.hurry()")
            await page.check(http)
            versions = {row["id"]: row["version"] for row in (await http.get(DOCUMENTS)).json()["documents"]}
            assert (versions[f"mine{number}"], versions["b"]) == (2, 2 + number)
