"""A real nginx on loopback, with the configuration that docs/guides/nginx.md shows, or another."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "guides" / "nginx.md"

_PATIENCE: Final = 10.0
_LISTEN: Final = "listen 80;"
_UPSTREAM: Final = "server 127.0.0.1:8000;"
_CACHE: Final = "/var/cache/nginx/eventsync"

_MAIN: Final = """\
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log notice;
events {{ worker_connections 4096; }}
http {{
    log_format cache '$upstream_cache_status $upstream_status $request_uri';
    access_log {directory}/access.log cache;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{block}
}}
"""

DEFAULTS: Final = """\
server {
    listen 80;
    location / {
        proxy_pass http://127.0.0.1:8000;
    }
}
"""
"""A configuration by somebody who knows only `proxy_pass`."""


def missing() -> str | None:
    """Return the reason why there is no nginx here, or None."""
    return None if shutil.which("nginx") else "needs nginx: scripts/peers installs it, as root on Debian"


def documented() -> str:
    """The configuration of docs/guides/nginx.md, as it stands there."""
    (block,) = re.findall(r"^```nginx\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@dataclass(frozen=True, slots=True)
class Request:
    """A line of the access log. `cache` is nginx's word for it: HIT, MISS …, `-` where no cache was asked."""

    cache: str
    upstream: str
    uri: str


@dataclass(frozen=True, slots=True)
class Nginx:
    url: str
    pid: int
    directory: Path

    def requests(self) -> list[Request]:
        """All that have ended, in that order."""
        lines = (self.directory / "access.log").read_text().splitlines()
        return [Request(*line.split(" ", 2)) for line in lines]

    def upstream(self) -> Counter[str]:
        """Return the number of requests that reached the server, by URI."""
        return Counter(request.uri for request in self.requests() if request.upstream != "-")


def _adapted(block: str, server: str, port: int, directory: Path, certificate: Path | None) -> str:
    """The block with this machine's addresses, and nothing else changed."""
    upstream = urlsplit(server).netloc
    if block.count(_LISTEN) != 1:
        raise ValueError(f"a block with one {_LISTEN!r} is adapted, not this: {block}")
    listen = f"listen 127.0.0.1:{port};"
    if certificate is not None:
        listen = f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};"
    block = block.replace(_LISTEN, listen)
    if _UPSTREAM in block:
        block = block.replace(_UPSTREAM, f"server {upstream};")
    else:
        if "proxy_pass http://127.0.0.1:8000;" not in block:
            raise ValueError(f"a block that leads to 127.0.0.1:8000 is adapted, not this: {block}")
        block = block.replace("proxy_pass http://127.0.0.1:8000;", f"proxy_pass http://{upstream};")
    return block.replace(_CACHE, f"{directory}/cache")


@asynccontextmanager
async def running_nginx(
    directory: Path, server: str, block: str, *, certificate: Path | None = None
) -> AsyncIterator[Nginx]:
    """nginx before the server at that URL while the block runs; `directory` is its own, and empty.

    `block` goes into `http`, with `listen 80`, `127.0.0.1:8000` and the cache's path replaced by what is free here.
    With a `certificate`, a file that also has its key, clients come by TLS.
    """
    port = mongod.free_port()
    file = directory / "nginx.conf"
    # Its workers would else be somebody who can't enter the directory.
    user = "user root;" if os.geteuid() == 0 else ""
    adapted = _adapted(block, server, port, directory, certificate)
    file.write_text(_MAIN.format(user=user, directory=directory, block=adapted))
    words = ["nginx", "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log"), "-g", "daemon off;"]
    process = subprocess.Popen(words, preexec_fn=die_with_parent)  # noqa: ASYNC220, PLW1509 - starts at once, alone
    try:
        await _listening(process, port, directory)
        yield Nginx(f"http{'s' if certificate else ''}://127.0.0.1:{port}", process.pid, directory)
    finally:
        # Not gracefully: that would wait for the streams.
        process.terminate()
        await asyncio.to_thread(process.wait, _PATIENCE)


async def _listening(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    async with asyncio.timeout(_PATIENCE):
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"nginx did not start: {(directory / 'error.log').read_text()}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.02)  # the event is in another process
                continue
            writer.close()
            await writer.wait_closed()
            return
