"""Clients of principals that follow shapes on every transport, and record each byte."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
from pymongo.errors import PyMongoError
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from support.chaos.history import Key
from support.chaos.leaks.evidence import LEEWAY, Act, Credential, Received
from support.chaos.leaks.principals import Ledger, Server
from support.chaos.leaks.scene import collection_of
from support.chaos.log_checks import UNFIT
from support.clients import TLS, bearing_a_lost_connection
from support.peers.peer import SUBPROTOCOL
from support.peers.python import connect
from support.replica import Replica, vector_text
from support.waiting import patience, scaled

_PAUSE = 0.3
"""Seconds between two connections."""

_AWAY, _OFTEN = 5.0, 0.2
"""The most seconds that a client sometimes stays away, and how often."""

_FAR = 0.2

_LAG = 2.0
"""The most seconds that a message is on its way, on an idle machine, where nothing more is known of that."""

_FENCES = 0.3
"""Seconds between two pings, whose answers tell what was sent later."""

_SILENT = 6.0
"""Seconds after which a connection that sends nothing is given up."""

_AHEAD = 1.5
"""Seconds before the end of a token in which it is refreshed."""

_BY_COOKIE = 0.2
"""Share of the WebSockets that are authenticated by a cookie."""

_REFRESHED = 0.7
"""Share of the tokens that are refreshed before they end."""

Message = dict[str, Any]


class PrincipalFollower:
    """A client of a subject that follows one shape by one transport, with tokens that end and change.

    `faults` has what its replica finds wrong with what it is sent.
    """

    def __init__(
        self,
        ledger: Ledger,
        server: Server,
        sub: str,
        transport: str,
        shape: str,
        seed: int,
        burst: Callable[[Key], Awaitable[None]],
    ) -> None:
        """`burst` changes a document so often that who was away gets squashed documents."""
        self.sub = sub
        self.name = f"{sub} by {transport} of {shape}"
        self.shape = shape
        self.replica = Replica(shape)
        self.faults: list[str] = []
        self.cut = True
        self.far = _FAR
        """How often one of its documents is changed many times while it is away."""
        self.refreshes: int | None = None
        """Tokens that each connection is given after the first one; None for some, at random."""

        self._ledger = ledger
        self._pick = server
        self._burst = burst
        streams = dict.fromkeys(("sse", "ticket", "cookie"), self._sse)
        self._connection = {"websocket": self._websocket, "http": self._polls, **streams}
        self._transport = transport
        self._random = random.Random(f"{seed} {self.name}")
        self._over = False
        self._server = ""
        self._budget = 0
        self._credential: Credential | None = None
        self._asked: Credential | None = None
        """The credential that a live connection is to be continued by."""
        self._fenced = 0.0
        """All that comes from now on was sent after this time."""

    def leave(self) -> None:
        """Connect no more."""
        self._over = True

    async def run(self) -> None:
        """Follow until it is to leave."""
        while not self._over:
            self._budget = self._random.randint(3, 60) if self.cut else 10**9
            self._server, url = self._pick()
            try:
                with bearing_a_lost_connection(), suppress(TimeoutError):
                    await self._connection[self._transport](url)
            except (AssertionError, *UNFIT) as error:
                self.faults.append(f"{self.name}: {error!r}")
                self.replica = Replica(self.shape)
            self.replica.disconnected()
            away = _AWAY if self.cut and self._random.random() < _OFTEN else _PAUSE
            if self.cut and self.replica.rows and self._random.random() < self.far:
                with suppress(PyMongoError):
                    await self._burst((collection_of(self.shape), self._random.choice(sorted(self.replica.rows))))
            await asyncio.sleep(self._random.uniform(0.05, away))

    # --- what comes -----------------------------------------------------------------------------------------------

    def _got(self, what: str, content: str, began: float | None = None, **known: Any) -> None:
        assert self._credential is not None
        at = time.time()
        since = max(self._fenced, at - scaled(_LAG))
        act: Act = "push" if began is None else "other"
        where = {"server": self._server, "collection": collection_of(self.shape)}
        other = "" if self._asked is None else self._asked.name
        self._ledger.record(
            Received(
                self.name,
                self._credential.name,
                f"{self._transport} {what}",
                content,
                since if began is None else began,
                at,
                **({"act": act, "since": since, "other": other} | where | known),
            )
        )

    def _take(self, message: Message) -> bool:
        """Take a message. Return False if the connection is of no more use."""
        kind = message["type"]
        self._budget -= kind != "pong"
        if kind == "error":
            if message["code"] == "forbidden" or message["code"] == "not_tracked":
                self._forget()
            return False
        if kind not in {"authenticated", "pong"}:
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
        credential, self._asked = self._ledger.credential(self.sub), None
        self._credential, self._fenced = credential, time.time()
        began, address = self._fenced, url.replace("http", "ws") + "/v1/sync"
        hello: Message = {"type": "hello", "shapes": [self.shape], "vector": self.replica.vector}
        headers = {}
        if self._random.random() < _BY_COOKIE:
            headers = {"Cookie": f"eventsync={credential.token}", "Origin": url}
        else:
            hello["token"] = credential.token
        try:
            connection = await connect(
                address, subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=None, additional_headers=headers
            )
        except InvalidStatus as error:
            content = str(error.response.headers) + bytes(error.response.body or b"").decode()
            self._got(f"refusal of {self.shape}", content, began, status=error.response.status_code)
            return
        try:
            self._got(f"opening of {self.shape}", str(connection.response and connection.response.headers), began)
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
        last, pinged = time.monotonic(), None
        while time.monotonic() - last < scaled(_SILENT):
            if refreshes and self._asked is None:
                await self._refresh(connection)
            if pinged is None and time.time() - self._fenced > _FENCES:
                pinged = time.time()
                await connection.send('{"type": "ping"}')
            try:
                async with asyncio.timeout(0.5):
                    text = str(await connection.recv())
            except TimeoutError:
                continue
            last, kind = time.monotonic(), json.loads(text)["type"]
            if kind == "pong" and pinged is not None:
                self._fenced, pinged = pinged, None
            elif kind == "authenticated" and self._asked is not None:
                self._credential, self._asked = self._asked, None
                refreshed += 1
                refreshes = self._is_refreshed(refreshed)
            if not self._push(text):
                return
            if kind == "error" and self._asked is not None:
                refreshes, self._asked = False, None

    def _is_refreshed(self, count: int) -> bool:
        return self._random.random() < _REFRESHED if self.refreshes is None else count < self.refreshes

    async def _refresh(self, connection: ClientConnection) -> None:
        """Send a new token if the present one ends soon, or has other claims than a new one."""
        assert self._credential is not None
        due = self._credential.expires + LEEWAY < time.time() + _AHEAD
        changed = self._credential.sight != self._ledger.sight(self.sub)
        if not due and not changed:
            return
        credential = self._ledger.credential(self.sub, left=_AHEAD)
        if credential != self._credential:
            self._asked = credential
            await connection.send(json.dumps({"type": "auth", "token": credential.token}))

    # --- SSE ------------------------------------------------------------------------------------------------------

    async def _sse(self, url: str) -> None:
        async with self._client(url) as client:
            query: dict[str, str] = {"shape": self.shape}
            if self._transport != "sse":
                proof = self._ticket if self._transport == "ticket" else self._session
                if (given := await proof(client)) is None:
                    return
                query |= given
                del client.headers["Authorization"]
            if self.replica.vector:
                query["vector"] = vector_text(self.replica.vector)
            began = self._fenced = time.time()
            async with client.stream("GET", "/v1/sync/sse", params=query) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._answered(f"refusal of {self.shape}", response, began)
                    self._refused(response)
                    return
                self._got(f"opening of {self.shape}", str(response.headers), began)
                async for text in _data(response.aiter_lines()):
                    if not self._push(text):
                        return

    async def _ticket(self, client: httpx.AsyncClient) -> dict[str, str] | None:
        """Return a ticket for the query; None if it was refused."""
        began = time.time()
        answer = await client.post("/v1/tickets", json={"shapes": [self.shape]})
        self._answered("POST /v1/tickets", answer, began, collection="")
        self._refused(answer)
        return {"ticket": str(answer.json()["ticket"])} if answer.status_code == 201 else None

    async def _session(self, client: httpx.AsyncClient) -> dict[str, str] | None:
        """Sign in by a cookie, as a page does. Return nothing for the query; None if it was refused."""
        began = time.time()
        answer = await client.post("/v1/session")
        self._answered("POST /v1/session", answer, began, collection="")
        client.headers["Sec-Fetch-Site"] = "same-origin"
        return {} if answer.status_code == 200 else None

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
        self._fenced = began
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
        """Forget the documents, if the answer says that they are not shown any more. Return False."""
        if answer.status_code in {403, 404}:
            self._forget()
        return False

    # --- HTTP -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _client(self, url: str) -> AsyncIterator[httpx.AsyncClient]:
        credential = self._credential = self._ledger.credential(self.sub)
        self._asked = None
        headers = {"Authorization": f"Bearer {credential.token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=patience(5), verify=TLS) as client:
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
    ("dan", "http", "mine?"),
    ("eve", "websocket", "orders"),
    ("eve", "ticket", "mine?"),
    ("eve", "http", "notes"),
    ("ada", "websocket", "notes"),
    ("ada", "sse", "orders/o1"),
    ("ada", "cookie", "mine?"),
    ("bob", "cookie", "board"),
    ("key:robot", "websocket", "orders"),
    ("key:robot", "http", "mine?"),
    ("root", "websocket", "orders"),
)
"""The subjects, transports and shapes of a run."""
