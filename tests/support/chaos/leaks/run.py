"""A run under rules, from its documents to its verdict; the system, and the faults, are those of others."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
from bson.timestamp import Timestamp

from eventsync.errors import Unavailable
from eventsync.mongodb.client import Client
from eventsync.rules.file import read_tree
from eventsync.settings import Settings
from eventsync.stores.access.revocations import of_key, of_subject
from eventsync.stores.stores import Stores
from support.chaos.evidence import Violation
from support.chaos.leaks.checks import check_leaks
from support.chaos.leaks.evidence import (
    LEEWAY,
    AppliedRules,
    Credential,
    Held,
    Jump,
    LeakEvidence,
    Revocation,
    revokes,
)
from support.chaos.leaks.followers import FOLLOWED, PrincipalFollower
from support.chaos.leaks.principals import Ledger
from support.chaos.leaks.scene import KEYS, OF_SUBJECT, SIGHTS, collection_of, filter_of, rules_tree
from support.chaos.leaks.traffic import Traffic
from support.chaos.leaks.truth import read_right, read_sights, read_states
from support.chaos.leaks.watcher import Watcher
from support.identity import secret_file
from support.waiting import eventually, patience, scaled

_KEPT = 3600.0
"""Seconds for which a revocation is kept, and a service key is good."""

_SETTLED = 20.0
"""Seconds after the last write in which each client has to hold what it may see, on an idle machine."""

_T = TypeVar("_T")


@dataclass
class _Newest:
    """The rules that were applied last, and since when they are stored; None while that is not known."""

    number: int = 0
    stored: float | None = None


class LeakRun:
    """Principals at work on a running system, on `servers`: names and URLs."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        servers: Sequence[tuple[str, str]],
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
        self._revocations: list[Revocation] = []
        self._newest = _Newest()
        self._held: list[Held] = []
        self._since = Timestamp(0, 0)
        """A cluster time before the first write."""
        self._client = client
        self._database = settings.database
        self._stores = Stores.of(client, settings)
        self._secret = secret_file(folder)
        self._servers = servers
        choose = partial(random.Random(f"{seed} servers").choice, servers)
        self.watcher = Watcher(client, servers, lambda: (self._newest.number, self._newest.stored))
        self.traffic = Traffic(self.ledger, choose, client, settings.database, seed)
        self.followers = [
            PrincipalFollower(self.ledger, choose, sub, transport, shape, seed, self.traffic.burst_behind)
            for sub, transport, shape in followed
        ]

    # --- what changes ---------------------------------------------------------------------------------------------

    async def apply(self, variant: int) -> None:
        """Put a variant of the rules in force."""
        number = len(self.rules)
        shapes = read_tree(rules_tree(variant, number, self._secret))
        assert not shapes.problems, shapes.problems
        self.rules.append(AppliedRules(variant, time.time()))
        self._newest = _Newest(number)
        await _stored(lambda: self._stores.definitions.apply(shapes.declarations, shapes.spec))
        self._newest.stored = time.time()

    async def revoke(self, sub: str) -> None:
        """Revoke the present credential of a subject, which then gets another one."""
        credential = self.ledger.credential(sub)
        if sub in KEYS:
            await self._give_key(sub)
        else:
            self.ledger.withdraw(sub)
        await self._revoke(credential.revocations[0])

    async def revoke_subject(self, sub: str) -> None:
        """Revoke all credentials that a subject was issued until now, as `eventsync revoke --sub` does."""
        revocation = await self._revoke(of_subject(sub))
        if sub in KEYS:
            await self._give_key(sub)
        else:
            self.ledger.withdraw_until(sub, revocation.at + LEEWAY)

    async def _revoke(self, name: str) -> Revocation:
        began, credentials = time.time(), self._stores.credentials
        if name.startswith(of_key("")):
            await _stored(lambda: credentials.keys.revoke(name.removeprefix(of_key(""))))
        at = await _stored(lambda: credentials.revocations.add(name, _KEPT))
        revocation = Revocation(name, began, time.time(), at.timestamp())
        self._revocations.append(revocation)
        self.watcher.revoked(
            [item for item in self.ledger.credentials.values() if revokes(revocation, item)], revocation.done
        )
        return revocation

    async def _give_key(self, sub: str) -> None:
        """Give a subject a new service key, once each server knows it."""
        sight = self.ledger.sight(sub)
        claims = {name: value for name, value in SIGHTS[sight].items() if name not in {"sub", "roles"}}
        keys, name = self._stores.credentials.keys, sub.partition(":")[2]
        expires = datetime.now(UTC) + timedelta(seconds=_KEPT)
        key, text = await _stored(lambda: keys.create(name, roles=KEYS[sub], claims=claims, expires=expires))
        stored = await _stored(lambda: keys.find(key.id))
        assert stored is not None
        await self.watcher.accepted(text)
        issued, revocations = stored.created.timestamp(), (of_key(key.id), of_subject(sub))
        self.ledger.give(Credential(f"{sub}-{key.id}", sub, sight, expires.timestamp(), text, issued, revocations))

    # --- from beginning to end ------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Write every document once, put the rules in force on each server, and give service keys."""
        self._since = (await self._client.admin.command("hello"))["lastWrite"]["opTime"]["ts"]
        await self.traffic.prepare()
        await self.apply(0)
        async with httpx.AsyncClient(timeout=patience(5)) as client:
            for _, url in self._servers:
                await eventually(partial(_obeys, client, url), 20, pause=0.1)
        for sub in KEYS:
            await self._give_key(sub)

    @asynccontextmanager
    async def at_work(self, *, settles: bool = True) -> AsyncIterator[None]:
        """Principals work while the block runs; then all settles, if it is to, and the clients leave."""
        stop = asyncio.Event()
        async with self.watcher.at_work(), asyncio.TaskGroup() as group:
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
        with suppress(TimeoutError):  # the watcher has noted why
            await eventually(lambda: self.watcher.is_idle, 20)
        for follower in self.followers:
            follower.cut = False
        async with self.traffic.bursting:
            pass  # of the last burst, every change is made
        right = {item.name: await self._right(item) for item in self.followers}
        with suppress(TimeoutError):
            await eventually(
                lambda: all(item.replica.rows == right[item.name] for item in self.followers), _SETTLED, pause=0.2
            )
        self._held = [Held(item.name, dict(item.replica.rows), right[item.name]) for item in self.followers]

    async def _right(self, follower: PrincipalFollower) -> dict[str, object]:
        where = filter_of(follower.shape, follower.sub)
        claims, collection = SIGHTS[self.ledger.sight(follower.sub)], collection_of(follower.shape)
        return dict(await read_right(self._client, self._database, collection, where, 0, claims))

    async def judge(self) -> list[Violation]:
        """Return everything that has gone wrong so far."""
        # What comes from now on may be of states that are not read any more.
        count = len(self.ledger.received)
        states = await read_states(self._client, self._database, self._since)
        sights = await read_sights(self._client, self._database, states, {item.variant for item in self.rules})
        template = LeakEvidence(
            {},
            (),
            states,
            sights,
            tuple(self.rules),
            self.watcher.known(),
            tuple(self._revocations),
            jumps=tuple(self.jumps),
            held=tuple(self._held),
        )
        self.evidence = self.ledger.evidence(template, count)
        faults = [Violation("client", fault) for item in self.followers for fault in item.faults]
        faults += [Violation("obedience", fault) for fault in self.watcher.faults]
        return [*faults, *check_leaks(self.evidence)]


async def _stored(act: Callable[[], Awaitable[_T]]) -> _T:
    """Return the result of a change, which is made again until MongoDB has acknowledged it."""

    made: list[_T] = []

    async def attempt() -> bool:
        with suppress(Unavailable):
            made.append(await act())
        return bool(made)

    await eventually(attempt, 30, pause=0.1)
    return made[0]


async def _obeys(client: httpx.AsyncClient, url: str) -> bool:
    """Return True if a server refuses those who have no credential."""
    return (await client.get(f"{url}/v1/collections")).status_code == 401
