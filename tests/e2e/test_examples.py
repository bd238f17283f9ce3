"""The examples, started by the commands of their pages and used as a user does, also while their server restarts."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from support.environment import environment_of
from support.peers import chromium
from support.peers.chromium import Chromium, running_chromium
from support.systems import Processes, tracked
from support.waiting import eventually, patience, within

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CLIENT = ROOT / "clients" / "js"
CARDS = "/v1/collections/cards/documents"
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
HERE = "http://127.0.0.1:8000"

needs_chromium = pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or "")
needs_react = pytest.mark.skipif(
    not (CLIENT / "node_modules" / "react-dom").is_dir(), reason="needs npm packages: scripts/peers installs them"
)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
needs_jq = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")


@pytest.fixture
def origin() -> str:
    """The origin of the board's page."""
    return f"http://127.0.0.1:{mongod.free_port()}"


@pytest.fixture
def settings(settings: Settings, origin: str) -> Settings:
    return settings.model_copy(update={"collections": ("cards",), "allowed_origins": (origin,)})


@pytest.fixture
async def board(processes: Processes) -> AsyncIterator[httpx.AsyncClient]:
    """The API of a server whose process may be killed."""
    processes.start("worker", "serve")
    await tracked(processes.url, ("cards",))
    async with httpx.AsyncClient(base_url=processes.url, timeout=patience(20)) as client:
        yield client


def command(name: str, program: str, ports: dict[int, str] | None = None) -> list[str]:
    """Return the command of an example's page that runs this program, with other ports in place of some."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (EXAMPLES / name / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (line,) = [line for block in blocks for line in block.splitlines() if line.split()[0].endswith(program)]
    for port, other in (ports or {}).items():
        line = re.sub(rf"\b{port}\b", other, line)
    return [word.replace(".venv/bin", str(Path(sys.executable).parent)) for word in shlex.split(line)]


@asynccontextmanager
async def running(
    words: list[str], environment: Mapping[str, str] | None = None, directory: Path = ROOT
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command of a page; kill it at the end, with its children."""
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        stdin=asyncio.subprocess.PIPE,  # open, as in a terminal: esbuild ends with it
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent,
        start_new_session=True,
        limit=2**24,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def is_served(http: httpx.AsyncClient, path: str) -> bool:
    with suppress(httpx.TransportError):
        return (await http.get(path)).status_code == 200
    return False


async def put(board: httpx.AsyncClient, key: str, column: str, rank: int = 0) -> None:
    card = {"title": f"Card {key}", "column": column, "rank": rank}
    (await board.put(f"{CARDS}/{key}", json=card)).raise_for_status()


async def move(board: httpx.AsyncClient, key: str, column: str) -> None:
    (await board.patch(f"{CARDS}/{key}", json={"column": column}, headers=MERGE_PATCH)).raise_for_status()


# --- their size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "comment", "most"),
    [
        ("kanban/kanban.js", "//", 60),
        ("react/app.jsx", "//", 60),
        ("node/replica.mjs", "//", 15),
        ("replica/replica.py", '"""', 20),
    ],
)
def test_it_is_short(name: str, comment: str, most: int) -> None:
    lines = [line.strip() for line in (EXAMPLES / name).read_text().splitlines()]
    assert 5 < len([line for line in lines if line and not line.startswith((comment, "/**"))]) <= most


def test_each_example_is_listed_and_has_a_command() -> None:
    listed = set(re.findall(r"\]\((\w+)/README\.md\)", (EXAMPLES / "README.md").read_text()))
    assert listed == {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert all("```sh\n" in (EXAMPLES / name / "README.md").read_text() for name in listed)


# --- kanban -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(processes: Processes, origin: str, tmp_path: Path) -> Iterator[str]:
    """The board on a web server of another origin. Gives its address."""
    folder = tmp_path / "page"
    shutil.copytree(EXAMPLES / "kanban", folder)
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(HERE, processes.url))

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(origin.rpartition(":")[2])), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield origin
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


TITLES = "[...document.querySelectorAll('#{} li')].map((li) => li.firstChild.data).join()"
STATUS = "document.querySelector('output').value"


def titles(column: str) -> str:
    """Return an expression for the titles of a column's cards, in order."""
    return TITLES.format(column)


def drag(title: str, column: str, before: str | None = None) -> str:
    """Return an expression that drags a card to the end of a column, or onto another card."""
    onto = "list" if before is None else f"find({json.dumps(before)})"
    return f"""(() => {{
      const find = (title) => [...document.querySelectorAll("li")].find((li) => li.firstChild.data === title);
      const [dataTransfer, bubbles, list] = [new DataTransfer(), true, document.getElementById("{column}")];
      find({json.dumps(title)}).dispatchEvent(new DragEvent("dragstart", {{ dataTransfer, bubbles }}));
      {onto}.dispatchEvent(new DragEvent("drop", {{ dataTransfer, bubbles, cancelable: true }}));
      return true;
    }})()"""


async def check_on_a_phone(browser: Chromium, session: str) -> None:
    """Nothing to scroll to the right, a column below another, and buttons that a finger hits."""
    await browser.look_like(session, width=375, height=800)
    await browser.until(session, "innerWidth === 375 && document.documentElement.scrollWidth <= 375")
    boxes = "[...document.querySelectorAll('{}')].map((box) => box.getBoundingClientRect())"
    await browser.until(session, f"{boxes.format('section')}.every(({{ width }}) => width > 300)")
    await browser.until(
        session, f"{boxes.format('li button')}.every(({{ width, height }}) => width > 36 && height > 36)"
    )
    await browser.look_like(session)


@pytest.mark.slow
@needs_chromium
async def test_two_pages_of_the_board_see_each_others_moves_across_a_restart(
    page: str, board: httpx.AsyncClient, processes: Processes, tmp_path: Path
) -> None:
    for rank, key in enumerate("abc"):
        await put(board, key, "todo", rank)
    async with running_chromium(tmp_path / "profile") as browser:
        one, other = await browser.visit(page), await browser.visit(page)
        for session in (one, other):
            await browser.until(session, f"{titles('todo')} === 'Card a,Card b,Card c' && {STATUS} === 'live'")
        await browser.until(one, f"{drag('Card c', 'todo', before='Card b')}")
        await browser.until(other, f"{drag('Card a', 'doing')}")
        for session in (one, other):
            await browser.until(session, f"{titles('todo')} === 'Card c,Card b' && {titles('doing')} === 'Card a'")
        await check_on_a_phone(browser, one)

        processes.kill("serve")
        await browser.until(one, f"{STATUS} === 'waiting'")
        # The move is shown, and so is a new card, though nobody answers.
        await browser.until(one, drag("Card b", "done"))
        await browser.until(one, "(document.forms[0].title.value = 'Offline', document.forms[0].requestSubmit(), true)")
        shown = f"{titles('done')} === 'Card b' && {titles('todo')} === 'Card c,Offline'"
        await browser.until(one, f"{shown} && document.querySelectorAll('li.pending').length === 2")
        await browser.until(one, f"{STATUS}.endsWith(', 2 to send')")
        await browser.until(other, f"{titles('todo')} === 'Card c,Card b'")

        processes.start("serve")
        for session in (one, other):
            await browser.until(session, f"{shown} && {STATUS} === 'live' && !document.querySelector('li.pending')")
        await browser.until(other, "(document.querySelector('#done button').click(), true)")
        for session in (one, other):
            await browser.until(session, f"{titles('done')} === ''")
    stored = (await board.get(CARDS)).json()["documents"]
    found = sorted((row["doc"]["title"], row["doc"]["column"]) for row in stored)
    assert found == [("Card a", "doing"), ("Card c", "todo"), ("Offline", "todo")]


def test_the_command_of_the_board_serves_its_folder() -> None:
    words = command("kanban", "python3")
    assert words[:3] == ["python3", "-m", "http.server"]
    assert (ROOT / words[words.index("--directory") + 1] / "index.html").is_file()


# --- react ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def react_page(processes: Processes, origin: str, tmp_path: Path) -> AsyncIterator[str]:
    """The board in React, built and served by its own command, with the packages of clients/js. Gives its address."""
    folder = tmp_path / "examples" / "react"
    shutil.copytree(EXAMPLES / "react", folder, ignore=shutil.ignore_patterns("node_modules", "app.js", "*-lock.json"))
    for file in folder.iterdir():
        file.write_text(file.read_text().replace(HERE, processes.url).replace("127.0.0.1:8080", origin[7:]))
    shutil.copytree(EXAMPLES / "kanban", folder.parent / "kanban")
    modules = folder / "node_modules"
    modules.mkdir()
    for installed in (CLIENT / "node_modules").iterdir():
        (modules / installed.name).symlink_to(installed)
    shutil.copytree(CLIENT, modules / "eventsync", ignore=shutil.ignore_patterns("node_modules", "test"))
    async with (
        running(["npm", "start", "--prefix", str(folder)]),
        httpx.AsyncClient(base_url=origin, timeout=patience(20)) as http,
    ):
        await eventually(lambda: is_served(http, "/react/app.js"), 60)
        yield f"{origin}/react/"


@pytest.mark.slow
@needs_chromium
@needs_react
async def test_the_board_in_react_has_its_cards_and_moves_offline_in_a_new_tab_too(
    react_page: str, board: httpx.AsyncClient, processes: Processes, tmp_path: Path
) -> None:
    for rank, key in enumerate("abc"):
        await put(board, key, "todo", rank)
    async with running_chromium(tmp_path / "profile") as browser:
        tab = await browser.visit(react_page)
        await browser.until(tab, f"{titles('todo')} === 'Card a,Card b,Card c' && {STATUS} === 'live'")
        await browser.until(tab, drag("Card c", "todo", before="Card b"))
        await browser.until(tab, f"{titles('todo')} === 'Card a,Card c,Card b' && {STATUS} === 'live'")
        await check_on_a_phone(browser, tab)

        processes.kill("serve")
        await browser.until(tab, f"{STATUS} === 'waiting'")
        await browser.until(tab, drag("Card b", "doing"))
        await browser.until(tab, "(document.forms[0].title.value = 'Offline', document.forms[0].requestSubmit(), true)")
        shown = f"{titles('doing')} === 'Card b' && {titles('todo')} === 'Card a,Card c,Offline'"
        await browser.until(tab, f"{shown} && {STATUS}.endsWith(', 2 to send')")
        await browser.close_page(tab)
        tab = await browser.visit(react_page)
        # An answered move is sent once more if the server was killed before its event had come.
        await browser.until(tab, f"{shown} && /^waiting, [23] to send$/.test({STATUS})")

        processes.start("serve")
        await browser.until(tab, f"{shown} && {STATUS} === 'live'")
        await browser.until(tab, "(document.querySelector('#doing button').click(), true)")
        await browser.until(tab, f"{titles('doing')} === '' && {STATUS} === 'live'")
    stored = (await board.get(CARDS)).json()["documents"]
    assert sorted(row["doc"]["title"] for row in stored) == ["Card a", "Card c", "Offline"]


# --- node -------------------------------------------------------------------------------------------------------------


@needs_node
async def test_the_node_service_answers_from_its_copy(board: httpx.AsyncClient, processes: Processes) -> None:
    port = str(mongod.free_port())
    await put(board, "a", "todo")
    words = command("node", "node", {8000: str(processes.port), 8002: port})
    async with running(words), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=patience(20)) as http:

        async def answers(column: str, *wanted: str) -> bool:
            with suppress(httpx.TransportError):
                answer = await http.get(f"/{column}")
                return answer.status_code == 200 and [card["_id"] for card in answer.json()] == [*wanted]
            return False

        await eventually(lambda: answers("todo", "a"), 30)
        await move(board, "a", "done")
        await eventually(lambda: answers("done", "a"))
        processes.kill("serve")
        assert await answers("done", "a")
        processes.start("serve")
        await tracked(processes.url, ("cards",))
        await put(board, "b", "done")
        await eventually(lambda: answers("done", "a", "b"), 60)
        assert await answers("todo")


# --- shell ------------------------------------------------------------------------------------------------------------


async def lines_of(process: asyncio.subprocess.Process, count: int) -> list[Any]:
    assert process.stdout is not None
    async with within(30):
        return [json.loads(await process.stdout.readline()) for _ in range(count)]


@needs_jq
async def test_the_script_continues_where_it_was(
    board: httpx.AsyncClient, processes: Processes, tmp_path: Path
) -> None:
    (program, *words) = command("shell", "follow.sh")
    words, file = [str(ROOT / program), *words], tmp_path / "cards.position"
    await put(board, "a", "todo")

    async def until_it_stands(at: int) -> None:
        await eventually(lambda: file.is_file() and file.read_text().endswith(f":{at}\n"))

    async with running(words, {"EVENTSYNC_URL": processes.url}, tmp_path) as process:
        # The newest snapshot may be older than the card.
        assert (await lines_of(process, 1))[0][:2] in (["document", "a"], ["create", "a"])
        await move(board, "a", "doing")
        patch = [{"op": "replace", "path": "/column", "value": "doing"}]
        assert await lines_of(process, 1) == [["update", "a", patch]]
        await until_it_stands(2)
    await put(board, "b", "todo")
    async with running(words, {"EVENTSYNC_URL": processes.url}, tmp_path) as process:
        assert [line[:2] for line in await lines_of(process, 1)] == [["create", "b"]]
        processes.kill("serve")
        processes.start("serve")
        await tracked(processes.url, ("cards",))
        (await board.delete(f"{CARDS}/a")).raise_for_status()
        assert await lines_of(process, 1) == [["delete", "a", None]]
        await until_it_stands(4)
    # Of another log: it begins with a snapshot again.
    file.write_text("aaaaaaaa:3\n")
    async with running(words, {"EVENTSYNC_URL": processes.url}, tmp_path) as process:
        while (await lines_of(process, 1))[0][:2] not in (["document", "b"], ["create", "b"]):
            continue
        await until_it_stands(4)


# --- fastapi ----------------------------------------------------------------------------------------------------------


async def test_the_application_writes_and_serves(
    board: httpx.AsyncClient, settings: Settings, processes: Processes
) -> None:
    port = str(mongod.free_port())
    host = f"http://127.0.0.1:{port}"
    words = command("fastapi", "uvicorn", {8001: port})
    async with (
        running(words, environment_of(settings, int(port))),
        httpx.AsyncClient(base_url=host, timeout=patience(20)) as http,
    ):
        await eventually(lambda: is_served(http, "/sync/readyz"), 30)
        answer = await http.post("/cards", json={"title": "From a program", "column": "todo"})
        assert (answer.status_code, answer.json()["version"]) == (201, 1)
        assert (await http.post("/cards", json={"title": "", "column": "todo"})).status_code == 422
        card = (await http.get(f"/sync{CARDS}/{answer.json()['id']}")).json()["doc"]
        assert (card["title"], card["column"]) == ("From a program", "todo")
        # Clients of any server get it, with its author.
        path = f"{CARDS}/{answer.json()['id']}/events"

        async def made() -> list[Any]:
            return [(event["op"], event["by"]) for event in (await board.get(path)).json()["events"]]

        assert await eventually(made, 20) == [("create", "fastapi")]
