"""Servers in this process with rules in force, and clocks that a test moves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from eventsync.access import authenticator
from eventsync.domain.access.rules import read_access
from eventsync.main import make_server
from eventsync.server.uvicorn_server import Server
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from eventsync.sync.service import SyncService
from support.identity import MovedClock, secret_file, token
from support.peers.python import connect
from support.systems import running_worker, tracked
from support.waiting import eventually, patience

COLLECTION = "docs"
DOCUMENTS = f"/v1/collections/{COLLECTION}/documents"


def rules_tree(folder: Path, **collections: Any) -> dict[str, Any]:
    """Return a rules file with a shared secret, in which every principal may do everything with `docs`."""
    backend = {"iss": "backend", "secret_file": str(secret_file(folder)), "algorithms": ["HS256"]}
    everything = {"read": True, "create": True, "update": True, "delete": True}
    return {
        "auth": {"issuers": [backend]},
        "roles": {"user": True, "operator": {"ops": True}},
        "collections": {COLLECTION: {"user": everything}, **collections},
    }


async def apply_rules(stores: Stores, tree: dict[str, Any] | None) -> None:
    """Put rules in force; None takes them away."""
    if tree is None:
        await stores.definitions.apply([])
        return
    rules, problems = read_access(tree)
    assert rules is not None, problems
    await stores.definitions.apply([Declaration.of(item) for item in rules.definitions.values()], rules.spec)


class Secured:
    """Running servers, and requests to them with a token."""

    def __init__(self, stores: Stores, clock: MovedClock) -> None:
        self.stores = stores
        self.clock = clock
        self.servers: list[Server] = []

    def url(self, number: int = 0) -> str:
        return self.servers[number].url

    def sync(self, number: int = 0) -> SyncService:
        """Return what a server serves clients from."""
        app: Any = self.servers[number].config.app
        service: SyncService = app.state.sync
        return service

    def token(self, **claims: Any) -> str:
        """Return a token that is good for an hour."""
        return token(now=self.clock.now(), **claims)

    def advance(self, seconds: float) -> None:
        """Move the clock of all servers, and have their sessions look at it."""
        self.clock.advance(seconds)
        for number in range(len(self.servers)):
            for session in self.sync(number).sessions._sessions:
                session.recheck()

    def client(self, credential: str | None = None, number: int = 0, **headers: str) -> httpx.AsyncClient:
        given = headers if credential is None else headers | {"Authorization": f"Bearer {credential}"}
        return httpx.AsyncClient(base_url=self.url(number), timeout=patience(15), headers=given)

    async def write(self, id_: str, **document: Any) -> None:
        """Write a document as a principal of its own."""
        async with self.client(self.token(sub="writer")) as client:
            (await client.put(f"{DOCUMENTS}/{id_}", json=document)).raise_for_status()

    async def until_refused(self, credential: str | None = None, number: int = 0) -> None:
        """Wait until a server refuses this credential."""
        async with self.client(credential, number) as client:

            async def check() -> bool:
                return (await client.get("/v1/collections")).status_code == 401

            await eventually(check, 20)


@asynccontextmanager
async def secured(
    settings: Settings, stores: Stores, monkeypatch: pytest.MonkeyPatch, folder: Path, *, servers: int = 1
) -> AsyncIterator[Secured]:
    """A worker and servers with rules in force."""
    clock = MovedClock(float(int(time.time())))
    monkeypatch.setattr(authenticator, "Clock", lambda: clock)
    found = Secured(stores, clock)
    async with running_worker(settings), asyncio.TaskGroup() as group:
        tasks = []
        for _ in range(servers):
            server = make_server(settings.model_copy(update={"host": "127.0.0.1", "port": 0}))
            tasks.append(group.create_task(server.serve(), name="server"))
            await server.ready.wait()
            found.servers.append(server)
        try:
            for number in range(servers):
                await tracked(found.url(number), settings.collections)
            await apply_rules(stores, rules_tree(folder))
            for number in range(servers):
                await found.until_refused(number=number)
            yield found
        finally:
            for server in found.servers:
                server.should_exit = True
            await asyncio.gather(*tasks)


class Socket:
    """A WebSocket client that follows `docs`, and keeps all messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[dict[str, Any]] = []

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def until(self, kind: str, **members: Any) -> dict[str, Any]:
        """Return the next message of a kind, with these members."""
        async with asyncio.timeout(patience(15)):
            while True:
                message: dict[str, Any] = json.loads(await self.connection.recv())
                self.messages.append(message)
                if message["type"] == kind and members.items() <= message.items():
                    return message

    async def closed(self) -> tuple[int | None, str | None]:
        """Read until the connection is closed; return the code and the reason."""
        async with asyncio.timeout(patience(15)):
            try:
                while True:
                    self.messages.append(json.loads(await self.connection.recv()))
            except ConnectionClosed:
                return self.connection.close_code, self.connection.close_reason

    def ids(self) -> list[str]:
        """Return the ids of all events so far, in order."""
        return [event["id"] for message in self.messages if message["type"] == "events" for event in message["events"]]


@asynccontextmanager
async def socket(system: Secured, credential: str | None, number: int = 0, **hello: Any) -> AsyncIterator[Socket]:
    """Connect with a token in `hello`."""
    async with connect(system.url(number).replace("http", "ws") + "/v1/sync") as connection:
        opened = Socket(connection)
        given = {} if credential is None else {"token": credential}
        await opened.send(type="hello", shapes=[COLLECTION], **given, **hello)
        yield opened


@asynccontextmanager
async def event_stream(
    client: httpx.AsyncClient, **query: str
) -> AsyncIterator[AsyncIterator[httpx_sse.ServerSentEvent]]:
    """Follow `docs` by SSE."""
    async with httpx_sse.aconnect_sse(client, "GET", "/v1/sync/sse", params={"shape": COLLECTION} | query) as source:
        source.response.raise_for_status()
        yield source.aiter_sse()
