"""Random WebSocket frames, and random requests by the OpenAPI document, never fail the server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.logs_by_hand import begun
from support.raw_websocket import raw_websocket
from support.systems import followed, running_server, running_system
from support.waiting import patience, within

MESSAGES: list[dict[str, Any]] = [
    {"type": "hello", "shapes": ["docs", "docs/1"], "vector": {"docs": "aaaaaaaa:1"}},
    {"type": "subscribe", "shape": "docs", "position": "aaaaaaaa:1"},
    {"type": "unsubscribe", "shape": "docs"},
    {"type": "ack", "vector": {"docs": "aaaaaaaa:1"}},
    {"type": "ping"},
]
SEED, COUNT = 1, 300
OUTPUT = "output.txt"
CONFIG = """
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "431", "5xx"]

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""
"""The statuses that refuse an invalid request: schemathesis' own, and the two of a request that is too long to be read,
413 and 431. Invalid values that are longer than a head may be are refused by the bound of heads. 503 is answered for a
collection that an earlier request has asked to track, until it is active."""
HOOKS = """
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(_context, value):
    return str(value).encode(errors="replace")

@schemathesis.hook
def filter_case(_context, case):
    return case.media_type != "application/x-ndjson" or isinstance(case.body, str)
"""
"""schemathesis sends the strings of an NDJSON body as they are. All bytes are a string: other types would be valid."""
CODES = {None, 1002, 1003, 1007, 1009, 1005, 1000, 4400, 4408, 4413, 4429, 1012}


def frames(chance: random.Random) -> bytes:
    """Some frames, most of them nearly right."""
    sent = b""
    for _ in range(chance.randint(1, 6)):
        payload = bytearray(json.dumps(chance.choice(MESSAGES)).encode())
        for _ in range(chance.choice([0, 0, 1, 5])):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        first = chance.choice([0x81] * 6 + [0x01, 0x80, 0x82, 0x88, 0x89, 0x8A, 0xC1, chance.randrange(256)])
        length = chance.choice([len(payload)] * 8 + [0, len(payload) + 1, len(payload) - 1])
        head = bytes([first, chance.choice([0x80] * 8 + [0]) | min(length, 125)])
        mask = chance.randbytes(4)
        sent += head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload[:length]))
    return sent


async def test_random_frames_never_fail_the_server(
    stores: Stores, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    await begun(stores, "docs")
    chance = random.Random(SEED)
    settings = settings.model_copy(update={"hello_timeout": 0.2})
    met = set()
    with caplog.at_level(logging.ERROR):
        async with running_server(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as client:
            await followed(url)
            for _ in range(COUNT):
                async with raw_websocket(url) as opened:
                    await opened.send(frames(chance))
                    if chance.random() < 0.5:
                        opened.writer.write_eof()
                        met.add(await opened.closed())
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).json()["connections"] == 0
    assert met <= CODES
    assert {1002, 4400} <= met, "it came that far"
    assert not caplog.records


@pytest.mark.slow
@pytest.mark.parametrize("phases", ["examples,coverage", "fuzzing"])
async def test_random_requests_never_fail_the_server(settings: Settings, tmp_path: Path, phases: str) -> None:
    """By schemathesis. What it may not know, which valid requests contradict each other, is not checked."""
    changed: dict[str, Any] = {"collections": ("theaters",), "poll_wait": 0.05, "body_timeout": 2.0}
    async with running_system(settings.model_copy(update=changed)) as url:
        options = {
            "phases": phases,
            "seed": "1",
            "warnings": "off",
            # Without rules, no credential is looked at.
            "exclude-checks": "positive_data_acceptance,ignored_auth",
            # Streams of their own.
            "exclude-path-regex": "^/v1/sync(/sse)?$",
            "max-time": "15",
            "max-examples": "20",
            "request-timeout": str(round(patience(20))),
            "generation-database": "none",
        }
        (tmp_path / "schemathesis.toml").write_text('hooks = "lines.py"\n' + CONFIG)
        (tmp_path / "lines.py").write_text(HOOKS)
        words = ["run", f"{url}/openapi.json", "--no-color", *(f"--{name}={value}" for name, value in options.items())]
        code = await ended([sys.executable, "-m", "schemathesis.cli", *words], tmp_path)
    assert code == 0, (tmp_path / OUTPUT).read_text(errors="replace")


async def ended(command: list[str], directory: Path) -> int:
    """Run a command in a directory, and return its exit code. If it hangs, its output ends with its stack."""
    with (directory / OUTPUT).open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            env=os.environ | {"PYTHONFAULTHANDLER": "1"},
        )
        with suppress(TimeoutError):
            async with within(30):
                return await process.wait()
        process.send_signal(signal.SIGABRT)
        return await process.wait()
