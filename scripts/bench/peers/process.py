"""A peer as a process of its own, with a port of its own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventsync.dev import mongod
from scripts.bench.crowd.process import CrowdProcess, asked

_MODULES = Path(".venv/peers").resolve()
_NODE = Path(__file__).with_name("node.mjs")


def has_node() -> bool:
    """Return True if Node and `ws` are installed; `scripts/peers` installs `ws`."""
    return shutil.which("node") is not None and (_MODULES / "node_modules/ws").is_dir()


@asynccontextmanager
async def peer(name: str, *words: str) -> AsyncIterator[tuple[CrowdProcess, int]]:
    """A fresh one while the block runs, and its port: `node`, or a module of this package, which is given `words`."""
    port = mongod.free_port()
    if name == "node":
        command = ["node", str(_NODE), str(port), str(_MODULES)]
    else:
        command = [sys.executable, "-m", f"scripts.bench.peers.{name}", str(port), *words]
    async with asked(*command) as process:
        yield process, port
