"""The dashboard in a real browser: each view with real data, by keyboard, without errors, and checked by axe-core."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from eventsync.settings import Settings
from eventsync.stores.readiness import connected
from eventsync.stores.stats.processes import Process
from eventsync.stores.stores import Stores
from support.peers import chromium
from support.peers.chromium import Chromium, running_chromium
from support.peers.python import connect, reading
from support.ruled import CANARY, MERGE, THINGS, Ruled, ruled_system
from support.systems import running_server
from support.waiting import eventually, patience

pytestmark = pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or "")

AXE: Final = Path(sys.prefix) / "peers" / "node_modules" / "axe-core" / "axe.min.js"
ATTACK: Final = '<img src="x" onerror="globalThis.attacked = true"><script>attacked = true</script>'
VIEWS: Final = {
    "overview": "document.querySelectorAll('.stat').length === 6 && document.querySelectorAll('canvas').length === 3",
    "data/things": "document.querySelectorAll('.documents tbody tr').length === 50",
    "data/things/d7": "document.querySelectorAll('.timeline tbody tr').length === 2",
    "clients": "(document.querySelector('main').textContent.match(/watcher/g) ?? []).length === 2",
    "log": "document.querySelectorAll('.events li').length === 50",
    "log/maintenance": "document.querySelector('[aria-label=\"Table: Jobs\"]')?.textContent.includes('snapshot')",
    "access": "document.querySelector('main').textContent.includes('secret, lines.cost')",
    "settings": "document.querySelectorAll('tbody tr').length > 50",
}
FACT: Final = {
    name: f"[...document.querySelectorAll('.facts div')].find(({{firstChild}}) => firstChild.textContent === '{name}')"
    "?.lastChild.textContent"
    for name in ("Archive", "Archiver")
}
"""Texts of the facts about the log."""


@dataclass
class Dashboard:
    """A page of the dashboard, signed in."""

    browser: Chromium
    page: str
    ruled: Ruled

    async def until(self, condition: str) -> None:
        await self.browser.until(self.page, condition)

    async def show(self, view: str) -> None:
        """Go to a view and wait until it shows what it has."""
        await self.browser.value(self.page, f"location.hash = '#/{view}', null")
        if view in VIEWS:
            await self.until(VIEWS[view])

    async def looks_well(self, view: str | None = None) -> None:
        """Check a view, or this one, in light, dark and on a phone: by axe-core, and that nothing is beside it."""
        for dark, width in ((False, 1280), (True, 1280), (False, 390)):
            await self.browser.look_like(self.page, dark=dark, width=width)
            if view is not None:
                await self.show(view)
            assert not AXE.is_file() or await faults(self) == [], (view, dark, width)
            wide = "document.documentElement.scrollWidth > innerWidth"
            assert not await self.browser.value(self.page, wide), (view, width)

    async def click(self, label: str, within: str = "main") -> None:
        """Click the first button with this text."""
        buttons = f"[...document.querySelectorAll('{within} button')]"
        found = f"{buttons}.find((each) => each.textContent === {json.dumps(label)})"
        await self.until(f"({found}) && !({found}).disabled")
        await self.browser.value(self.page, f"({found}).click(), null")


@asynccontextmanager
async def watching(ruled: Ruled) -> AsyncIterator[None]:
    """A connected client, `watcher` of ada, that reads what it gets."""
    async with connect(f"{ruled.url.replace('http', 'ws')}/v1/sync") as socket:
        hello = {"type": "hello", "token": ruled.token("ada"), "shapes": ["things"], "client_id": "watcher"}
        await socket.send(json.dumps(hello))
        while json.loads(await socket.recv())["type"] != "live":
            continue
        async with reading(socket):
            yield


async def _has_stored(operator: httpx.AsyncClient) -> bool:
    return bool((await operator.get("/v1/state-vectors")).json()["clients"])


@asynccontextmanager
async def looking(settings: Settings, folder: Path, role: str = "ops") -> AsyncIterator[Dashboard]:
    """A system under rules with documents and a client, and its dashboard, which somebody with a role looks at."""
    quick = settings.model_copy(update={"collections": ("things", "open"), "report_interval": 0.3})
    (folder / "secrets").mkdir()
    async with (
        ruled_system(quick, folder / "secrets") as ruled,
        ruled.client("root", roles=["ops"]) as operator,
        running_chromium(folder / "profile") as browser,
    ):
        content = {"owner": "ada", "secret": CANARY, "name": ATTACK}
        operations = [{"method": "PUT", "id": f"d{n}", "doc": content | {"n": n}} for n in range(200)]
        (await operator.post(f"{THINGS}:batch", json={"operations": operations})).raise_for_status()
        (await operator.patch(f"{THINGS}/d7", json={"n": 70}, headers=MERGE)).raise_for_status()
        async with watching(ruled):
            # Written some time after the client has connected, and the view reads it once.
            await eventually(lambda: _has_stored(operator), 20)
            page = await browser.visit(f"{ruled.url}/#key={ruled.token('olga', roles=[role])}")
            dashboard = Dashboard(browser, page, ruled)
            await dashboard.until("location.hash === '' && document.querySelector('.stats')")
            yield dashboard
            assert browser.complaints == []
            assert not await browser.value(page, "globalThis.attacked ?? false")


async def faults(dashboard: Dashboard) -> list[Any]:
    """Return what axe-core finds wrong with the page."""
    if not await dashboard.browser.value(dashboard.page, "'axe' in globalThis"):
        await dashboard.browser.value(dashboard.page, f"{AXE.read_text()}; null")
    run = "axe.run(document, {resultTypes: ['violations']})"
    picked = "({id, nodes}) => [id, ...nodes.slice(0, 3).map(({html, any}) => [html, any[0]?.message])]"
    found: list[Any] = await dashboard.browser.value(dashboard.page, f"{run}.then((r) => r.violations.map({picked}))")
    return found


async def test_each_view_shows_real_data_accessibly(settings: Settings, tmp_path: Path) -> None:
    if not AXE.is_file():
        pytest.skip("needs axe-core: scripts/peers installs it")
    async with looking(settings, tmp_path) as dashboard:
        for view in VIEWS:
            await dashboard.looks_well(view)


@pytest.mark.slow
async def test_refusals_of_all_servers_are_listed(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard:
        token = dashboard.ruled.token("eve")
        async with running_server(dashboard.ruled.settings) as other:
            for url in (dashboard.ruled.url, other):
                headers = {"Authorization": f"Bearer {token}"}
                async with httpx.AsyncClient(base_url=url, headers=headers, timeout=patience(15)) as client:
                    assert (await client.get("/metrics")).status_code == 403
            await dashboard.show("access")
            rows = "[...document.querySelectorAll('[aria-label=\"Table: Refusals\"] tbody tr')]"
            eves = f"{rows}.filter((row) => row.cells[1].textContent === 'eve')"
            await dashboard.until(f"new Set({eves}.map((row) => row.cells[5].textContent)).size === 2")
            await dashboard.until("document.querySelector('main').textContent.includes('2 servers: not_operator 2')")
            await dashboard.looks_well()


@pytest.mark.slow
async def test_document_is_edited_by_keyboard_and_restored(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard, dashboard.ruled.client("root", roles=["ops"]) as operator:
        await dashboard.show("data/things")
        cell = "[...document.querySelectorAll('tr')].find((row) => row.textContent.startsWith('d0')).cells[4]"
        await dashboard.browser.value(dashboard.page, f"{cell}.focus(), null")
        await dashboard.browser.press(dashboard.page, "Enter")
        await dashboard.until("document.activeElement.tagName === 'INPUT'")
        await dashboard.browser.value(dashboard.page, "document.activeElement.select(), null")
        for digit in "81":
            await dashboard.browser.press(dashboard.page, digit, digit)
        await dashboard.browser.press(dashboard.page, "Enter")
        await dashboard.until(f"{cell}.textContent === '81'")
        assert (await operator.get(f"{THINGS}/d0")).json()["doc"]["n"] == 81

        await dashboard.show("data/things/d7")
        await dashboard.browser.value(dashboard.page, "document.querySelectorAll('[name=left]')[1].click(), null")
        await dashboard.until("document.querySelectorAll('.sides del').length === 1")
        sides = "[...document.querySelectorAll('.sides :is(del, ins)')].map((line) => line.textContent.trim())"
        assert await dashboard.browser.value(dashboard.page, sides) == ['"n": 7', '"n": 70']
        await dashboard.click("Restore the left one")
        await dashboard.click("Yes")
        await dashboard.until("document.querySelectorAll('.timeline tbody tr').length === 3")
        assert (await operator.get(f"{THINGS}/d7")).json()["doc"]["n"] == 7


@pytest.mark.slow
async def test_documents_and_events_are_found_and_paged(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard:
        await dashboard.show("data/things")
        await dashboard.click("Next page")
        first = "document.querySelector('.documents tbody th').textContent"
        await dashboard.until(f"document.querySelectorAll('.documents tbody tr').length === 50 && {first} !== 'd0'")
        query = "data/things?filter=" + "%7B%22_id%22%3A%22d3%22%7D"
        await dashboard.browser.value(dashboard.page, f"location.hash = '#/{query}', null")
        await dashboard.until("document.querySelectorAll('.documents tbody tr').length === 1")
        await dashboard.browser.value(dashboard.page, "location.hash = '#/data/things?filter=%7B', null")
        await dashboard.until("document.querySelector('[role=alert]')?.textContent.includes('filter')")
        await dashboard.browser.value(dashboard.page, "location.hash = '#/log?op=update', null")
        await dashboard.until("document.querySelectorAll('.events li').length === 1")
        assert "d7" in await dashboard.browser.value(dashboard.page, "document.querySelector('.events').textContent")
        await dashboard.show("log")
        await dashboard.click("Search further back")
        await dashboard.until("Number(document.querySelector('.events .seq')?.textContent) === 151")
        # The refused filter is an answer that the console reports.
        assert all("400" in complaint for complaint in dashboard.browser.complaints)
        dashboard.browser.complaints.clear()


@pytest.mark.slow
async def test_page_is_bounded_however_many_documents_there_are(settings: Settings, tmp_path: Path) -> None:
    """A page is one request for 50 documents, and the document grows by none that was left."""
    async with looking(settings, tmp_path) as dashboard:
        listed = "performance.getEntriesByType('resource').map(({name}) => name)"
        listed += ".filter((name) => name.includes('/things/documents'))"
        nodes, first = (
            "document.querySelectorAll('.documents *').length",  # elsewhere a note may come
            "document.querySelector('.documents tbody th')?.textContent",
        )
        await dashboard.show("data/things")
        begun = await dashboard.browser.value(dashboard.page, nodes)
        for _ in range(3):
            before = json.dumps(await dashboard.browser.value(dashboard.page, first))
            await dashboard.click("Next page")
            await dashboard.until(f"{VIEWS['data/things']} && {first} !== {before}")
        assert await dashboard.browser.value(dashboard.page, nodes) == begun
        requests = await dashboard.browser.value(dashboard.page, listed)
        assert [request.partition("limit=")[2].partition("&")[0] for request in requests] == ["50"] * 4
        await dashboard.browser.value(dashboard.page, "location.hash = '#/data/things?sort=name', null")
        await dashboard.until("document.querySelector('[role=alert]')?.textContent.includes('create one on name: 1')")
        assert all("400" in complaint for complaint in dashboard.browser.complaints)
        dashboard.browser.complaints.clear()


@pytest.mark.slow
async def test_client_is_disconnected_and_forgotten(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="eventsync.access.audit")
    async with looking(settings, tmp_path) as dashboard, dashboard.ruled.client("root", roles=["ops"]) as operator:
        await dashboard.show("clients")
        await dashboard.click("Disconnect")
        await dashboard.click("Yes")

        async def ended() -> bool:
            found = (await operator.get("/v1/admin/clients", params={"sub": "ada"})).json()
            return not found["clients"]

        await eventually(ended, 20)
        await dashboard.click("Forget")
        await dashboard.click("Yes")
        await dashboard.until("document.querySelector('main').textContent.includes('nothing has to be remembered')")
        assert (await operator.get("/v1/state-vectors")).json()["clients"] == []
        said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("operator: ")]
        assert ['subject="olga"' in line for line in said] == [True, True]
        assert ["disconnect" in said[0], "forget" in said[1]] == [True, True]


@pytest.mark.slow
async def test_collection_is_shown_as_it_was_and_restored(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard, dashboard.ruled.client("root", roles=["ops"]) as operator:
        known = (await operator.get("/v1/admin/collections/things/history")).json()["since_at"]

        async def is_past() -> bool:
            # The slider ends some seconds ago, up to which the worker has read all changes.
            return bool(time.time() > max(known, made) + 7)

        made = time.time()
        await eventually(is_past, 20)
        (await operator.delete(f"{THINGS}/d0")).raise_for_status()
        await dashboard.show("data/things?past=1")
        await dashboard.until("document.querySelectorAll('main .events li').length === 50")
        await dashboard.until("document.querySelector('main .events').textContent.includes('deleted since')")
        await dashboard.browser.value(dashboard.page, "document.querySelector('main .events summary').click(), null")
        await dashboard.until("document.querySelectorAll('.sides').length === 1")
        await dashboard.looks_well()
        fill = "document.querySelector('[name=into]').value = 'things_before'"
        await dashboard.browser.value(dashboard.page, f"{fill}, null")
        await dashboard.click("Restore")
        await dashboard.click("Yes")
        await dashboard.until(
            "document.querySelector('[aria-label=\"Table: Restores\"]')?.textContent.includes('done')"
        )
        (task,) = (await operator.get("/v1/admin/tasks")).json()["tasks"]
        assert (task["state"], task["by"], task["result"]["into"]) == ("done", "olga", "things_before")


@pytest.mark.slow
async def test_collections_are_verified(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard:
        await dashboard.show("data/things")
        await dashboard.click("Verify")
        await dashboard.until(
            "document.querySelector('.verdict')?.textContent.includes('gives exactly one collection')"
        )
        async with connected(dashboard.ruled.settings, "test") as client:
            await client[dashboard.ruled.settings.log_db]["events"].update_one({"i": "d3"}, {"$set": {"c": "open"}})
        await dashboard.show("log/maintenance")
        await dashboard.click("Verify all collections")
        await dashboard.until("document.querySelector('.findings')?.textContent.includes('things/d3')")
        await dashboard.looks_well("log/maintenance")
        link = "document.querySelector('.findings a').getAttribute('href')"
        assert await dashboard.browser.value(dashboard.page, link) == "#/data/things/d3"


@pytest.mark.slow
async def test_storage_shows_tiers_snapshots_and_segments(settings: Settings, tmp_path: Path) -> None:
    archived = {"archive_url": str(tmp_path / "archive"), "hot_events": 20, "segment_events": 40}
    archived |= {"snapshot_events": 50, "snapshot_min_events": 1, "checkpoint_interval": 0.2}
    async with looking(settings.model_copy(update=archived), tmp_path) as dashboard:
        async with dashboard.ruled.client("root", roles=["ops"]) as operator:

            async def sealed() -> bool:
                return len((await operator.get("/v1/admin/segments")).json()["segments"]) >= 2

            await eventually(sealed, 60)
        await dashboard.show("log/storage")
        await dashboard.until("document.querySelector('.tiers .cold') && document.querySelector('.tiers i')")
        await dashboard.until("document.querySelectorAll('[aria-label=\"Table: Segments\"] tbody tr').length >= 2")
        await dashboard.until("document.querySelectorAll('[aria-label=\"Table: Snapshots\"] tbody tr').length >= 2")
        said = await dashboard.browser.value(dashboard.page, "document.querySelector('.tiers').ariaLabel")
        assert said.startswith("The log: no longer kept: none; archived: 1 to ")
        await dashboard.until(f"{FACT['Archive']} === {json.dumps(archived['archive_url'])}")
        await dashboard.until(f"/^ran well at .* events archived, .* at 2/.test({FACT['Archiver']})")
        await dashboard.looks_well("log/storage")
        await eventually(partial(_shows_a_failure, dashboard), 30)


async def _shows_a_failure(dashboard: Dashboard) -> bool:
    """Publish that a run of the archiver has failed since. Return True once the view says so."""
    failed = {"at": time.time(), "seconds": 0.5, "done": {}, "reason": "the disk is full"}
    job = {"running_since": None, "next_at": None, "succeeded": None, "worked": None, "failed": failed}
    async with connected(dashboard.ruled.settings, "test") as client:
        processes = Stores.of(client, dashboard.ruled.settings).stats.processes
        await processes.renew(Process("host:1:a", "worker"), {"jobs": {"archiving": job}})
    shown = f"/^failed .*: the disk is full$/.test({FACT['Archiver']})"
    return bool(await dashboard.browser.value(dashboard.page, shown))


@pytest.mark.slow
async def test_storage_says_that_there_is_no_archive(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard:
        await dashboard.show("log/storage")
        await dashboard.until(f"{FACT['Archive']} === 'no archive'")
        assert await dashboard.browser.value(dashboard.page, f"{FACT['Archiver']} ?? null") is None


@pytest.mark.slow
async def test_session_is_inspected_live(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path, "watch") as dashboard, dashboard.ruled.client("root", roles=["ops"]) as root:
        await dashboard.show("clients")
        link = "document.querySelector('a[href^=\"#/clients/\"]')"
        await dashboard.until(f"{link} !== null")
        await dashboard.browser.value(dashboard.page, f"{link}.click(), null")
        text = "document.querySelector('main').textContent"
        await dashboard.until(f"{text}.includes('it came without a position') && {text}.includes('secret')")
        (await root.patch(f"{THINGS}/d3", json={"n": 5, "secret": f"{CANARY}-2"}, headers=MERGE)).raise_for_status()
        await dashboard.until(
            "document.querySelector('[aria-label=\"Table: Frames\"] tbody td:last-child code') !== null"
        )
        assert CANARY not in await dashboard.browser.value(dashboard.page, "document.querySelector('main').innerHTML")
        await dashboard.looks_well()
        await dashboard.click("Hold")
        await dashboard.until("document.querySelector('main [role=status]').textContent === 'held'")


@pytest.mark.slow
async def test_access_is_explained(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard:
        await dashboard.show("access")
        fill = "(name, value) => { document.querySelector(`[name=${name}]`).value = value; }"
        claims = json.dumps(json.dumps({"sub": "ada"}))
        await dashboard.browser.value(
            dashboard.page, f"({fill})('shape', 'things/d1'), ({fill})('claims', {claims}), null"
        )
        await dashboard.click("Explain")
        await dashboard.until("document.querySelector('main').textContent.includes('may read it')")
        seen = await dashboard.browser.value(dashboard.page, "document.querySelector('pre').textContent")
        assert json.loads(seen)["owner"] == "ada"
        assert CANARY not in seen


@pytest.mark.slow
async def test_observer_gets_no_buttons_that_change_something(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path, "watch") as dashboard:
        await dashboard.show("clients")
        labels = "[...document.querySelectorAll('main button')].map((button) => button.textContent)"
        assert not {"Disconnect", "Forget"} & set(await dashboard.browser.value(dashboard.page, labels))
        await dashboard.show("log")
        assert CANARY not in await dashboard.browser.value(dashboard.page, "document.querySelector('main').innerHTML")
        await dashboard.show("access")
        assert "Explain" not in await dashboard.browser.value(dashboard.page, labels)


@pytest.mark.slow
async def test_old_answer_is_not_taken_for_the_present(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard:
        await dashboard.show("overview")
        await dashboard.until("document.querySelector('.problems') !== null")
        cut_off = "globalThis.fetch = () => Promise.reject(new TypeError('cut off')), null"
        await dashboard.browser.value(dashboard.page, cut_off)
        await dashboard.until("document.querySelector('main [role=alert]')?.textContent.includes('cut off')")
        await dashboard.until(
            "document.querySelector('main section').textContent.includes('Not known. All below is of')"
        )
        assert not await dashboard.browser.value(dashboard.page, "document.querySelector('.problems, .fine') !== null")


@pytest.mark.slow
async def test_next_principal_of_a_tab_has_own_rights(settings: Settings, tmp_path: Path) -> None:
    """As in a tab of an operator who has signed out in another one."""
    async with looking(settings, tmp_path) as dashboard:
        await dashboard.show("clients")
        labels = "[...document.querySelectorAll('main button')].map((button) => button.textContent)"
        await dashboard.until(f"{labels}.includes('Disconnect')")
        leave = "fetch('/v1/session', {method: 'DELETE'}).then(() => null)"
        await dashboard.browser.value(dashboard.page, leave)
        await dashboard.until("document.querySelector('dialog[open] #credential')")
        token = json.dumps(dashboard.ruled.token("wim", roles=["watch"]))
        fill = f"document.querySelector('#credential').value = {token}"
        submit = "document.querySelector('dialog form').requestSubmit()"
        await dashboard.browser.value(dashboard.page, f"{fill}, {submit}, null")
        await dashboard.until(
            f"document.querySelector('#who')?.textContent.includes('wim') && {labels}.includes('Filter')"
        )
        rows = "[...document.querySelectorAll('main tbody tr')].map((row) => row.textContent).join()"
        await dashboard.until(f"{rows}.includes('watcher') && !{labels}.includes('Disconnect')")
        assert all("401" in complaint for complaint in dashboard.browser.complaints)
        dashboard.browser.complaints.clear()


@pytest.mark.slow
async def test_refusal_is_shown_and_a_number_is_a_position(settings: Settings, tmp_path: Path) -> None:
    async with looking(settings, tmp_path) as dashboard:
        await dashboard.show("data/things")
        fill = "document.querySelector('main [name=name]').value = 'bad$name'"
        await dashboard.browser.value(dashboard.page, f"{fill}, null")
        await dashboard.click("Track")
        await dashboard.until("document.querySelector('#notices').textContent.includes(\"can't be a collection name\")")
        await dashboard.browser.value(dashboard.page, "location.hash = '#/log?up_to=7', null")
        await dashboard.until("document.querySelector('.events .seq')?.textContent === '7'")
        assert all("400" in complaint for complaint in dashboard.browser.complaints)
        dashboard.browser.complaints.clear()


async def test_old_links_lead_to_the_live_page(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    only = settings.model_copy(update={"collections": ("open",)})
    async with (
        ruled_system(only, tmp_path / "secrets") as ruled,
        httpx.AsyncClient(base_url=ruled.url, timeout=patience(20)) as client,
    ):
        answer = await client.get("/?collection=open")
        assert (answer.status_code, answer.headers["location"]) == (307, "/try?collection=open")
        assert (await client.get(answer.headers["location"])).status_code == 200
