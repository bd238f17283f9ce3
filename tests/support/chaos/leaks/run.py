"""A run under rules, from its documents to its verdict; the system, and the faults, are those of others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx

from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client
from eventsync.rules.file import read_tree
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.chaos.evidence import Violation
from support.chaos.leaks.checks import check_leaks
from support.chaos.leaks.evidence import LEEWAY, AppliedRules, Held, Jump, LeakEvidence, Received
from support.chaos.leaks.followers import FOLLOWED, PrincipalFollower
from support.chaos.leaks.principals import Ledger, Server
from support.chaos.leaks.scene import OF_SUBJECT, SHAPES, SIGHTS, rules_tree
from support.chaos.leaks.traffic import Traffic
from support.chaos.leaks.truth import read_right, read_sights, read_states
from support.identity import secret_file
from support.waiting import eventually, patience, scaled

_GRACE = 2.0
"""Seconds in which every server obeys what is taken away, and in which an answer is on its way."""

_KEPT = 3600.0
"""Seconds for which a revocation is kept."""

_SETTLED = 40.0
"""Seconds after the last write in which each client has to hold what it may see."""


class LeakRun:
    """Principals at work on a running system. `server` returns one of its servers."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        server: Server,
        folder: Path,
        seed: int,
        *,
        lifetime: tuple[float, float] = (600.0, 900.0),
        followed: Iterable[tuple[str, str, str]] = FOLLOWED,
    ) -> None:
        self.ledger = Ledger(seed, lifetime)
        self.rules: list[AppliedRules] = []
        self.jumps: list[Jump] = []
        self.evidence: LeakEvidence | None = None
        self.grace = scaled(_GRACE)
        self._held: list[Held] = []
        self._client = client
        self._database = settings.database
        self._stores = Stores.of(client, settings)
        self._secret = secret_file(folder)
        self.traffic = Traffic(self.ledger, server, client, settings.database, seed)
        self.followers = [
            PrincipalFollower(self.ledger, server, sub, transport, shape, seed) for sub, transport, shape in followed
        ]

    async def apply(self, variant: int) -> None:
        """Put a variant of the rules in force."""
        tree = rules_tree(variant, self._secret)
        shapes = read_tree(tree)
        assert not shapes.problems, shapes.problems
        began = time.time()

        async def applied() -> bool:
            try:
                await self._stores.definitions.apply(shapes.declarations, shapes.spec)
            except Unavailable:
                return False
            return True

        await eventually(applied, 30, pause=0.1)
        self.rules.append(AppliedRules(variant, began, time.time()))

    async def begin(self, urls: Iterable[str]) -> None:
        """Write every document once, and put the rules in force on each server."""
        await self.traffic.prepare()
        await self.apply(0)
        async with httpx.AsyncClient(timeout=patience(5)) as client:
            for url in urls:
                await eventually(partial(_obeys, client, url), 20, pause=0.1)

    async def revoke(self, sub: str) -> None:
        """Revoke the present token of a subject, which then gets another one."""
        name = self.ledger.credential(sub).name
        await self._stores.credentials.revocations.add(f"jti:{name}", _KEPT)
        self.ledger.revoked[name] = time.time()

    @asynccontextmanager
    async def at_work(self, *, settles: bool = True) -> AsyncIterator[None]:
        """Principals work while the block runs; then all settles, if it is to, and the clients leave."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(item.run(), name=item.name) for item in self.followers]
            traffic = group.create_task(self.traffic.run(stop), name="traffic")
            try:
                yield
            finally:
                stop.set()
                await traffic
            try:
                if settles:
                    await self._settle()
            finally:
                for follower in self.followers:
                    follower.leave()
                # Each ends at its next message; one that is cancelled would leave its socket to the garbage collector.
                if following:
                    await asyncio.wait(following, timeout=scaled(3))
                for task in following:
                    task.cancel()
        await self.traffic.aclose()

    async def _settle(self) -> None:
        """Wait until each client holds what MongoDB finds for it, or for too long; record what it holds."""
        for sub in OF_SUBJECT:
            self.ledger.change_claims(sub, OF_SUBJECT[sub][0])
        if self.rules[-1].variant != 0:
            await self.apply(0)
        for follower in self.followers:
            follower.cut = False
        right = {item.name: await self._right(item) for item in self.followers}
        pending = list(self.followers)
        deadline = time.monotonic() + scaled(_SETTLED)
        while pending and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            pending = [item for item in pending if item.replica.rows != right[item.name]]
        self._held = [Held(item.name, dict(item.replica.rows), right[item.name]) for item in self.followers]

    async def _right(self, follower: PrincipalFollower) -> dict[str, object]:
        name, _, parameters = follower.shape.partition("?")
        where = {}
        if name in SHAPES:
            field, _, value = parameters.partition("=")
            where = {field: value}
        elif "/" in name:
            where = {"_id": name.partition("/")[2]}
        claims = SIGHTS[self.ledger.sight(follower.sub)]
        return dict(await read_right(self._client, self._database, follower.collection, where, 0, claims))

    def is_late(self, item: Received) -> bool:
        """Return True for content that came after its credential had ended."""
        return bool(item.canaries) and item.at > self.ledger.credentials[item.credential].expires + LEEWAY + self.grace

    async def judge(self) -> list[Violation]:
        """Return everything that went wrong."""
        states = await read_states(self._client, self._database)
        sights = await read_sights(self._client, self._database, states, {item.variant for item in self.rules})
        held, jumps = tuple(self._held), tuple(self.jumps)
        template = LeakEvidence({}, (), states, sights, self.rules, jumps=jumps, held=held, grace=self.grace)
        self.evidence = self.ledger.evidence(template)
        faults = [Violation("client", fault) for item in self.followers for fault in item.faults]
        return [*faults, *check_leaks(self.evidence)]


async def _obeys(client: httpx.AsyncClient, url: str) -> bool:
    """Return True if a server refuses those who have no credential."""
    return (await client.get(f"{url}/v1/collections")).status_code == 401
