"""Clients of principals that follow shapes on every transport, and record each byte."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from support.chaos.leaks.evidence import LEEWAY, Act, Credential, Received
from support.chaos.leaks.principals import Ledger, Server
from support.chaos.leaks.scene import SHAPES
from support.chaos.log_checks import UNFIT
from support.clients import BROKEN
from support.peers.peer import SUBPROTOCOL
from support.peers.python import connect
from support.replica import Replica, vector_text
from support.waiting import patience, scaled

_PAUSE = 0.3
"""Seconds between two connections."""

_AWAY, _OFTEN = 5.0, 0.2
"""The most seconds that a client sometimes stays away, and how often."""

_SILENT = 6.0
"""Seconds after which a connection that sends nothing is given up."""

_AHEAD = 1.5
"""Seconds before the end of a token in which it is refreshed."""

_REFRESHED = 0.7
"""Share of the tokens that are refreshed before they end."""

Message = dict[str, Any]


class PrincipalFollower:
    """A client of a subject that follows one shape by one transport, with tokens that end and change.

    `faults` has what its replica finds wrong with what it is sent.
    """

    def __init__(self, ledger: Ledger, server: Server, sub: str, transport: str, shape: str, seed: int) -> None:
        self.sub = sub
        self.name = f"{sub} by {transport} of {shape}"
        self.shape = shape
        self.replica = Replica(shape)
        self.faults: list[str] = []
        self.cut = True
        self.refreshes: int | None = None
        """Tokens that each connection is given after the first one; None for some, at random."""

        self._ledger = ledger
        self._pick = server
        self._connection = {"websocket": self._websocket, "sse": self._sse, "ticket": self._sse, "http": self._polls}
        self._transport = transport
        self._random = random.Random(f"{seed} {self.name}")
        self._over = False
        self._server = ""
        self._budget = 0
        self._credential: Credential | None = None

    @property
    def collection(self) -> str:
        """The collection that the shape is a part of."""
        name = self.shape.partition("?")[0].partition("/")[0]
        return str(SHAPES[name]["collection"]) if name in SHAPES else name

    def leave(self) -> None:
        """Connect no more."""
        self._over = True

    async def run(self) -> None:
        """Follow until it is to leave."""
        while not self._over:
            self._budget = self._random.randint(3, 60) if self.cut else 10**9
            self._server, url = self._pick()
            try:
                with suppress(*BROKEN, TimeoutError):
                    await self._connection[self._transport](url)
            except (AssertionError, *UNFIT) as error:
                self.faults.append(f"{self.name}: {error!r}")
                self.replica = Replica(self.shape)
            self.replica.disconnected()
            away = _AWAY if self.cut and self._random.random() < _OFTEN else _PAUSE
            await asyncio.sleep(self._random.uniform(0.05, away))

    # --- what comes -----------------------------------------------------------------------------------------------

    def _got(self, what: str, content: str, began: float | None = None, **known: Any) -> None:
        assert self._credential is not None
        at = time.time()
        act: Act = "push" if began is None else "other"
        where = {"server": self._server, "collection": self.collection}
        self._ledger.record(
            Received(
                self.name,
                self._credential.name,
                f"{self._transport} {what}",
                content,
                at if began is None else began,
                at,
                **({"act": act} | where | known),
            )
        )

    def _take(self, message: Message) -> bool:
        """Take a message. Return False if the connection is of no more use."""
        kind = message["type"]
        self._budget -= 1
        if kind == "error":
            if message["code"] == "forbidden" or message["code"] == "not_tracked":
                self._forget()
            return False
        if kind != "authenticated":
            self.replica.take(message)
        return self._budget > 0 and not self._over

    def _forget(self) -> None:
        """Forget the documents of a shape that is not shown any more."""
        self.replica = Replica(self.shape)

    def _push(self, text: str) -> bool:
        """Record and take a message of a live connection."""
        message = json.loads(text)
        refused = {"unauthenticated": 401, "forbidden": 403, "not_tracked": 404}
        status = refused.get(message.get("code", ""), 200)
        self._got(f"{message['type']} of {self.shape}", text, status=status)
        return self._take(message)

    # --- WebSocket ------------------------------------------------------------------------------------------------

    async def _websocket(self, url: str) -> None:
        credential = self._credential = self._ledger.credential(self.sub)
        began = time.time()
        address = url.replace("http", "ws") + "/v1/sync"
        try:
            connection = await connect(address, subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=None)
        except InvalidStatus as error:
            headers, body = str(error.response.headers), bytes(error.response.body or b"").decode()
            self._got(f"refusal of {self.shape}", headers + body, began, status=error.response.status_code)
            return
        try:
            self._got(f"opening of {self.shape}", str(connection.response and connection.response.headers), began)
            hello = {"type": "hello", "shapes": [self.shape], "vector": self.replica.vector, "token": credential.token}
            await connection.send(json.dumps(hello))
            await self._listen(connection)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 0
            status = {4401: 401, 4403: 403}.get(code, 200)
            self._got(f"close {code} of {self.shape}", closed.rcvd.reason if closed.rcvd else "", status=status)
        finally:
            connection.transport.abort()
            await connection.wait_closed()

    async def _listen(self, connection: ClientConnection) -> None:
        # Some tokens are not refreshed: the connection has to be silent then.
        refreshed, refreshes = 0, self._is_refreshed(0)
        last, asked = time.monotonic(), None
        while time.monotonic() - last < scaled(_SILENT):
            if refreshes and asked is None:
                asked = await self._refresh(connection)
            try:
                async with asyncio.timeout(0.5):
                    text = str(await connection.recv())
            except TimeoutError:
                continue
            last = time.monotonic()
            if asked is not None and json.loads(text)["type"] == "authenticated":
                self._credential, asked = asked, None
                refreshed += 1
                refreshes = self._is_refreshed(refreshed)
            elif asked is not None and json.loads(text).get("code") == "unauthenticated":
                refreshes, asked = False, None
            if not self._push(text):
                return

    def _is_refreshed(self, count: int) -> bool:
        return self._random.random() < _REFRESHED if self.refreshes is None else count < self.refreshes

    async def _refresh(self, connection: ClientConnection) -> Credential | None:
        """Send a new token if the present one ends soon, or has other claims than a new one."""
        assert self._credential is not None
        due = self._credential.expires + LEEWAY < time.time() + _AHEAD
        changed = self._credential.sight != self._ledger.sight(self.sub)
        if not due and not changed:
            return None
        credential = self._ledger.credential(self.sub, left=_AHEAD)
        if credential == self._credential:
            return None
        await connection.send(json.dumps({"type": "auth", "token": credential.token}))
        return credential

    # --- SSE ------------------------------------------------------------------------------------------------------

    async def _sse(self, url: str) -> None:
        async with self._client(url) as client:
            query: dict[str, str] = {"shape": self.shape}
            if self._transport == "ticket":
                if (ticket := await self._ticket(client)) is None:
                    return
                query["ticket"] = ticket
                del client.headers["Authorization"]
            if self.replica.vector:
                query["vector"] = vector_text(self.replica.vector)
            began = time.time()
            async with client.stream("GET", "/v1/sync/sse", params=query) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._answered(f"refusal of {self.shape}", response, began)
                    return
                self._got(f"opening of {self.shape}", str(response.headers), began)
                async for text in _data(response.aiter_lines()):
                    if not self._push(text):
                        return

    async def _ticket(self, client: httpx.AsyncClient) -> str | None:
        began = time.time()
        answer = await client.post("/v1/tickets", json={"shapes": [self.shape]})
        self._answered("POST /v1/tickets", answer, began, collection="")
        return str(answer.json()["ticket"]) if answer.status_code == 201 else None

    # --- polls ----------------------------------------------------------------------------------------------------

    async def _polls(self, url: str) -> None:
        async with self._client(url) as client:
            while not self._over and self._budget > 0:
                assert self._credential is not None
                if self._credential.expires + LEEWAY < time.time():
                    return
                if not await self._poll(client):
                    return

    async def _poll(self, client: httpx.AsyncClient) -> bool:
        began, position = time.time(), self.replica.position
        if position is None:
            answer = await client.get("/v1/sync/snapshot", params={"shape": self.shape})
            self._answered(f"snapshot of {self.shape}", answer, began)
            if answer.status_code != 200:
                return self._refused(answer)
            head, *rows = map(json.loads, answer.text.splitlines())
            whole = {"part": 0, "last": True, "docs": rows, "position": head["position"]}
            return self._take({"type": "snapshot", "shape": self.shape} | whole)
        query = {"shape": self.shape, "position": position, "wait": str(self._random.choice((0, 1)))}
        answer = await client.get("/v1/sync/log", params=query)
        self._answered(f"log of {self.shape}", answer, began)
        if answer.status_code == 409:
            return self._take({"type": "reset", "shape": self.shape})
        if answer.status_code != 200:
            return self._refused(answer)
        return self._take(answer.json() | {"type": "events"})

    def _refused(self, answer: httpx.Response) -> bool:
        if answer.status_code in {403, 404}:
            self._forget()
        return False

    # --- HTTP -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _client(self, url: str) -> AsyncIterator[httpx.AsyncClient]:
        credential = self._credential = self._ledger.credential(self.sub)
        headers = {"Authorization": f"Bearer {credential.token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=patience(5)) as client:
            yield client

    def _answered(self, what: str, answer: httpx.Response, began: float, **known: Any) -> None:
        content = f"{answer.headers}\n\n{answer.text}"
        self._got(what, content, began, status=answer.status_code, **known)


async def _data(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    """Yield the data of each event of a stream."""
    data: list[str] = []
    async for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line and data:
            yield "\n".join(data)
            data = []


FOLLOWED: Iterable[tuple[str, str, str]] = (
    ("ada", "websocket", "orders"),
    ("ada", "ticket", "orders"),
    ("ada", "http", "by_state?state=open"),
    ("bob", "websocket", "by_state?state=open"),
    ("bob", "http", "orders"),
    ("bob", "sse", "notes"),
    ("cat", "sse", "orders"),
    ("cat", "http", "board"),
    ("dan", "websocket", "orders"),
    ("dan", "websocket", "vault"),
    ("dan", "http", "orders"),
    ("eve", "websocket", "orders"),
    ("eve", "ticket", "board"),
    ("eve", "http", "notes"),
    ("ada", "websocket", "notes"),
    ("ada", "sse", "orders/o1"),
    ("root", "websocket", "orders"),
)
"""The subjects, transports and shapes of a run."""
