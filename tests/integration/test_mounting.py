"""`eventsync.asgi()` below a path of a Starlette and of a FastAPI application, under uvicorn as it comes."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from httpx_sse import EventSource
from websockets.exceptions import ConnectionClosed, InvalidStatus

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from support.environment import environment_of
from support.peers.python import connect
from support.systems import running_worker, tracked
from support.waiting import patience, within

ROOT = Path(__file__).parents[2]
SHAPE = "things"
ODD_ID = "a/b%c?d"
HOSTS = [("starlette", "/"), ("starlette", "/sync"), ("fastapi", "/"), ("fastapi", "/sync"), ("alone", "/")]


@dataclass(frozen=True)
class Host:
    origin: str
    mount: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def url(self) -> str:
        return self.origin + self.mount

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        async with within(20):
            return await self.process.wait()


@asynccontextmanager
async def running_host(kind: str, mount: str, settings: Settings, directory: Path) -> AsyncIterator[Host]:
    """Run uvicorn's command line with a host of `support.hosts`, while the block runs."""
    port, log = mongod.free_port(), directory / "host.log"
    environment = environment_of(settings, port) | {"PYTHONPATH": str(ROOT / "tests"), "HOST_MOUNT": mount}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "--factory", f"support.hosts:{kind}", "--port", str(port)),
            env=environment, cwd=directory, stdout=output, stderr=output, preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        host = Host(f"http://127.0.0.1:{port}", mount.rstrip("/"), process, log)
        await _answers(host)
        yield host
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _answers(host: Host) -> None:
    async with within(20), httpx.AsyncClient(base_url=host.origin, timeout=patience(20)) as client:
        while True:
            assert host.process.returncode is None, host.log.read_text()
            with suppress(httpx.TransportError):
                await client.get("/own")
                return
            await asyncio.sleep(0.02)


@pytest.fixture
def chosen(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": (SHAPE,)})


@pytest.fixture(params=HOSTS, ids=lambda given: f"{given[0]} at {given[1]}")
async def host(request: pytest.FixtureRequest, chosen: Settings, tmp_path: Path) -> AsyncIterator[Host]:
    kind, mount = request.param
    async with running_worker(chosen), running_host(kind, mount, chosen, tmp_path) as found:
        await tracked(found.url, chosen.collections)
        yield found


@pytest.fixture
async def http(host: Host) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=patience(20)) as opened:
        yield opened


async def _written(client: httpx.AsyncClient, host: Host, value: int) -> None:
    answer = await client.patch(
        f"{host.url}/v1/collections/{SHAPE}/documents/one",
        json={"value": value},
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert answer.status_code == 200, answer.text


async def _until(source: AsyncIterator[dict[str, Any]], kind: str) -> dict[str, Any]:
    async with within(20):
        return await anext(message async for message in source if message["type"] == kind)


@pytest.mark.slow
async def test_it_works_wherever_it_is_mounted(host: Host, http: httpx.AsyncClient) -> None:
    """One system for all of it: it takes seconds to start."""
    documents = f"{host.url}/v1/collections/{SHAPE}/documents"
    created = await http.put(f"{documents}/one", json={"value": 0})
    assert created.status_code == 201
    assert created.headers["location"] == f"{host.mount}/v1/collections/{SHAPE}/documents/one"
    found = await http.get(urljoin(host.origin, created.headers["location"]))
    assert (found.json()["doc"]["value"], found.headers["etag"]) == (0, created.headers["etag"])
    unchanged = await http.get(f"{documents}/one", headers={"If-None-Match": found.headers["etag"]})
    assert unchanged.status_code == 304

    await _check_odd_ids(http, host, documents)
    await _check_pages(http, host)
    await _check_only_the_mounted_part(http, host)

    websocket = connect(f"ws{host.url.removeprefix('http')}/v1/sync", subprotocols=["eventsync.v1"])
    events = http.stream("GET", f"{host.url}/v1/sync/sse", params={"shape": SHAPE})
    async with websocket as connection, events as response:
        await connection.send(json.dumps({"type": "hello", "client_id": "c", "shapes": [SHAPE], "vector": {}}))
        frames = (json.loads(text) async for text in connection)
        messages = (json.loads(event.data) async for event in EventSource(response).aiter_sse() if event.data)
        await _until(frames, "live")
        await _until(messages, "live")
        await _written(http, host, 1)
        for source in (frames, messages):
            (event,) = (await _until(source, "events"))["events"]
            assert (event["id"], event["op"]) == ("one", "update")

        # SIGTERM: both end in order, or uvicorn would wait for the event stream for ever.
        host.process.send_signal(signal.SIGTERM)
        async with within(20):
            assert [message["type"] async for message in messages] == []
            with suppress(ConnectionClosed):
                await _until(frames, "the end")
    assert connection.close_code == 1012
    async with within(20):
        assert await host.process.wait() == -signal.SIGTERM
    log = host.log.read_text()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log
    # uvicorn has this to say where a handshake is refused by an answer of the application.
    assert re.findall("ERROR: +(.*)", log) == ["ASGI callable returned without completing handshake."]


async def _check_odd_ids(client: httpx.AsyncClient, host: Host, documents: str) -> None:
    created = await client.post(documents, json={"_id": ODD_ID, "value": 1})
    assert created.status_code == 201
    location = urljoin(host.origin, created.headers["location"])
    assert "%2F" in location
    assert (await client.get(location)).json()["id"] == ODD_ID
    # A key names the same write again, so its path counts.
    written = [await client.put(location, json={"value": 2}, headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert [answer.json().get("repeated") for answer in written] == [None, True]


async def _check_pages(client: httpx.AsyncClient, host: Host) -> None:
    """Follow all that the pages load, as a browser finds it, and nothing of it above the mount."""
    asked = {f"{host.url}/", f"{host.url}/docs"}
    seen: set[str] = set()
    while asked - seen:
        url = min(asked - seen)
        seen.add(url)
        answer = await client.get(url)
        assert answer.status_code == 200, url
        assert answer.headers["x-content-type-options"] == "nosniff"
        if answer.headers["content-type"].startswith(("text/html", "text/javascript")):
            references = re.findall(r'(?:src|href)="([^"#]+)"|^import .* from "([^"]+)";$', answer.text, re.MULTILINE)
            asked |= {urljoin(url, first or second) for first, second in references}
    assert all(url.startswith(f"{host.url}/") for url in seen)
    assert {f"{host.url}/assets/client.js", f"{host.url}/openapi.json"} <= seen
    described = await client.get(f"{host.url}/openapi.json")
    assert described.json()["servers"][0]["url"] == (host.mount or "/")
    again = await client.get(f"{host.url}/openapi.json", headers={"If-None-Match": described.headers["etag"]})
    assert again.status_code == 304


async def _check_only_the_mounted_part(client: httpx.AsyncClient, host: Host) -> None:
    missing = await client.get(f"{host.url}/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    foreign = await client.get(f"{host.url}/v1/collections", headers={"Host": "rebound.example"})
    assert foreign.status_code == 403
    assert (await client.get(f"{host.url}/healthz", headers={"Host": "rebound.example"})).status_code == 200
    with pytest.raises(InvalidStatus):
        await connect(f"ws{host.url.removeprefix('http')}/v1/nothing")
    if host.mount:
        above = await client.get(f"{host.origin}/v1/collections")
        assert above.status_code == 404
        assert "problem" not in above.headers["content-type"]
        own = await client.get(f"{host.origin}/own", headers={"Host": "rebound.example"})
        assert own.status_code == 200
        assert own.json()["host"] in {"starlette", "fastapi"}
        assert "x-content-type-options" not in own.headers


async def test_a_forgotten_lifespan_is_named(chosen: Settings, tmp_path: Path) -> None:
    async with (
        running_host("forgotten", "/sync", chosen, tmp_path) as host,
        httpx.AsyncClient(timeout=patience(20)) as client,
    ):
        assert (await client.get(f"{host.url}/v1/collections")).status_code == 500
        await host.stop()
        assert "start it in the lifespan of the host application" in host.log.read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
async def test_the_browser_client_finds_a_mounted_server(chosen: Settings, tmp_path: Path) -> None:
    async with running_worker(chosen), running_host("starlette", "/sync", chosen, tmp_path) as host:
        await tracked(host.url, chosen.collections)
        for transport in ("websocket", "sse"):
            options = ("--experimental-websocket",)
            program = ROOT / "tests" / "e2e" / "browser_client.mjs"
            client = await asyncio.create_subprocess_exec(
                *("node", *options, program, host.url, transport, SHAPE),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"start\n")
            async with within(20):
                while json.loads(await client.stdout.readline()).get("status") != "live":
                    continue
            client.stdin.close()
            async with within(20):
                await client.wait()
