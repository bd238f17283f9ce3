"""Node.js with the packages `ws` and `eventsource`."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from eventsync.server.supervision.orphans import die_with_parent
from support.peers.javascript import Links

PACKAGES: Final = Path(sys.prefix) / "peers"
"""Where `scripts/peers` installs them."""

_MAIN: Final = Path(__file__).with_name("node.mjs")
_PIPE: Final = asyncio.subprocess.PIPE


def missing() -> str | None:
    """Why there are no clients of this kind here."""
    if shutil.which("node") is None:
        return "needs Node.js"
    return None if (PACKAGES / "node_modules/ws").is_dir() else "needs npm packages: scripts/peers installs them"


class Node:
    """One process for any number of connections."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.links = Links()
        self._process = process

    async def do(self, url: str, command: str, *arguments: Any) -> None:  # noqa: ARG002 - one for all servers
        assert self._process.stdin is not None
        self._process.stdin.write(orjson.dumps([command, *arguments]) + b"\n")

    async def read(self) -> None:
        """Hand on what the process says, until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self.links.said(line)
        self.links.over("Node.js has ended")


@asynccontextmanager
async def running_node() -> AsyncIterator[Node]:
    process = await asyncio.create_subprocess_exec(
        "node", str(_MAIN), str(PACKAGES), stdin=_PIPE, stdout=_PIPE, limit=2**24, preexec_fn=die_with_parent
    )
    node = Node(process)
    reading = asyncio.create_task(node.read(), name="read from Node.js")
    try:
        yield node
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await reading
        await process.wait()
