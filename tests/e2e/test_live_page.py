"""The live page in a real browser."""

from __future__ import annotations

import tomllib
from pathlib import Path

import httpx
import pytest

from eventsync.domain.predicates.declarations import read_rules
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from support.peers import chromium
from support.peers.chromium import running_chromium
from support.replay import eventually
from support.ruled import apply_rules
from support.systems import running_system
from support.waiting import patience

pytestmark = pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or "")


TITLES = ("Ran", "Ikiru")
LIVE = "document.querySelector('#status').dataset.status === 'live'"
ROWS = "document.querySelectorAll('#grid tbody tr').length"


async def test_the_page_shows_finds_and_cleans_up(settings: Settings, tmp_path: Path) -> None:
    tracked = settings.model_copy(update={"collections": ("films",)})
    async with (
        running_system(tracked) as url,
        running_chromium(tmp_path) as browser,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        for number, title in enumerate(TITLES):
            await client.put(f"/v1/collections/films/documents/f{number}", json={"title": title})
        page = await browser.visit(f"{url}/try?collection=nosuch")
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


RULES = """
[shapes.my_cards]
collection = "cards"
where = { board = "$board" }
parameters = { board = { type = "int" } }

[shapes.boards]
collection = "cards"
where = { board = { "$in" = "$boards" } }
parameters = { boards = { type = "int" } }
"""


async def declare(stores: Stores, text: str, client: httpx.AsyncClient) -> None:
    """Declare these shapes and wait until the server lists them."""
    definitions = read_rules(tomllib.loads(text)).definitions
    await stores.definitions.apply([Declaration.of(definition) for definition in definitions.values()])

    async def listed() -> bool | None:
        shapes = (await client.get("/v1/collections")).json().get("shapes", [])
        return True if {item["name"] for item in shapes} == definitions.keys() else None

    await eventually(stores, "shapes", listed)


def typed(value: str) -> str:
    """Return the script that types a value for the one parameter."""
    field = "document.querySelector('#parameters input')"
    return f"({field}.value = '{value}', {field}.dispatchEvent(new Event('change', {{bubbles: true}})))"


def tags(word: str) -> str:
    return f"document.querySelectorAll('#feed .tag.{word}').length"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_it_follows_a_declared_shape_and_shows_enter_and_leave(
    settings: Settings, stores: Stores, tmp_path: Path, transport: str
) -> None:
    tracked = settings.model_copy(update={"collections": ("cards",)})
    async with (
        running_system(tracked) as url,
        running_chromium(tmp_path) as browser,
        httpx.AsyncClient(base_url=url, timeout=patience(20)) as client,
    ):
        cards = stores.data["cards"]
        await cards.insert_many([{"_id": f"c{number}", "board": number % 2} for number in range(4)])
        await declare(stores, RULES, client)
        page = await browser.visit(f"{url}/?shape=my_cards%3F")
        await browser.until(page, "document.querySelector('#collection').value === 'my_cards?'")
        await browser.until(page, "document.querySelector('#empty').textContent.includes('a value')")
        await browser.until(page, f"document.querySelector('input[value={transport}]').click(), true")
        await browser.until(page, f"{typed('1')} || true")
        await browser.until(page, f"{LIVE} && {ROWS} === 2")
        await browser.until(page, "new URLSearchParams(location.search).get('shape') === 'my_cards?board=int:1'")
        await cards.update_one({"_id": "c0"}, {"$set": {"board": 1}})
        await browser.until(page, f"{ROWS} === 3 && {tags('enter')} === 1")
        await cards.update_one({"_id": "c1"}, {"$set": {"board": 7}})
        await browser.until(page, f"{ROWS} === 2 && {tags('leave')} === 1 && {tags('delete')} === 0")

        # What enters and leaves while the connection is cut is replayed, and counted against the log.
        await browser.until(page, "document.querySelector('#kill').click(), true")
        await browser.until(page, "document.querySelector('#status').dataset.status === 'stopped'")
        await cards.update_one({"_id": "c1"}, {"$set": {"board": 1}})
        await cards.update_one({"_id": "c0"}, {"$set": {"board": 7}})
        await browser.until(page, "document.querySelector('#kill').click(), true")
        await browser.until(page, f"{LIVE} && {tags('enter')} === 2 && {tags('leave')} === 2")
        await browser.until(page, "document.querySelector('#outage').textContent.includes('0 lost, 0 refetched')")

        # A write of the page goes to the collection.
        await browser.until(page, "document.querySelector('#writes').click(), true")
        await browser.until(page, f"{tags('update')} + {tags('replace')} === 20")

        # Another definition: the page reads it again. A list takes several values.
        await declare(stores, RULES.replace('{ board = "$board" }', '{ board = "$board", _id = "c1" }'), client)
        await browser.until(page, "document.querySelector('#notices').textContent.includes('another definition')")
        await browser.until(page, f"{LIVE} && {ROWS} === 1")
        listed = await browser.visit(f"{url}/try?shape=boards%3Fboards%3Dint%3A7%26boards%3Dint%3A0")
        await browser.until(listed, f"{LIVE} && {ROWS} === 2")
        await browser.until(listed, "document.querySelector('#parameters input').value === 'int:7, int:0'")
        # On a phone the buttons stand below each other.
        await browser.look_like(listed, width=320)
        parts = "document.querySelector('.actions')"
        await browser.until(listed, f"innerWidth === 320 && {parts}.scrollWidth <= {parts}.clientWidth")
        # The name alone is the shape, too.
        named = await browser.visit(f"{url}/try?shape=my_cards")
        await browser.until(named, "document.querySelector('#collection').value === 'my_cards?'")
        wrong = await browser.visit(f"{url}/try?shape=undeclared%3Fa%3D1")
        await browser.until(wrong, "document.querySelector('#notices').textContent.includes('no declared shape')")
        await browser.until(wrong, f"document.querySelector('#collection').value === 'cards' && {ROWS} === 4")


@pytest.mark.slow
async def test_the_page_signs_in_and_out(settings: Settings, stores: Stores, tmp_path: Path) -> None:
    tracked = settings.model_copy(update={"collections": ("films",)})
    async with running_system(tracked) as url, running_chromium(tmp_path) as browser:
        await stores.data["films"].insert_one({"_id": "f0", "title": "Ran"})
        rules = {
            "auth": {},
            "roles": {"operator": {"ops": True}},
            "collections": {"*": {"operator": {"read": True}}},
        }
        open_page = await browser.visit(f"{url}/try")
        await browser.until(open_page, f"{LIVE} && {ROWS} === 1 && document.querySelector('#who').hidden")
        await apply_rules(stores, tmp_path, rules)
        # The rules end the open connection, and the page asks for a key.
        await browser.until(open_page, "document.querySelector('#sign-in').open")
        await browser.until(open_page, f"{signing_in('esk_wrong_key')} || true")
        await browser.until(open_page, "document.querySelector('#sign-in .why').textContent.includes('not valid')")
        roles, claims = frozenset({"operator"}), {"sub": "paul"}
        _, key = await stores.credentials.keys.create("page", roles=roles, claims=claims, expires=None)
        # Unknown keys are looked up ten times a second at most: a key that was just made may be refused at first.
        # A page that has signed in is loaded again: for a moment, it has no dialog.
        dialog = "document.querySelector('#sign-in')"
        await browser.until(open_page, f"{dialog} && (!{dialog}.open || ({signing_in(key)}, false))")
        await browser.until(open_page, f"{dialog}?.open === false && {LIVE} && {ROWS} === 1")
        await browser.until(open_page, "document.querySelector('#who span')?.textContent === 'paul'")
        # Signing out loads the page again.
        await browser.start(open_page, "document.querySelector('#who button').click()")
        await browser.until(open_page, "document.querySelector('#sign-in')?.open")

        # A key in the address is used and removed; a reload continues by the cookie, over both transports.
        page = await browser.visit(f"{url}/try#key={key}")
        await browser.until(page, f"{LIVE} && {ROWS} === 1 && location.hash === ''")
        again = await browser.visit(f"{url}/try")
        await browser.until(again, f"{LIVE} && document.querySelector('#who span').textContent === 'paul'")
        await browser.until(again, "document.querySelector('input[value=sse]').click(), true")
        await browser.until(again, f"{LIVE} && document.querySelector('#facts').textContent.includes('Server-Sent')")


def signing_in(key: str) -> str:
    """Return the script that types a key and sends the form."""
    field = "document.querySelector('#sign-in input')"
    return f"({field}.value = '{key}', {field}.form.requestSubmit())"
