"""Servers under rules in this process, with tokens for principals, and a clock that a test may move."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import httpx_sse
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from eventsync.access import authenticator
from eventsync.access.authenticator import Clock
from eventsync.access.control import AccessControl
from eventsync.domain.access.rules import AccessRules, read_access
from eventsync.domain.predicates import declarations
from eventsync.domain.predicates.definitions import Definition
from eventsync.mongodb.client import connect as connect_to_mongodb
from eventsync.server.uvicorn_server import Server
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration
from eventsync.stores.stores import Stores
from eventsync.sync.service import SyncService
from support.identity import MovedClock, secret_file, token
from support.peers.python import connect
from support.systems import running_worker, serving
from support.waiting import eventually, patience, within

CANARY = "canary-7f3a"
"""Begins every value that nobody but an operator may see."""

EVERYTHING = {"read": True, "create": True, "update": True, "delete": True}
RULES: dict[str, Any] = {
    "roles": {"operator": {"roles": "ops"}, "observer": {"roles": "watch"}, "user": True},
    "collections": {
        "things": {
            "user": {
                "read": {"$or": [{"owner": "$claims.sub"}, {"public": True}]},
                "create": {"owner": "$claims.sub"},
                "update": {"owner": "$claims.sub", "state": {"$ne": "closed"}},
                "after": True,
                "delete": {"owner": "$claims.sub"},
                "hide": ["secret", "lines.cost"],
                "fixed": ["made"],
            }
        },
        "open": {"user": EVERYTHING},
        "*": {"operator": EVERYTHING},
    },
    "shapes": {
        f"of_{field}": {
            "collection": "things",
            "where": {field: f"${field}"},
            "parameters": {field: {"type": "text"}},
        }
        for field in ("secret", "state")
    },
}
"""Everybody reads `open` and writes it; of `things` what is theirs or public; nothing of other collections."""

DOCS: dict[str, Any] = {
    "roles": {"user": True, "operator": {"roles": "ops"}},
    "collections": {"docs": {"user": EVERYTHING}},
}
"""Every principal may do everything with `docs`."""

THINGS = "/v1/collections/things/documents"
DOCUMENTS = "/v1/collections/docs/documents"
MERGE = {"Content-Type": "application/merge-patch+json"}
PATCH = {"Content-Type": "application/json-patch+json"}


def read_rules(tree: Mapping[str, Any], folder: Path) -> AccessRules:
    """Return rules; with an issuer `backend`, whose secret is in `folder`, unless they have an `auth` of their own."""
    issuer = {"iss": "backend", "secret_file": str(secret_file(folder)), "algorithms": ["HS256"]}
    found, problems = read_access({"auth": {"issuers": [issuer]}, **tree})
    assert found is not None, problems
    return found


async def apply_rules(stores: Stores, folder: Path, tree: Mapping[str, Any] = DOCS, *shapes: Definition) -> None:
    """Put rules and declared shapes in force, as `eventsync rules apply` does."""
    rules = read_rules(tree, folder)
    declared = declarations.read_rules({"shapes": tree.get("shapes", {})}).definitions.values()
    await stores.definitions.apply(map(Declaration.of, (*rules.definitions.values(), *declared, *shapes)), rules.spec)


@dataclass(frozen=True)
class Ruled:
    """Servers under rules, and requests to them with a token."""

    servers: Sequence[Server]
    settings: Settings
    stores: Stores
    folder: Path
    clock: Clock

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    @property
    def url(self) -> str:
        return self.urls[0]

    def sync(self, number: int = 0) -> SyncService:
        """Return what a server serves clients from."""
        app: Any = self.servers[number].config.app
        service: SyncService = app.state.sync
        return service

    @property
    def control(self) -> AccessControl:
        """The access control of the first server, whose rules a test may replace."""
        return self.sync().sessions._accesses._control

    def token(self, sub: str = "ada", **claims: Any) -> str:
        """Return a token that is good for an hour."""
        return token(now=self.clock.now(), sub=sub, **claims)

    def client(self, sub: str | None, **claims: Any) -> httpx.AsyncClient:
        """Return a client with a token for `sub`; without one for None."""
        return self.bearing(None if sub is None else self.token(sub, **claims))

    def bearing(self, credential: str | None = None, number: int = 0, **headers: str) -> httpx.AsyncClient:
        """Return a client of a server with this credential."""
        given = headers if credential is None else headers | {"Authorization": f"Bearer {credential}"}
        return httpx.AsyncClient(base_url=self.urls[number], headers=given, timeout=patience(20))

    def advance(self, seconds: float, *, noticed: bool = True) -> None:
        """Move the clock of all servers; have their sessions look at it if it is `noticed`."""
        assert isinstance(self.clock, MovedClock)
        self.clock.advance(seconds)
        for number in range(len(self.servers) if noticed else 0):
            for session in self.sync(number).sessions._sessions:
                session.recheck()

    async def write(self, id_: str, **document: Any) -> None:
        """Write a document of `docs` as a principal of its own."""
        async with self.client("writer") as client:
            (await client.put(f"{DOCUMENTS}/{id_}", json=document)).raise_for_status()


@asynccontextmanager
async def ruled_system(
    settings: Settings,
    folder: Path,
    tree: Mapping[str, Any] = RULES,
    *,
    servers: int = 1,
    clock: Clock | None = None,
) -> AsyncIterator[Ruled]:
    """Run a worker and servers under rules, with all collections served; yield the servers."""
    clock = clock or Clock()
    with mock.patch.object(authenticator, "Clock", return_value=clock):
        async with connect_to_mongodb(settings, "test") as client, running_worker(settings), AsyncExitStack() as stack:
            stores = Stores.of(client, settings)
            await apply_rules(stores, folder, tree)
            found = [await stack.enter_async_context(serving(settings)) for _ in range(servers)]
            ruled = Ruled(found, settings, stores, folder, clock)
            for number in range(servers):
                await eventually(partial(_served, ruled, number), 20)
            yield ruled


def moved_system(
    settings: Settings, folder: Path, tree: Mapping[str, Any] = DOCS, *, servers: int = 1
) -> AbstractAsyncContextManager[Ruled]:
    """Run a worker, and servers whose clock stands until the test moves it."""
    return ruled_system(settings, folder, tree, servers=servers, clock=MovedClock(time.time() // 1))


async def _served(ruled: Ruled, number: int) -> bool:
    """Return True once all collections are tracked, and a user is served what the rules give it of each."""
    async with ruled.bearing(ruled.token("root", roles=["ops"]), number) as operator:
        listed = {item["name"] for item in (await operator.get("/v1/collections")).json().get("collections", ())}
    async with ruled.bearing(ruled.token(), number) as user:
        own = [item["name"] for item in (await user.get("/v1/collections")).json().get("collections", ())]
        answers = [await user.get("/v1/sync/snapshot", params={"shape": name}) for name in own]
    return {*ruled.settings.collections} <= listed and all(answer.status_code == 200 for answer in answers)


async def made(operator: httpx.AsyncClient, id_text: str, **fields: Any) -> httpx.Response:
    """Have the operator make a document with hidden fields."""
    document = {
        "owner": "ada",
        "n": 1,
        "secret": f"{CANARY}-{id_text}",
        "lines": [{"of": "x", "cost": CANARY}],
    } | fields
    answer = await operator.put(f"{THINGS}/{id_text}", json=document)
    assert answer.status_code == 201, answer.text
    return answer


class Socket:
    """A WebSocket client that follows `docs`, and keeps all messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.messages: list[dict[str, Any]] = []

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def until(self, kind: str, **members: Any) -> dict[str, Any]:
        """Return the next message of a kind, with these members."""
        async with within(15):
            while True:
                message: dict[str, Any] = json.loads(await self.connection.recv())
                self.messages.append(message)
                if message["type"] == kind and members.items() <= message.items():
                    return message

    async def closed(self) -> tuple[int | None, str | None]:
        """Read until the connection is closed; return the code and the reason."""
        async with within(15):
            try:
                while True:
                    self.messages.append(json.loads(await self.connection.recv()))
            except ConnectionClosed:
                return self.connection.close_code, self.connection.close_reason

    def ids(self) -> list[str]:
        """Return the ids of all events so far, in order."""
        return [event["id"] for message in self.messages if message["type"] == "events" for event in message["events"]]


@asynccontextmanager
async def socket(system: Ruled, credential: str | None, number: int = 0, **hello: Any) -> AsyncIterator[Socket]:
    """Connect with a token in `hello`."""
    async with connect(system.urls[number].replace("http", "ws") + "/v1/sync") as connection:
        opened = Socket(connection)
        given = {} if credential is None else {"token": credential}
        await opened.send(type="hello", shapes=["docs"], **given, **hello)
        yield opened


@asynccontextmanager
async def event_stream(
    client: httpx.AsyncClient, **query: str
) -> AsyncIterator[AsyncIterator[httpx_sse.ServerSentEvent]]:
    """Follow `docs` by SSE."""
    async with httpx_sse.aconnect_sse(client, "GET", "/v1/sync/sse", params={"shape": "docs"} | query) as source:
        source.response.raise_for_status()
        yield source.aiter_sse()
