"""The watcher of a run under rules: it asks MongoDB and each server what they know, and notes since when.

So the checker needs no time limit for news to arrive, which a loaded machine would break.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from functools import partial

import httpx
from pymongo.errors import PyMongoError

from eventsync.concurrency.waiting import set_within
from eventsync.mongodb.client import Client
from support.chaos.leaks.evidence import LEEWAY, Credential, Known
from support.chaos.leaks.scene import probe_claims
from support.chaos.leaks.truth import cluster_time
from support.clients import TLS, bearing_a_lost_connection
from support.identity import token
from support.waiting import eventually, patience

_PAUSE = 0.05
"""Seconds between two questions. What was not asked is not known, which makes the checker milder and never wrong."""

_PROMPT = 2.0
"""Seconds in which a server has to obey, on an idle machine."""


class Watcher:
    """The watcher of one run.

    `newest` returns the number of the last rules, and since when they are stored, or None if they are not yet.
    """

    def __init__(
        self, client: Client, servers: Iterable[tuple[str, str]], newest: Callable[[], tuple[int, float | None]]
    ) -> None:
        self._faults: dict[tuple[str, str], str] = {}
        """The first fault of each kind of each server: it says all."""
        self._client = client
        self._servers = list(servers)
        self._newest = newest
        self._committed: list[tuple[float, int]] = []
        self._obeyed: dict[str, list[tuple[float, int]]] = defaultdict(list)
        self._revoked: dict[tuple[str, str], float] = {}
        self._pending: dict[str, dict[str, tuple[Credential, float]]] = {name: {} for name, _ in self._servers}
        """Of each server, the credentials that it is to refuse, and since when that is stored."""

    @property
    def faults(self) -> list[str]:
        """The rules and revocations that a server did not obey in time."""
        return list(self._faults.values())

    def known(self) -> Known:
        """Return what is known up to now."""
        obeyed = {name: tuple(found) for name, found in self._obeyed.items()}
        return Known(tuple(self._committed), obeyed, dict(self._revoked))

    @property
    def is_idle(self) -> bool:
        """True if all servers are known to obey all rules and revocations."""
        number, _ = self._newest()
        seen = (found[-1][1] if (found := self._obeyed[name]) else 0 for name, _ in self._servers)
        return min(seen) == number and not any(self._pending.values())

    def revoked(self, credentials: Iterable[Credential], at: float) -> None:
        """Watch until each server refuses these credentials, whose revocation is stored since `at`."""
        for pending in self._pending.values():
            pending.update((item.name, (item, at)) for item in credentials)

    async def accepted(self, text: str) -> None:
        """Wait until each server knows a new service key."""
        for _, url in self._servers:
            async with _client(url) as client:
                await eventually(partial(_knows, client, _bearing(text)), 20, pause=_PAUSE)

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Watch while the block runs."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_commits(stop), name="commits")
            for name, url in self._servers:
                group.create_task(self._follow_server(name, url, stop), name=f"what {name} knows")
            try:
                yield
            finally:
                stop.set()

    async def _follow_commits(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with suppress(PyMongoError):
                found = (await self._client.admin.command("hello"))["lastWrite"]["majorityOpTime"]["ts"]
                self._committed.append((time.time(), cluster_time(found)))
            await set_within(stop, _PAUSE)

    async def _follow_server(self, name: str, url: str, stop: asyncio.Event) -> None:
        async with _client(url) as client:
            while not stop.is_set():
                with bearing_a_lost_connection():
                    await self._ask_for_rules(client, name)
                    for credential, at in list(self._pending[name].values()):
                        await self._ask_with(client, name, credential, at)
                await set_within(stop, _PAUSE)

    async def _ask_for_rules(self, client: httpx.AsyncClient, name: str) -> None:
        number, applied = self._newest()
        obeyed = self._obeyed[name]
        if number <= (obeyed[-1][1] if obeyed else 0):
            return
        began = time.time()
        # It has to be good at each server, whose clock may be ahead or behind.
        text = token(now=began, iat=int(began) - 120, **probe_claims(number))
        # A door of operators, which the rules open for those who know their number.
        answer = await client.get("/v1/state-vectors", params={"limit": "1"}, headers=_bearing(text))
        if answer.status_code == 200:
            obeyed.append((time.time(), number))
        elif answer.status_code in {401, 403} and applied is not None and began > applied + patience(_PROMPT):
            late = began - applied
            self._faults.setdefault((name, "rules"), f"{name} does not obey rules {number}, applied {late:.1f} s ago")

    async def _ask_with(self, client: httpx.AsyncClient, name: str, credential: Credential, at: float) -> None:
        began = time.time()
        if began < credential.expires + LEEWAY:
            answer = await client.get("/v1/collections", headers=_bearing(credential.token))
            if answer.status_code == 401 and answer.json()["reason"] == "token_revoked":
                self._revoked[credential.name, name] = time.time()
            elif answer.status_code == 200 and began > at + patience(_PROMPT):
                late = began - at
                self._faults.setdefault(
                    (name, "revoked"), f"{name} accepts {credential.name}, revoked {late:.1f} s ago"
                )
            else:
                return
        del self._pending[name][credential.name]


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=patience(5), verify=TLS)


def _bearing(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def _knows(client: httpx.AsyncClient, headers: dict[str, str]) -> bool:
    """Return True if a server has a key in memory: of several requests at once, it looks up the key for one at most."""
    with bearing_a_lost_connection():
        answers = await asyncio.gather(*(client.get("/v1/collections", headers=headers) for _ in range(4)))
        return all(answer.status_code == 200 for answer in answers)
    return False
