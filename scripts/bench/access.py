"""Access: what tokens, rules, redaction and revocation cost, each beside the same without them, in the same run.

The rules let a principal see and change its own documents. Clients, the worker and the server are processes of their
own; the tables about tokens alone are measured in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from eventsync.access.access import Access
from eventsync.access.authenticator import Clock
from eventsync.access.control import AccessControl
from eventsync.access.live import LiveAccess
from eventsync.domain.ids import format_id
from eventsync.domain.positions import Position, Seq, scoped
from eventsync.domain.routes import Router
from eventsync.domain.shapes import Shape
from eventsync.errors import RateLimited, Unauthenticated
from eventsync.mongodb.client import connect as connect_mongodb
from eventsync.rules.file import read_tree
from eventsync.settings import Settings
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.stores.stores import Stores
from eventsync.sync.live.fan_out import DirectWriter
from eventsync.sync.sessions.session import Connection
from scripts.bench.clients.exactness import SHAPE, WrongError
from scripts.bench.clients.processes import Process, load_generator
from scripts.bench.deployment import Cpu, Deployment
from scripts.bench.report import Figures, Goal, Rows, Table, alternating, percentiles
from scripts.bench.routes import delivered, serving_here
from scripts.bench.stage import Stage, settled, staged, until
from scripts.bench.writers import DOCUMENTS, MINIMAL, PATIENCE, Write, closed_loop, open_loop, requesting
from support.identity import encoded, key_set, secret_file, signed_by, token

_TOKENS, _BAD, _OBEYED, _REPEATS, _WRITTEN = 2000, 10_000, 200_000, 40, 2000
_QUIET, _NOISY, _RATE, _TOGETHER = 2, 32, 20.0, 32
"""Owners of the documents that are patched, and how often or how many at a time."""

_MERGE: Final = {"Content-Type": "application/merge-patch+json", **MINIMAL}

_OPEN, _OWN, _REDACTED = "without rules", "own", "own, redacted"

_VERIFICATION: Final = f"""\
µs of CPU: of a token that is seen for the first time, of one that was verified before, and of the check of a live
connection: of the token's end, and of changes of rules and revocations. *checks*: how often that is done for each of
{_WRITTEN:,} deliveries to a connection that is live, counted in this process. A live connection verifies no token, and
is checked when it is woken; whatever ends its access ends direct writes first, so these ask nothing. *of a delivery*:
checks times µs, over the cheapest delivery below."""
_EVERYWHERE: Final = "ES256, a wrong signature, each from an address of its own"
_BAD_TOKENS: Final = f"""\
{_BAD:,} tokens, all different, as bad ones of a second, from one address unless it is said. *cores*: seconds of CPU
that refusing them takes in this process, without HTTP. *fetches*: of the keys of the issuer, after the one at the
start."""
_DELIVERIES: Final = """\
CPU of the server, as in [routes](routes.md), of clients of the collection that may see one document of it. *one each*:
a thousand clients and owners, beside clients of `docs/int:7`; *all one*: a thousand principals that see the same one.
*redacted*: a field is hidden that the changes do not touch. *of without*: over that without rules in the same round."""
_RELOAD: Final = """\
s from the begin of `apply` until each client has a change that is written once the server obeys the new rules over HTTP
(*obeyed*). *usual*: such a change without new rules. *server CPU s*: from `apply` on. *dropped*: connections that
ended."""
_MOMENTS: Final = """\
ms from the begin of a write into MongoDB until a client knows: its connection is closed because its token is revoked;
it has a change of its document; the document is gone to another owner, or back. *of a change*: p50, in the same
round."""
_NOISY_TABLE: Final = f"""\
ms of requests of one principal, {_RATE:g} a second, with and without another one that patches {_TOGETHER} at a time.
All share two cores, so that no budget keeps the figures equal. *of without*: p50; there was no figure in the goal, and
3 is ours."""
_PATCH: Final = """\
`PATCH`es one after the other. *CPU*: ms of the server. *of without*: CPU, over that without rules in the same round."""

GOALS: Final = (
    Goal("verification of a token (HS256), µs", "Verification", "a token", "µs", 60.0),
    Goal("the checks of a live connection, of a delivery", "Verification", "a live", "of a delivery", 0.01),
    Goal("10,000 bad tokens a second, cores", "Bad tokens", "", "cores", 1.0),
    Goal("… fetches of keys", "Bad tokens", "", "fetches", 0.0),
    Goal("a delivery on a restricted view, of without rules", "Deliveries", "", "of without", 1.2),
    Goal("revoke → closed, p99 ms", "Moments", "revoked", "p99", 100.0),
    Goal("rules reloaded under all connections, s", "Reload", "", "beyond usual", 1.0),
    Goal("… dropped", "Reload", "", "dropped", 0.0),
    Goal("gone at the old owner, of a change", "Moments", "gone", "of a change", 1.2),
    Goal("requests beside a noisy principal, of without", "A noisy principal", "", "of without", 3.0),
    Goal("a PATCH by rules, of without", "PATCH", "by rules", "of without", 1.2),
)

OPTIONS: Final = {
    "rounds": (3, "rounds"),
    "seconds": (4.0, "how long a round of deliveries, patches or noise takes"),
    "clients": (1000, "clients of the deliveries"),
    "connections": (9900, "connections under which rules are reloaded"),
    "revoked": (100, "connections that are revoked, one after the other"),
}
QUICK: Final = "--rounds 1 --seconds 1 --clients 100 --connections 200 --revoked 10"


async def measure(deployment: Deployment, options: argparse.Namespace) -> list[Table]:
    """Return the tables. Raises `WrongError` where a client was not exact."""
    deliveries, reload, moments, noisy, patches = (Rows() for _ in range(5))
    secret = secret_file(deployment.directory)
    async with load_generator() as clients:
        await _deliveries(deployment, clients, options, deliveries, reload)
        await _principals(deployment, clients, options, moments, noisy, patches)
    least = min(min(row["µs"]) for row in deliveries.values())
    return [
        Table("Verification", _VERIFICATION, await _verification(deployment, secret, options.rounds, least)),
        Table("Bad tokens", _BAD_TOKENS, await _bad_tokens(deployment, secret, options.rounds)),
        Table("Deliveries", _DELIVERIES, deliveries),
        Table("Moments", _MOMENTS, moments),
        Table("Reload", _RELOAD, reload),
        Table("A noisy principal", _NOISY_TABLE, noisy),
        Table("PATCH", _PATCH, patches),
    ]


def _rules(secret: Path, by: str, operator: str = "ops") -> dict[str, Any]:
    """Return a rules file: principals have their own documents by the field `by`; with `redacted`, without `text`."""
    own = {"read": {by: "$claims.owner"}, "update": {by: "$claims.owner"}}
    issuers = [
        {"iss": "backend", "secret_file": str(secret), "algorithms": ["HS256"]},
        {"iss": "provider", "jwks": "https://provider.invalid/jwks", "aud": "shop", "algorithms": ["RS256", "ES256"]},
    ]
    return {
        "auth": {"issuers": issuers},
        "roles": {"operator": {"role": operator}, "user": {"role": "user"}, "redacted": {"role": "redacted"}},
        "collections": {SHAPE: {"user": own, "redacted": own | {"hide": ["text"]}}},
    }


# --- tokens -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _control(
    deployment: Deployment, secret: Path, fetched: Callable[[str], bytes], clock: Clock | None = None
) -> AsyncIterator[AccessControl]:
    settings = Settings(mongodb_uri=deployment.uri, database="bench_tokens")
    async with connect_mongodb(settings, "bench") as client:
        control = AccessControl(settings, Stores.of(client, settings).credentials, clock=clock, fetch=fetched)
        control.replace(read_tree(_rules(secret, "_id")).access, 1)
        await control.authenticate(token(now=time.time(), sub="first"))
        yield control
        control.authenticator.close()


async def _verification(deployment: Deployment, secret: Path, rounds: int, delivery: float) -> Rows:
    rows = Rows()
    for number in range(rounds):
        tokens = [token(now=time.time(), sub=f"user-{number}-{n}", role="user", owner=n) for n in range(_TOKENS)]
        async with _control(deployment, secret, lambda _: key_set()) as control:
            access = Access(await control.authenticator.authenticate(tokens[0]), None, 0)
            for name in ("a token, cold", "a token, warm"):
                began = time.process_time()
                for text in tokens:
                    access = await control.authenticate(text)
                rows.note(name, {"µs": (time.process_time() - began) / _TOKENS * 1e6})
            live = LiveAccess(control, access, 0.0)
            live.obey()
            began = time.process_time()
            for _ in range(_OBEYED):
                live.obey()
            took, checks = (time.process_time() - began) / _OBEYED * 1e6, await _checks(deployment, secret)
            rows.note("a live connection", {"µs": took, "checks": checks, "of a delivery": checks * took / delivery})
    return rows


class _CountingClock(Clock):
    """Counts how often it is read: each check of a credential reads it."""

    reads = 0

    def now(self) -> float:
        self.reads += 1
        return super().now()


async def _checks(deployment: Deployment, secret: Path) -> float:
    """Return how often a live connection is checked for each delivery to it."""
    clock, written, rules = _CountingClock(), 0, read_tree(_rules(secret, "_id")).access
    definitions = [] if rules is None else list(rules.definitions.values())

    def write(_: bytes) -> bool:
        nonlocal written
        written += 1
        return True

    async with (
        _control(deployment, secret, lambda _: key_set(), clock) as control,
        serving_here(deployment, definitions, control) as service,
    ):
        access = await control.authenticate(token(now=time.time(), sub="one", role="user", owner=0))
        shape, live = service.source.bind(Shape(SHAPE), access), asyncio.Event()
        position = Position(scoped(service.source.log(), shape.scope), Seq(0))
        writer = DirectWriter(lambda publication: publication.data, write)

        async def receive() -> None:
            async for message in session.messages():
                if message.kind == "live":
                    asyncio.get_running_loop().call_later(0.1, live.set)  # it waits, and is attached

        async with service.sessions.open(
            [shape], {shape: position}, None, access=access, transport="websocket", connection=Connection(writer)
        ) as session:
            receiving = asyncio.create_task(receive(), name="receive")
            await live.wait()
            before, router = clock.reads, Router(definitions)
            for number in range(1, _WRITTEN + 1):
                event = StoredEvent(
                    Seq(number), SHAPE, format_id(0), b"{}", None, router.routes(SHAPE, None, {"_id": 0})[0]
                )
                service.window.extend([event])
                await asyncio.sleep(0)
            checks = (clock.reads - before) / _WRITTEN
            session.close()
            await receiving
    if written != _WRITTEN:
        raise WrongError(f"{written} of {_WRITTEN} events were written directly")
    return checks


async def _bad_tokens(deployment: Deployment, secret: Path, rounds: int) -> Rows:
    now = int(time.time())
    good, elliptic = (signed_by(name, iat=now, exp=now + 3600) for name in ("RS256", "ES256"))
    head, _, signature = good.rpartition(".")
    elliptic_head = elliptic.rpartition(".")[0]
    kinds: dict[str, Callable[[int], str]] = {
        "no token": lambda n: f"no token {n}",
        "a wrong secret": lambda n: token(b"another secret of many bytes, too", now=now, sub=f"user-{n}"),
        "expired": lambda n: token(now=now - 7200, sub=f"user-{n}"),
        "RS256, a wrong signature": lambda n: f"{head}.{signature[:-12]}{n:010d}AA",
        "RS256, a made-up `kid`": lambda n: _made_up(good, n),
        "ES256, a wrong signature": lambda n: f"{elliptic_head}.{n:086}",
        _EVERYWHERE: lambda n: f"{elliptic_head}.{n:086}",
    }
    rows, fetches = Rows(), list[str]()

    def fetched(url: str) -> bytes:
        fetches.append(url)
        return key_set()

    for _, (name, make) in alternating(rounds, list(kinds.items())):
        texts = [make(number) for number in range(_BAD)]
        async with _control(deployment, secret, fetched) as control:
            await control.authenticate(good)
            known, began, refused = len(fetches), time.process_time(), 0
            for number, text in enumerate(texts):
                try:
                    await control.authenticate(text, f"{number}" if name == _EVERYWHERE else "one")
                except (RateLimited, Unauthenticated):
                    refused += 1
            if refused != _BAD:
                raise WrongError(f"{_BAD - refused} bad tokens are accepted: {name}")
            rows.note(name, {"cores": time.process_time() - began, "fetches": len(fetches) - known})
    return rows


def _made_up(good: str, number: int) -> str:
    """Return a token whose header names a key that its issuer does not have."""
    _, _, rest = good.partition(".")
    header = encoded({"alg": "RS256", "kid": f"made-up-{number}"})
    return f"{header}.{rest}"


# --- live connections ---------------------------------------------------------------------------------------------


async def _put(stage: Stage, tree: dict[str, Any] | None) -> None:
    """Put rules in force, or take them away, and wait until they are active and the server obeys them."""
    file = read_tree(tree or {})
    if file.problems:
        raise WrongError(str(file.problems[0]))
    await stage.stores.definitions.apply(file.declarations, file.spec)
    if tree is not None:
        await until("the rules", lambda: stage.stores.definitions.active(stage.log))
    async with _client(stage) as client:
        await _until_answered(client, 200 if tree is None else 401)


def _client(stage: Stage, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    url = f"http://127.0.0.1:{stage.settings.port}"
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE)


async def _until_answered(client: httpx.AsyncClient, status: int) -> None:
    """Wait until an operators' door is open, or not any more."""

    async def check() -> bool:
        return (await client.get("/metrics")).status_code == status

    await until(f"status {status}", check)


def _headers(sub: str, owner: int, role: str = "user") -> dict[str, str]:
    return {"Authorization": f"Bearer {token(now=time.time(), sub=sub, owner=owner, role=role)}"}


async def _deliveries(
    deployment: Deployment, clients: Process, options: argparse.Namespace, rows: Rows, reload: Rows
) -> None:
    cases = {"one each": options.clients, "all one": 1}
    for number, (name, documents) in alternating(options.rounds, list(cases.items())):
        costs = dict[str, float]()
        # A redacted field of 200 bytes is in each document, and in none of its changes.
        async with (
            staged(deployment, clients, f"access_{documents}_{number}", documents) as stage,
            stage.serving() as pid,
        ):
            for mode in (_OPEN, _OWN, _REDACTED)[:: 1 if number % 2 == 0 else -1]:
                await _put(stage, None if mode == _OPEN else _rules(deployment.directory / "secret", "_id"))
                await stage.begin(clients)
                follow, role = "document" if documents > 1 or mode != _OPEN else "", _ROLES[mode]
                found = await delivered(stage, pid, options.clients, options.seconds, follow, role)
                costs[mode] = rows.note(f"{mode}, {name}", found)["µs"]
            if documents == 1:
                await _reloaded(stage, pid, options.connections, reload)
        for mode in (_OWN, _REDACTED):
            rows.note(f"{mode}, {name}", {"of without": costs[mode] / costs[_OPEN]})


_ROLES: Final = {_OPEN: "", _OWN: "user", _REDACTED: "redacted"}


async def _reloaded(stage: Stage, pid: int, count: int, rows: Rows) -> None:
    """Reload the rules under connections of as many principals."""
    secret, ask, definitions = stage.deployment.directory / "secret", stage.clients.ask, stage.stores.definitions
    await _put(stage, _rules(secret, "_id"))
    await stage.begin(stage.clients)
    await ask("open", transport="websocket", count=count, seq=None, follow="document", role="user")
    await settled(pid, resting=0.6)  # pings and heartbeats of 10,000 connections take about a third of a core

    async def change() -> float:
        """Return when each client has a change that is written now."""
        seq = await stage.head() + 1
        await stage.write(seq, 1)
        at: float = (await ask("exact", seq=seq, seconds=PATIENCE))["at"]
        return at

    began = time.monotonic()
    usual = await change() - began
    file = read_tree(_rules(secret, "_id", "others"))
    async with _client(stage, _headers("ops", 0, "others")) as client:
        await _until_answered(client, 403)
        cpu, began = Cpu(server=pid), time.monotonic()
        await definitions.apply(file.declarations, file.spec)
        await _until_answered(client, 200)
        obeyed = time.monotonic() - began
        whole, used = await change() - began, cpu.used()["server"]
    figures = {"s": whole, "obeyed": obeyed, "usual": usual, "beyond usual": whole - usual, "server CPU s": used}
    rows.note(f"{count:,} connections", figures | {"dropped": (await ask("ends"))["ends"]})


async def _principals(
    deployment: Deployment, clients: Process, options: argparse.Namespace, moments: Rows, noisy: Rows, patches: Rows
) -> None:
    async with staged(deployment, clients, "principals", 64) as stage, stage.serving() as pid:
        await stage.stores.data[SHAPE].update_many({}, [{"$set": {"owner": {"$min": ["$_id", _NOISY]}}}])
        for number in range(options.rounds):
            costs = dict[str, float]()
            for mode in (_OPEN, "by rules")[:: 1 if number % 2 == 0 else -1]:
                await _put(stage, None if mode == _OPEN else _rules(deployment.directory / "secret", "owner"))
                costs[mode] = patches.note(mode, await _patched(stage, pid, options.seconds))["CPU"]
                if mode != _OPEN:
                    await _revoked(stage, options.revoked, f"{number}", moments)
                    await _moved(stage, moments)
                    await _beside_noise(stage, options.seconds, noisy)
            patches.note("by rules", {"of without": costs["by rules"] / costs[_OPEN]})


def _requests(stage: Stage, method: str) -> AbstractAsyncContextManager[Write]:
    """Make requests about the document of a principal, one at a time."""
    path, headers = f"{DOCUMENTS}/int:{_QUIET}", _MERGE | _headers("quiet", _QUIET)
    return requesting(stage.settings.port, method, lambda _: path, headers, lambda n, at: {"n": n, "at": at})


async def _patched(stage: Stage, pid: int, seconds: float) -> Figures:
    async with _requests(stage, "PATCH") as write:
        await closed_loop(write, 0, 1, seconds / 4)
        cpu = Cpu(server=pid)
        took = await closed_loop(write, 0, 1, seconds)
        return percentiles(took) | {"CPU": cpu.used()["server"] / len(took) * 1000}


@asynccontextmanager
async def _follower(stage: Stage, owner: int, jti: str) -> AsyncIterator[ClientConnection]:
    """Give the connection of a client that is live."""
    text = token(now=time.time(), sub=f"follower-{owner}", jti=jti, owner=owner, role="user")
    url = f"ws://127.0.0.1:{stage.settings.port}/v1/sync"
    async with connect(url, subprotocols=["eventsync.v1"], proxy=None) as connection:  # type: ignore[list-item]
        await connection.send(orjson.dumps({"type": "hello", "shapes": [SHAPE], "token": text}).decode())
        await _received(connection, lambda message: message["type"] == "live")
        yield connection


async def _received(connection: ClientConnection, wanted: Callable[[Any], bool]) -> float:
    """Return when a message came."""
    async with asyncio.timeout(PATIENCE):
        while not wanted(orjson.loads(await connection.recv())):
            pass
    return time.monotonic()


async def _closed(connection: ClientConnection) -> float:
    """Return when a connection was closed because its token is revoked."""
    with suppress(ConnectionClosed):
        await _received(connection, lambda _: False)
    if connection.close_code != 4401:
        raise WrongError(f"a revoked connection is closed with {connection.close_code}")
    return time.monotonic()


async def _revoked(stage: Stage, count: int, run: str, rows: Rows) -> None:
    took = list[float]()
    async with AsyncExitStack() as stack:
        names = [f"bench-{run}-{number}" for number in range(count)]
        for jti in names:
            connection = await stack.enter_async_context(_follower(stage, 1, jti))
            closed = asyncio.create_task(_closed(connection), name="closed")
            await asyncio.sleep(0)
            began = time.monotonic()
            await stage.stores.credentials.revocations.add(f"jti:{jti}", 600)
            took.append((await closed - began) * 1000)
    rows.note("revoked → closed", percentiles(took))


async def _moved(stage: Stage, rows: Rows) -> None:
    """Change a document, take it from its owner, and give it back."""
    docs, took = stage.stores.data[SHAPE], {"a change": list[float](), "gone": list[float](), "back": list[float]()}

    def event(**members: bool) -> Callable[[Any], bool]:
        return lambda message: message["type"] == "events" and members.items() <= message["events"][-1].items()

    kinds = {"a change": ("n", event()), "gone": ("owner", event(leave=True)), "back": ("owner", event(enter=True))}
    async with _follower(stage, 1, "moved") as connection:
        for number in range(_REPEATS):
            for name, (field, wanted) in kinds.items():
                received = asyncio.create_task(_received(connection, wanted), name="received")
                await asyncio.sleep(0)
                began, value = time.monotonic(), {"a change": number + 1, "gone": 1000, "back": 1}[name]
                await docs.update_one({"_id": 1}, {"$set": {field: value}})
                took[name].append((await received - began) * 1000)
    usual = rows.note("a change", percentiles(took["a change"]))["p50"]
    for name in ("gone", "back"):
        found = percentiles(took[name])
        rows.note(name, found | {"of a change": found["p50"] / usual})


async def _beside_noise(stage: Stage, seconds: float, rows: Rows) -> None:
    usual = await _asked(stage, seconds)
    async with asyncio.TaskGroup() as group:
        headers = _MERGE | _headers("noisy", _NOISY)
        flood = stage.clients.ask("flood", headers=headers, first=_NOISY, together=_TOGETHER, seconds=2 * seconds + 1)
        task = group.create_task(flood, name="noise")
        await asyncio.sleep(0.5)
        found = await _asked(stage, seconds)
    for method, figures in found.items():
        rows.note(method, usual[method])
        rows.note(f"{method}, with noise", figures | {"of without": figures["p50"] / usual[method]["p50"]})
    rows.note("the noise", await task)


async def _asked(stage: Stage, seconds: float) -> dict[str, Figures]:
    found = dict[str, Figures]()
    for method in ("PATCH", "GET"):
        async with _requests(stage, method) as write:
            found[method] = percentiles(await open_loop(write, 0, round(_RATE * seconds), _RATE))
    return found
