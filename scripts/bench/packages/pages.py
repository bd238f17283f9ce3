"""Pages with a client package in Chromium, bundled as an application would do it, and the sizes of such bundles."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Final

from scripts.bench.clients.exactness import WrongError
from scripts.bench.report import Figures
from support.peers.chromium import Chromium, running_chromium

HERE: Final = Path(__file__).parent.resolve()
PACKAGE: Final = Path("clients/js").resolve()
PEERS: Final = Path(".venv/bench-peers").resolve()

FOR_RXDB: Final = f"--alias:eventsource={HERE / 'event_source.mjs'}"
"""What a bundle of RxDB needs."""

_PATIENCE: Final = 600.0
_ESBUILD: Final = PACKAGE / "node_modules/.bin/esbuild"
_FLAGS: Final = ("--bundle", "--minify", "--format=esm", "--target=es2022", "--platform=browser", "--log-level=error")


def bundled(program: str, directory: Path, *flags: str) -> bytes:
    """Return a program with all that it imports; `directory` has its packages. Raises `WrongError`."""
    if not _ESBUILD.exists():
        raise WrongError("the tools of clients/js are not here: scripts/peers installs them")
    command = [str(_ESBUILD), *_FLAGS, *flags]
    done = subprocess.run(command, cwd=directory, input=program.encode(), capture_output=True, check=False)
    if done.returncode:
        raise WrongError(done.stderr.decode())
    return done.stdout


def size(program: str, directory: Path, *flags: str) -> Figures:
    """Return what an application loads of a program, in kB of 1,000 bytes."""
    made = bundled(program, directory, *flags)
    return {"kB": len(made) / 1000, "gzip kB": len(gzip.compress(made, 9)) / 1000}


@contextmanager
def served(folder: Path, port: int) -> Iterator[str]:
    """Serve a folder's files; give the address."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True, slots=True)
class Page:
    """A page with one of the bench's scripts."""

    browser: Chromium
    session: str

    async def ask(self, method: str, **words: Any) -> dict[str, Any]:
        """Call a method of the page's `bench`. Raises `WrongError` if it names an error."""
        asking = f"bench.{method}({json.dumps(words)})"
        found: dict[str, Any] = await self.browser.value(self.session, asking, _PATIENCE)
        if "error" in found:
            raise WrongError(found["error"])
        return found

    async def rate(self, kind: str, *, patches: int, **words: Any) -> float:
        """Return the small patches that the page applies by second of its CPU."""
        await self.ask("prepare", kind=kind, patches=patches, **words)
        before = await self.browser.cpu()
        await self.ask("run")
        return patches / (await self.browser.cpu() - before)

    async def follow(self, url: str, **words: Any) -> dict[str, Any]:
        """Have the page follow all documents; return its answer, with the `cpu` of the browser in ms."""
        before = await self.browser.cpu()
        found = await self.ask("follow", url=url, **words)
        return found | {"cpu": (await self.browser.cpu() - before) * 1000}

    async def heap(self) -> float:
        """Return the MiB of the page's JavaScript heap, after a collection."""
        return await self.browser.heap(self.session) / 2**20


@asynccontextmanager
async def page(url: str, profile: Path) -> AsyncIterator[Page]:
    """Open a page in a browser of its own, whose profile is kept."""
    async with running_chromium(profile) as browser:
        session = await browser.visit(url)
        await browser.until(session, "globalThis.bench")
        yield Page(browser, session)


def write_pages(folder: Path, *, peers: bool) -> None:
    """Bundle the pages of the benchmark into a folder."""
    scripts: dict[str, tuple[Path, tuple[str, ...]]] = {"page": (PACKAGE, ())}
    if peers:
        scripts["rxdb_page"] = PEERS, (FOR_RXDB,)
    for name, (directory, flags) in scripts.items():
        # Bundled from where its packages are, because that is where they are looked for.
        program = (HERE / f"{name}.mjs").read_text().replace("../../../clients/js", str(PACKAGE))
        program = program.replace('"./apply.mjs"', json.dumps(str(HERE / "apply.mjs")))
        (folder / f"{name}.js").write_bytes(bundled(program, directory, *flags))
        (folder / f"{name}.html").write_text(
            f'<!doctype html><meta charset="utf-8"><script type="module" src="{name}.js"></script>'
        )
