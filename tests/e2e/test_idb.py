"""The store of the JavaScript client in Chromium's IndexedDB, whose processes are killed while it stores."""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest

from support.peers import chromium
from support.waiting import patience

PACKAGE = Path(__file__).parents[2] / "clients" / "js"
PAGE = Path(__file__).with_name("idb_page.mjs")
KILLS = int(os.environ.get("IDB_KILLS", "3"))
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")

pytestmark = [
    pytest.mark.skipif(chromium.missing() is not None, reason=chromium.missing() or ""),
    pytest.mark.skipif(
        not (PACKAGE / "node_modules/esbuild").is_dir(), reason="needs npm packages: scripts/peers installs them"
    ),
]


@contextmanager
def served(script: bytes) -> Iterator[tuple[str, queue.Queue[Any]]]:
    """Serve a page with this script. Yields its address, and what it says."""
    said: queue.Queue[Any] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_script = self.path == "/page.js"
            self._answer(script if is_script else b"<script type=module src=/page.js></script>", is_script=is_script)

        def do_POST(self) -> None:
            said.put(orjson.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self._answer(b"", is_script=False)

        def _answer(self, body: bytes, *, is_script: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", said
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def browsing(url: str, profile: Path) -> Iterator[None]:
    """Run a browser, and kill all of its processes at the end."""
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", url]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_killed_browsers_leave_rows_and_position_together(tmp_path: Path) -> None:
    command = ["node_modules/.bin/esbuild", str(PAGE), "--bundle", "--format=esm", "--target=es2022"]
    script = subprocess.run(command, cwd=PACKAGE, capture_output=True, timeout=patience(60), check=True).stdout
    chance = random.Random(1)
    stored = 0
    with served(script) as (url, said):
        for _ in range(KILLS + 1):
            while not said.empty():
                stored = max(stored, said.get().get("stored", 0))
            with browsing(url, tmp_path / "profile"):
                found = said.get(timeout=patience(60))
                while "found" not in found:  # said by the browser before
                    stored = max(stored, found["stored"])
                    found = said.get(timeout=patience(60))
                assert found["isExact"]
                assert found["found"] >= stored
                for _ in range(chance.randint(1, 40)):
                    stored = max(stored, said.get(timeout=patience(60))["stored"])
    assert stored > KILLS
