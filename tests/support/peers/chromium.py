"""Chromium, headless, by its DevTools protocol: a page of each server's origin holds the clients of that server.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from eventsync.server.supervision.orphans import die_with_parent
from support.peers.javascript import DRIVER, Links
from support.peers.python import connect
from support.waiting import within

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    # Those of tests, which nobody has signed.
    "--ignore-certificate-errors",
    # It is to talk to nobody but the test.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
_LISTENING: Final = re.compile(rb"DevTools listening on (ws://\S+)")
_BLANK: Final = "about:blank"
_PATIENCE: Final = 30.0


def missing() -> str | None:
    """Return the reason why there is no Chromium here, or None."""
    return None if shutil.which("chromium") else "needs Chromium: scripts/peers installs it, as root on Debian"


class Chromium:
    """One browser; a page for each origin, because a page of another origin is refused."""

    def __init__(self, connection: ClientConnection) -> None:
        self.links = Links()
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._loaded: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._crashed: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._pages: dict[str, str] = {}
        self.complaints: list[str] = []
        """Errors on the consoles of visited pages: of scripts, of loading, and violations of their policies."""

    async def do(self, url: str, command: str, *arguments: Any) -> None:
        if url not in self._pages:
            self._pages[url] = await self._page(url)
        words = ",".join(orjson.dumps(argument).decode() for argument in arguments)
        await self._evaluate(self._pages[url], f"driver.{command}({words})")

    async def visit(self, url: str) -> str:
        """Open a page and wait until it has loaded. Returns its session."""
        target = (await self._ask("Target.createTarget", url=_BLANK))["targetId"]
        session: str = (await self._ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        await self._ask("Runtime.enable", session)
        await self._ask("Runtime.addBinding", session, name="tell")
        await self._ask("Log.enable", session)
        await self._ask("Page.enable", session)
        await self._ask("Page.setLifecycleEventsEnabled", session, enabled=True)
        await self.navigate(session, url)
        return session

    async def navigate(self, session: str, url: str) -> None:
        """Have a page show another address, and wait until that has loaded."""
        opened = await self._ask("Page.navigate", session, url=url)
        assert "errorText" not in opened
        async with within(_PATIENCE):  # By its loader: the blank page may be loaded only now.
            await self._loaded[opened["loaderId"]].wait()

    async def until(self, session: str, condition: str) -> None:
        """Wait until a JavaScript expression is true in the page, or in the one that it is about to show."""
        look = f"const look = () => ({condition}) ? done() : setTimeout(look, 50); look();"
        polled = f"new Promise((done) => {{ {look} }})"
        try:
            await self._evaluate(session, polled)
        except AssertionError as error:
            if "navigated" not in str(error):
                raise
            await self._evaluate(session, polled)
        except TimeoutError:
            page = await self.value(session, "document.body.innerText + document.querySelector('output')?.value")
            raise AssertionError(f"not true: {condition} of {page!r}") from None

    async def value(self, session: str, expression: str, seconds: float = _PATIENCE) -> Any:
        """Return what a JavaScript expression, or its promise, comes to in the page, as JSON has it."""
        words = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        async with within(seconds):
            found = await (await self._send("Runtime.evaluate", session, **words))
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def heap(self, session: str) -> int:
        """Return the bytes of the page's JavaScript heap that are in use, after a collection."""
        await self._ask("HeapProfiler.collectGarbage", session)
        return int((await self._ask("Runtime.getHeapUsage", session))["usedSize"])

    async def cpu(self) -> float:
        """Return the seconds of CPU that all processes of the browser have used."""
        processes = (await self._ask("SystemInfo.getProcessInfo"))["processInfo"]
        return sum(float(found["cpuTime"]) for found in processes)

    async def run(self, session: str, body: str) -> Any:
        """Run the body of an async function in the page; return what it returns, which is JSON."""
        return await self.value(session, f"(async () => {{ {body} }})()")

    async def start(self, session: str, body: str) -> None:
        """Start the body of an async function in the page, once what runs now has ended."""
        await self._evaluate(session, f"setTimeout(async () => {{ {body} }})", awaitPromise=False)

    async def look_like(self, session: str, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Have the page shown in a colour scheme, and in a window of this size."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self._ask("Emulation.setEmulatedMedia", session, features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self._ask("Emulation.setDeviceMetricsOverride", session, **size)

    async def keep_visible(self, session: str) -> None:
        """Have the page be visible whichever page is in front, as if it were alone in a browser of its own."""
        await self._ask("Emulation.setFocusEmulationEnabled", session, enabled=True)

    async def press(self, session: str, key: str, text: str = "") -> None:
        """Press and release a key, such as `Tab`, or one that types `text`."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27}
        known = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        typed = {"text": text or "\r"} if text or key == "Enter" else {}
        await self._ask("Input.dispatchKeyEvent", session, type="keyDown", **known, **typed)
        await self._ask("Input.dispatchKeyEvent", session, type="keyUp", **known)

    async def picture(self, session: str) -> bytes:
        """Return a picture of the page, as PNG."""
        return base64.b64decode((await self._ask("Page.captureScreenshot", session))["data"])

    async def close_page(self, session: str) -> None:
        """Close the page, as its user does."""
        await self._ask("Page.close", session)

    async def crash(self, session: str) -> None:
        """Kill the page's process, and wait until that is known."""
        await self._ask("Inspector.enable", session)
        await self._send("Page.crash", session)
        async with within(_PATIENCE):
            await self._crashed[session].wait()

    async def freeze(self, session: str, *, frozen: bool) -> None:
        """Stop the tasks of the page, as the browser does in the background, or let them continue."""
        await self._ask("Page.setWebLifecycleState", session, state="frozen" if frozen else "active")

    async def _page(self, url: str) -> str:
        """A page of the server's, with the driver in it. Returns the session."""
        # Any page that the server has; this one carries no policy and loads nothing.
        session = await self.visit(f"{url}/healthz")
        await self._evaluate(session, f"driver = ({DRIVER.read_text()})((what) => tell(JSON.stringify(what)), window)")
        return session

    async def _evaluate(self, session: str, expression: str, **how: Any) -> Any:
        found = await self._ask("Runtime.evaluate", session, **({"expression": expression, "awaitPromise": True} | how))
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found

    async def _ask(self, method: str, session: str | None = None, **params: Any) -> Any:
        answer = await self._send(method, session, **params)
        async with within(_PATIENCE):
            return await answer

    async def _send(self, method: str, session: str | None = None, **params: Any) -> asyncio.Future[Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        request = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        await self._connection.send(orjson.dumps(request), text=True)
        return answer

    async def read(self) -> None:
        """Hand on what the browser says, until it ends."""
        with suppress(ConnectionClosed):  # it does not say goodbye
            async for text in self._connection:
                self._take(orjson.loads(text))
        self.links.over("Chromium has ended")

    def _take(self, said: dict[str, Any]) -> None:
        if "id" in said:
            answer = self._answers.pop(said["id"])
            if answer.done():
                return  # nobody waits any more
            if "error" in said:
                answer.set_exception(AssertionError(said["error"]))
            else:
                answer.set_result(said["result"])
        elif said["method"] == "Runtime.bindingCalled":
            self.links.said(said["params"]["payload"])
        elif said["method"] == "Inspector.targetCrashed":
            self._crashed[said["sessionId"]].set()
        elif said["method"] == "Runtime.exceptionThrown":
            self.complaints.append(orjson.dumps(said["params"]["exceptionDetails"]).decode())
        elif said["method"] == "Runtime.consoleAPICalled" and said["params"]["type"] in {"error", "warning"}:
            self.complaints.append(orjson.dumps(said["params"]["args"]).decode())
        elif said["method"] == "Log.entryAdded" and said["params"]["entry"]["level"] == "error":
            self.complaints.append(orjson.dumps(said["params"]["entry"]).decode())
        elif said["method"] == "Page.lifecycleEvent" and said["params"]["name"] == "load":
            self._loaded[said["params"]["loaderId"]].set()

    async def close(self) -> None:
        await self._ask("Browser.close")


@asynccontextmanager
async def running_chromium(directory: Path) -> AsyncIterator[Chromium]:
    """`directory` becomes its profile."""
    process = await asyncio.create_subprocess_exec(
        "chromium",
        *_FLAGS,
        f"--user-data-dir={directory}",
        _BLANK,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent,
    )
    draining = None
    try:
        address = await _address(process)
        # Its pipe must never be full.
        draining = asyncio.create_task(_drain(process), name="what Chromium logs")
        async with connect(address, max_size=None, ping_interval=None) as connection:
            browser = Chromium(connection)
            reading = asyncio.create_task(browser.read(), name="read from Chromium")
            try:
                yield browser
            finally:
                await browser.close()
                await reading
    finally:
        if draining is None and process.returncode is None:
            process.kill()
        if draining is not None:
            await draining
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = b""
    async with within(_PATIENCE):
        while line := await process.stderr.readline():
            said += line
            if found := _LISTENING.search(line):
                return found[1].decode()
    raise AssertionError(f"Chromium did not start: {said.decode(errors='replace')}")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while await process.stderr.read(65536):
        continue
