"""Processes that do what a JSON line asks, `{"do": NAME, …}`, and answer with one; both ends of the pipe.

The clients and the peers are such processes, so that their memory and their CPU are not the benchmark's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from eventsync.server.supervision.orphans import die_with_parent
from scripts.bench.clients.exactness import WrongError

_LINE = 1024 * 1024
_PATIENCE = 240.0


async def obey(methods: object) -> None:
    """Call the method that each line of the input names, with its arguments, until the end of the input.

    `{"wrong": TEXT}` instead of an answer says what was not exact, or why it could not be done.
    """
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        asked = orjson.loads(line)
        try:
            answer = await getattr(methods, asked.pop("do"))(**asked)
        except (WrongError, OSError, TimeoutError) as error:
            answer = {"wrong": f"{asked}: {str(error) or type(error).__name__}"}
        except BaseExceptionGroup as group:
            answer = {"wrong": f"{asked}: {group.exceptions[0]}; {len(group.exceptions)} of them"}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


class Process:
    """Asks a process, one thing after the other."""

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
async def asked(*command: str) -> AsyncIterator[Process]:
    """Run a process that is asked."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, limit=_LINE, preexec_fn=die_with_parent
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def load_generator() -> AsyncIterator[Process]:
    """Run the clients of a server."""
    async with asked(sys.executable, "-m", "scripts.bench.clients") as found:
        yield found
