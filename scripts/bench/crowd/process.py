"""The crowd as a process of its own, so that its memory and its CPU are not the benchmark's or the server's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from eventsync.server.supervision.orphans import die_with_parent
from scripts.bench.crowd.messages import WrongError

_LINE = 1024 * 1024
_PATIENCE = 240.0


class CrowdProcess:
    """Asks a process, one thing after the other: the crowd, or another that answers a JSON line with one."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Have it do a thing, and wait for the answer. Raises `WrongError`, also where there is none."""
        if self._process.stdin is None or self._process.stdout is None:
            raise WrongError("the process has no pipes")
        self._process.stdin.write(orjson.dumps({"do": what} | arguments) + b"\n")
        async with asyncio.timeout(_PATIENCE):
            line = await self._process.stdout.readline()
        if not line:
            raise WrongError(f"the process has died while it was asked to {what}")
        answer: dict[str, Any] = orjson.loads(line)
        if "wrong" in answer:
            raise WrongError(answer["wrong"])
        return answer


@asynccontextmanager
async def asked(*command: str) -> AsyncIterator[CrowdProcess]:
    """A process that is asked, while the block runs."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, limit=_LINE, preexec_fn=die_with_parent
    )
    try:
        yield CrowdProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def crowd() -> AsyncIterator[CrowdProcess]:
    """A crowd, while the block runs."""
    async with asked(sys.executable, "-m", "scripts.bench.crowd") as found:
        yield found
