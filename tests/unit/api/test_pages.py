"""`eventsync.api.pages`: the pages hold together, load nothing from elsewhere, and are served safely."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from eventsync import web
from eventsync.api import openapi, pages
from eventsync.api.pages import ASSETS

ROOT = Path(__file__).parents[3]
PAGES = ("/", "/try", "/docs")
VENDORED = {"preact.js", "preact_hooks.js", "htm.js", "uplot.js"}
SCRIPTS = {name: asset.body.decode() for name, asset in ASSETS.items() if name.endswith(".js")}


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=Starlette(routes=pages.routes))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


class Page(HTMLParser):
    """The tags, ids and addresses of a page, and whatever of it would be inline code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"src", "href", "action"}:
                self.addresses.append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, _tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag in {"script", "style"} and data.strip():
            self.inline.append(self._tag)


@pytest.mark.parametrize("path", [*PAGES, "/openapi.json", *(f"/assets/{name}" for name in ASSETS)])
async def test_pages_and_assets_have_a_security_policy_and_revalidate(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 200
    assert answer.content
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["object-src"] == "'none'"

    again = await browser.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == answer.headers["etag"]
    assert (await browser.get(path, headers={"if-none-match": '"other"'})).status_code == 200
    assert (await browser.head(path)).headers["etag"] == answer.headers["etag"]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/docs", "text/html; charset=utf-8"),
        ("/openapi.json", "application/json"),
        ("/assets/client.js", "text/javascript; charset=utf-8"),
        ("/assets/app.css", "text/css; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
    ],
)
async def test_pages_and_assets_have_their_content_types(
    browser: httpx.AsyncClient, path: str, media_type: str
) -> None:
    assert (await browser.get(path)).headers["content-type"] == media_type


@pytest.mark.parametrize(
    "name", ["nothing.js", "index.html", "__init__.py", "package.json", "..%2Fsettings.py", "%2Fetc%2Fpasswd", ""]
)
async def test_assets_other_names_are_404(browser: httpx.AsyncClient, name: str) -> None:
    assert (await browser.get(f"/assets/{name}")).status_code == 404


async def test_pages_accept_only_reads(browser: httpx.AsyncClient) -> None:
    assert (await browser.post("/")).status_code == 405


async def test_openapi_json_is_the_openapi_document(browser: httpx.AsyncClient) -> None:
    assert (await browser.get("/openapi.json")).json() == openapi.document()


@pytest.mark.parametrize("path", PAGES)
async def test_pages_have_no_inline_code_and_no_other_origins(browser: httpx.AsyncClient, path: str) -> None:
    page = Page((await browser.get(path)).text)
    assert page.inline == []
    assert len(page.ids) == len(set(page.ids))
    for address in page.addresses:
        if address.startswith("#"):
            assert address[1:] in page.ids
        else:
            assert (await browser.get(address)).status_code == 200, address


@pytest.mark.parametrize(("page", "script"), [("/", "dashboard.js"), ("/try", "app.js"), ("/docs", "docs.js")])
async def test_scripts_find_the_elements_that_they_use(browser: httpx.AsyncClient, page: str, script: str) -> None:
    ids = Page((await browser.get(page)).text).ids
    for name in _loaded(script):
        asked = set(re.findall(r'\$\("([^"]+)"\)', SCRIPTS[name]))
        assert asked <= set(ids), name


@pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - VENDORED))
def test_scripts_never_create_markup_or_code_from_text(name: str) -> None:
    risky = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc|DOMParser"
    risky += "|dangerouslySetInnerHTML"
    assert re.findall(risky, SCRIPTS[name]) == []


@pytest.mark.parametrize("name", sorted(VENDORED))
def test_vendored_script_names_its_version_and_licence(name: str) -> None:
    named = re.match(r"/\*! (\w+) \d+\.\d+\.\d+, \S+: (licenses/\1\.txt);", SCRIPTS[name])
    assert named is not None
    assert (Path(web.__file__).parent / named[2]).read_text().strip()
    assert "eval(" not in SCRIPTS[name]
    assert "new Function" not in SCRIPTS[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_import_only_each_other(name: str) -> None:
    for source in _imports(name):
        assert source.startswith("./")
        assert source[2:] in SCRIPTS


@pytest.mark.parametrize("name", [name for name in ASSETS if name.endswith(".css")])
def test_styles_load_nothing(name: str) -> None:
    assert not re.search(rb"url\(|@import", ASSETS[name].body)


def test_client_script_needs_no_page() -> None:
    """A program may take the client without the rest."""
    assert set(_loaded("client.js")) <= {path.name for path in (ROOT / "clients" / "js" / "src").iterdir()}


def _imports(name: str) -> list[str]:
    return re.findall(r'^import .* from "([^"]+)";$', SCRIPTS[name], re.MULTILINE)


def _loaded(name: str) -> list[str]:
    """A script and all that it imports."""
    found, left = [name], [name]
    while left:
        names = [source.removeprefix("./") for source in _imports(left.pop())]
        left += [new for new in names if new not in found]
        found += [new for new in names if new not in found]
    return found
