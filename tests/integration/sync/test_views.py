"""Clients under rules hold exactly what they may see of a shape, whatever they missed, over each transport."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.domain.predicates.definitions import define
from eventsync.mongodb.change_stream import watch
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.clients import PEERS, Follower
from support.documents import joined
from support.identity import token
from support.peers.peer import Asked
from support.replay import caught_up
from support.replica import Replica
from support.ruled import EVERYTHING, apply_rules, ruled_system, socket
from support.systems import running_server, running_system, running_worker, tracked
from support.waiting import eventually, patience, within
from support.writers import change_one

CANARY = "canary-4f1b"
BY_STATE = define("by_state", "docs", {"state": "$state"}, {"state": ["text"]})
OF_TEAM = define("of_team", "docs", {"team": {"$in": "$team"}}, {"team": ["text"]}, {"team": "teams"})
READ = {"$or": [{"owner": "$claims.sub"}, {"readers": "$claims.sub"}]}
USER = {"read": READ, "hide": ["secret", "lines.*.cost"]}
RULES: dict[str, Any] = {
    "roles": {"user": True, "auditor": {"roles": "audit"}},
    "collections": {"docs": {"user": USER, "auditor": {"read": True, "hide": ["secret", "lines.*.cost"]}}},
}


def token_of(sub: str, **claims: Any) -> str:
    return token(now=time.time(), sub=sub, **claims)


def client_of(url: str, sub: str, **claims: Any) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token_of(sub, **claims)}"}
    return httpx.AsyncClient(base_url=url, timeout=patience(20), headers=headers)


async def served(url: str, *shapes: str) -> None:
    """Wait until a server obeys the rules, and serves these shapes to `ada`."""
    async with client_of(url, "ada") as client, httpx.AsyncClient(base_url=url, timeout=patience(20)) as nobody:

        async def answered() -> bool:
            if (await nobody.get("/v1/collections")).status_code != httpx.codes.UNAUTHORIZED:
                return False
            answers = [await client.get("/v1/sync/snapshot", params={"shape": shape}) for shape in shapes]
            return all(answer.status_code == httpx.codes.OK for answer in answers)

        await eventually(answered, 20)


class Guarded(Follower):
    """A follower that fails at a hidden value in any message."""

    def _take(self, message: dict[str, Any]) -> None:
        assert CANARY not in json.dumps(message), self.name
        super()._take(message)


@asynccontextmanager
async def following(
    url: str,
    shape: str,
    transport: str,
    credential: str,
    *,
    replica: Replica | None = None,
    seed: int = 1,
    cut_after: int | None = None,
) -> AsyncIterator[Follower]:
    """Follow while the block runs, in place of the client that left this replica."""
    follower = Guarded([url], shape, transport, seed=seed, cut_after=cut_after, token=credential)
    follower.replica = replica or follower.replica
    async with asyncio.TaskGroup() as group:
        task = group.create_task(follower.run(), name=follower.name)
        try:
            yield follower
        finally:
            follower.leave()
            task.cancel()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",)})


@pytest.fixture
async def url(stores: Stores, settings: Settings, tmp_path: Path) -> AsyncIterator[str]:
    async with running_system(settings) as url:
        await apply_rules(stores, tmp_path, RULES, BY_STATE, OF_TEAM)
        await served(url, "docs", "by_state?state=open")
        yield url


def shown(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what readers see of a document."""
    found = {name: value for name, value in document.items() if name != "secret"}
    if isinstance(found.get("lines"), list):
        found["lines"] = [{name: value for name, value in line.items() if name != "cost"} for line in found["lines"]]
    return found


async def expected(stores: Stores, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return what MongoDB finds, as readers see it."""
    return {f"int:{item['_id']}": shown(item) async for item in stores.data["docs"].find(where)}


def may_read(sub: str) -> dict[str, Any]:
    return {"$or": [{"owner": sub}, {"readers": sub}]}


async def head(stores: Stores) -> str:
    log = await caught_up(stores)
    return f"{log}:{await stores.events.head(log)}"


@pytest.mark.parametrize("transport", PEERS)
async def test_documents_enter_and_leave_with_their_owner(stores: Stores, url: str, transport: str) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": 1, "owner": "ada", "secret": CANARY}, {"_id": 2, "owner": "bob", "secret": CANARY}])
    await caught_up(stores)
    async with following(url, "docs", transport, token_of("ada")) as follower:
        await follower.has("int:1")
        # Which comes in the snapshot, or as an event behind an older one.
        begun = follower.replica.events
        await docs.update_one({"_id": 2}, {"$set": {"readers": ["ada"], "n": 5}})
        await follower.has("int:2")
        await docs.update_one({"_id": 2}, {"$set": {"n": 6, "secret": CANARY + "2"}})
        await docs.update_one({"_id": 1}, {"$set": {"owner": "bob"}})
        await docs.update_one({"_id": 1}, {"$set": {"note": CANARY}})
        await follower.reached(await head(stores))
        assert follower.replica.documents == {"int:2": {"_id": 2, "owner": "bob", "readers": ["ada"], "n": 6}}
        assert (follower.replica.snapshots, follower.replica.resets) == (1, 0)
        assert follower.replica.events - begun == 3


@pytest.mark.parametrize("transport", PEERS)
async def test_a_document_with_two_owners_is_shown_to_nobody_who_would_read_another_s_name_in_it(
    stores: Stores, url: str, transport: str
) -> None:
    """MongoDB finds it by the first value; each reader is shown the last, which decides."""
    twice = joined({"_id": 1, "owner": "ada"}, {"owner": "bob", "secret": CANARY})
    await stores.data["docs"].insert_many([twice, {"_id": 2, "owner": "ada"}, {"_id": 3, "owner": "bob"}])
    assert await stores.data["docs"].count_documents({"owner": "ada"}) == 2, "by the first value"
    await caught_up(stores)
    async with (
        following(url, "docs", transport, token_of("ada")) as ada,
        following(url, "docs", transport, token_of("bob")) as bob,
        client_of(url, "ada") as client,
        client_of(url, "bob") as other,
    ):
        await ada.reached(await head(stores))
        await bob.reached(await head(stores))
        assert set(ada.replica.documents) == {"int:2"}
        assert (await other.get("/v1/collections/docs/documents/int:1")).status_code == 404
        assert {row["owner"] for row in bob.replica.documents.values()} == {"bob"}
        assert (await client.get("/v1/collections/docs/documents/int:1")).status_code == 404
        listed = (await client.get("/v1/collections/docs/documents")).raise_for_status().json()
        assert [row["id"] for row in listed["documents"]] == ["int:2"]
        for reader, own in ((client, "int:2"), (other, "int:3")):
            answer = await reader.get("/v1/collections/docs/documents", params={"position": await head(stores)})
            assert [row["id"] for row in answer.raise_for_status().json()["documents"]] == [own]
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"n": 1}})
        await ada.reached(await head(stores))
        await bob.reached(await head(stores))
        assert set(ada.replica.documents) == {"int:2"}
        assert {row["owner"] for row in bob.replica.documents.values()} == {"bob"}


@pytest.mark.parametrize("transport", PEERS)
async def test_updates_of_a_field_that_stands_twice_are_told_as_mongodb_stores_them(
    stores: Stores, url: str, transport: str
) -> None:
    """MongoDB changes the first value, and makes its image as if it had changed both."""
    docs = stores.data["docs"]
    await docs.insert_one(joined({"_id": 1, "owner": "ada", "n": 1}, {"owner": "bob", "n": 2}))
    await caught_up(stores)
    async with (
        following(url, "docs", transport, token_of("bob")) as bob,
        following(url, "docs", transport, token_of("max", roles=["audit"])) as auditor,
    ):
        await bob.reached(await head(stores))
        await auditor.reached(await head(stores))
        for update in ({"$unset": {"owner": ""}}, {"$unset": {"n": ""}}, {"$set": {"n": 3}}, {"$set": {"m": 1}}):
            await docs.update_one({"_id": 1}, update)
            position = await head(stores)
            await bob.reached(position)
            await auditor.reached(position)
            assert bob.replica.documents == auditor.replica.documents == await expected(stores, {})


SHAPES: dict[str, dict[str, Any]] = {
    "docs": {},
    "by_state?state=open": {"state": "open"},
    "docs/int:3": {"_id": 3},
}


def drawn(chance: random.Random) -> dict[str, Any]:
    return {
        "owner": chance.choice(["ada", "bob", "eve"]),
        "readers": chance.sample(["ada", "bob", "eve"], chance.randint(0, 2)),
        "state": chance.choice(["open", "closed"]),
        "secret": f"{CANARY}-{chance.randint(0, 99)}",
        "lines": [{"cost": f"{CANARY}-{chance.randint(0, 9)}", "n": n} for n in range(chance.randint(0, 2))],
        "n": chance.randint(0, 99),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("window_bytes", "seed"), [(64 * 1024 * 1024, 0), (1, 1)])
async def test_all_clients_hold_what_mongodb_finds_for_them(
    stores: Stores, settings: Settings, tmp_path: Path, window_bytes: int, seed: int
) -> None:
    """With a window of one event, what they missed comes from MongoDB: as events, squashed, or as a snapshot."""
    chance = random.Random(seed)
    settings = settings.model_copy(update={"window_bytes": window_bytes})
    async with running_system(settings) as url, AsyncExitStack() as stack:
        for _ in range(30):
            await change_one(stores.data["docs"], drawn(chance), chance)
        await apply_rules(stores, tmp_path, RULES, BY_STATE, OF_TEAM)
        await served(url, *SHAPES)
        followers: list[tuple[Follower, dict[str, Any]]] = []
        for transport in PEERS:
            for shape, where in SHAPES.items():
                for sub, rule in (("ada", may_read("ada")), ("eve", may_read("eve")), ("max", {})):
                    credential = token_of(sub, roles=["audit"]) if sub == "max" else token_of(sub)
                    entered = following(url, shape, transport, credential, seed=seed, cut_after=3)
                    followers.append((await stack.enter_async_context(entered), {"$and": [where, rule]}))
        for _ in range(100):
            await change_one(stores.data["docs"], drawn(chance), chance)
            if chance.random() < 0.05:
                await caught_up(stores)
        position = await head(stores)
        for follower, where in followers:
            await follower.reached(position, seconds=40)
            assert follower.replica.documents == await expected(stores, where), follower.name
            assert follower.replica.resets == 0


@pytest.mark.parametrize("order", [("websocket", "sse", "http"), ("http", "websocket", "sse"), ("sse", "http", "sse")])
async def test_owner_changes_while_away_are_told_on_return(stores: Stores, url: str, order: tuple[str, ...]) -> None:
    """A client that comes back over another transport continues at its position."""
    docs, ada = stores.data["docs"], token_of("ada")
    await docs.insert_many([{"_id": n, "owner": ("ada", "bob")[n % 2], "secret": CANARY} for n in range(6)])
    await caught_up(stores)
    replica = Replica("docs")
    for number, transport in enumerate(order):
        async with following(url, "docs", transport, ada, replica=replica) as follower:
            await follower.reached(await head(stores))
            assert replica.documents == await expected(stores, may_read("ada"))
        await docs.update_one({"_id": number}, [{"$set": {"owner": {"$cond": [number % 2, "ada", "bob"]}}}])
        await docs.update_one({"_id": number}, {"$set": {"note": CANARY if number % 2 == 0 else "now of ada"}})
        await docs.update_one({"_id": 5}, {"$inc": {"n": 1}})
    async with following(url, "docs", order[0], ada, replica=replica) as follower:
        await follower.reached(await head(stores))
    assert replica.documents == await expected(stores, may_read("ada"))
    assert list(replica.documents) == ["int:4", "int:1"]
    assert (replica.snapshots, replica.resets) == (1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("transport", PEERS)
async def test_archived_events_are_shown_as_they_were_seen(
    stores: Stores, settings: Settings, tmp_path: Path, transport: str
) -> None:
    """The HTTP log has events only, so a client far behind gets them from segments; others may get a snapshot."""
    soon = {"hot_events": 5, "segment_events": 20, "snapshot_events": 50, "snapshot_min_events": 1}
    update: dict[str, Any] = soon | {"archive_url": str(tmp_path / "archive"), "window_bytes": 1}
    chance, docs = random.Random(3), stores.data["docs"]
    async with running_system(settings.model_copy(update=update)) as url, AsyncExitStack() as stack:
        await apply_rules(stores, tmp_path, RULES, BY_STATE, OF_TEAM)
        await served(url, *SHAPES)
        replicas: list[tuple[str, str, dict[str, Any], Replica]] = []
        for shape, found in SHAPES.items():
            for credential, rule in ((token_of("ada"), may_read("ada")), (token_of("max", roles=["audit"]), {})):
                async with following(url, shape, transport, credential) as follower:
                    await follower.reached(await head(stores))
                replicas.append((shape, credential, {"$and": [found, rule]}, follower.replica))
        await docs.insert_many([{"_id": n, **drawn(chance)} for n in range(10)])
        for _ in range(80):
            await change_one(stores.data["docs"], drawn(chance), chance)
        log = await caught_up(stores)
        async with within(30), watch(stores.log, [{"$match": {"ns.coll": "tiers"}}]) as stream:
            while (await stores.tiers.read(log)).archived_up_to < 60:
                await stream.read(wait=1, limit=1)
        for shape, credential, where, replica in replicas:
            entered = following(url, shape, transport, credential, replica=replica)
            follower = await stack.enter_async_context(entered)
            await follower.reached(await head(stores))
            assert replica.documents == await expected(stores, where), follower.name
            assert replica.resets == 0
            assert replica.snapshots == 1 or transport != "http"


async def test_transaction_counts_what_is_seen_of_it(stores: Stores, url: str) -> None:
    docs, ada = stores.data["docs"], token_of("ada")
    async with client_of(url, "ada") as client:
        begin = json.loads((await client.get("/v1/sync/snapshot", params={"shape": "docs"})).text.splitlines()[0])
        rows = [{"_id": n, "owner": ("ada", "bob")[n % 2], "secret": CANARY} for n in range(5)]
        async with docs.database.client.start_session() as session, await session.start_transaction():
            await docs.insert_many(rows, session=session)
        await caught_up(stores)
        query = {"shape": "docs", "position": begin["position"], "wait": "10"}
        page = (await client.get("/v1/sync/log", params=query)).json()
        of_one = (await client.get("/v1/collections/docs/documents/int:2/events")).json()["events"]
    assert [(event["id"], event["txn"]["n"], event["txn"]["of"]) for event in page["events"]] == [
        ("int:0", 1, 3),
        ("int:2", 2, 3),
        ("int:4", 3, 3),
    ]
    assert len({event["txn"]["id"] for event in page["events"]}) == 1
    assert ["txn" in event for event in of_one] == [False]
    assert CANARY not in json.dumps([page, of_one])
    async with following(url, "docs", "websocket", ada) as follower:
        await follower.reached(page["to"])
        assert list(follower.replica.documents) == ["int:0", "int:2", "int:4"]


async def test_history_begins_with_the_rules_and_hides_what_the_document_hides(
    stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    docs, path = stores.data["docs"], "/v1/collections/docs/documents/int:1/events"
    async with running_system(settings) as url:
        await docs.insert_one({"_id": 1, "owner": "ada", "secret": CANARY, "n": 0, "text": "x" * 200})
        await caught_up(stores)
        await apply_rules(stores, tmp_path, RULES, BY_STATE, OF_TEAM)
        await served(url, "docs")
        await docs.update_one({"_id": 1}, {"$set": {"n": 1, "secret": CANARY + "1"}})
        await docs.update_one({"_id": 1}, {"$set": {"secret": CANARY + "2"}})
        await caught_up(stores)
        async with client_of(url, "ada") as ada, client_of(url, "bob") as bob:
            await eventually(lambda: _has_events(ada, path, 2), 20)
            history = (await ada.get(path)).json()
            assert [event["patch"] for event in history["events"]] == [
                [{"op": "replace", "path": "/n", "value": 1}],
                [],
            ]
            refused, missing = await bob.get(path), await bob.get(path.replace("int:1", "int:9"))
            assert refused.status_code == missing.status_code == httpx.codes.NOT_FOUND
            assert refused.text.replace("int:1", "int:9") == missing.text
            await docs.update_one({"_id": 1}, {"$set": {"owner": "bob"}})
            await caught_up(stores)
            await eventually(lambda: _has_events(bob, path, 1), 20)
            (entered,) = (await bob.get(path)).json()["events"]
            assert (entered["op"], entered["enter"]) == ("create", True)
            assert entered["doc"] == {"_id": 1, "owner": "bob", "n": 1, "text": "x" * 200}
            assert (await ada.get(path)).text.replace("int:1", "int:9") == missing.text


async def _has_events(client: httpx.AsyncClient, path: str, count: int) -> bool:
    return len((await client.get(path)).json().get("events", ())) == count


@pytest.mark.parametrize("transport", PEERS)
async def test_parameter_from_a_claim_follows_what_the_claim_says(stores: Stores, url: str, transport: str) -> None:
    docs = stores.data["docs"]
    await docs.insert_many([{"_id": n, "team": ("red", "blue")[n % 2], "owner": "ada"} for n in range(4)])
    await caught_up(stores)
    credential = token_of("ada", teams=["red", "green"])
    async with following(url, "of_team?", transport, credential) as follower:
        await follower.has("int:2")
        await docs.update_one({"_id": 1}, {"$set": {"team": "green"}})
        await docs.update_one({"_id": 0}, {"$set": {"team": "blue"}})
        await follower.reached(await head(stores))
        assert list(follower.replica.documents) == ["int:2", "int:1"]


async def refusals(url: str, shape: str, credential: str) -> list[tuple[str, Any]]:
    """Return how each transport refuses a shape, without its name."""
    found: list[tuple[str, Any]] = []
    headers = {"Authorization": f"Bearer {credential}"}
    async with httpx.AsyncClient(base_url=url, timeout=patience(20), headers=headers) as client:
        for path in ("sync/log", "sync/snapshot", "sync/sse"):
            query = {"shape": shape} | ({"position": "aaaaaaaa:0"} if path == "sync/log" else {})
            answer = await client.get(f"/v1/{path}", params=query)
            problem = {name: value for name, value in answer.json().items() if name not in {"instance", "trace"}}
            found.append((path, problem))
        answer = await client.put("/v1/state-vectors/c1", json={"vector": {shape: "aaaaaaaa:0"}})
        found.append(("vector", answer.json()["type"]))
    async with PEERS["websocket"].open(url, Asked((shape,), token=credential)) as link:
        received = await link.receive()
        while received is not None and received.message["type"] == "welcome":
            received = await link.receive()
        assert received is not None
        found.append(("websocket", {name: received.message[name] for name in ("type", "code", "message")}))
    return json.loads(json.dumps(found).replace(shape, "SHAPE"))  # type: ignore[no-any-return]


async def test_shape_that_may_not_be_read_is_refused_as_one_that_does_not_exist(
    stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    both = settings.model_copy(update={"collections": ("docs", "other")})
    async with running_system(both) as url:
        await stores.data["other"].insert_one({"_id": 1})
        await apply_rules(stores, tmp_path, RULES, BY_STATE, OF_TEAM)
        await served(url, "docs")
        there, missing = [await refusals(url, name, token_of("ada")) for name in ("other", "nothing")]
        assert there == missing
        assert there[0][1]["status"] == httpx.codes.FORBIDDEN
        assert there[-1][1]["code"] == "forbidden"
        of_document = await refusals(url, "other/int:1", token_of("ada"))
        assert of_document == await refusals(url, "nothing/int:1", token_of("ada"))


async def test_rule_that_is_not_active_serves_nothing_until_it_is(
    stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    async with running_server(settings) as url:
        async with running_worker(settings):
            await tracked(url, settings.collections)
            await stores.data["docs"].insert_many([{"_id": n, "owner": ("ada", "bob")[n]} for n in range(2)])
            await caught_up(stores)
        await apply_rules(stores, tmp_path, RULES, BY_STATE, OF_TEAM)
        async with client_of(url, "ada") as ada, client_of(url, "max", roles=["audit"]) as auditor:
            await eventually(lambda: _answers(ada, 503), 20)
            assert len((await auditor.get("/v1/sync/snapshot", params={"shape": "docs"})).text.splitlines()) == 3
            async with following(url, "docs", "websocket", token_of("ada")) as follower, running_worker(settings):
                await follower.has("int:0")
                assert list(follower.replica.documents) == ["int:0"]


async def _answers(client: httpx.AsyncClient, status: int) -> bool:
    return (await client.get("/v1/sync/snapshot", params={"shape": "docs"})).status_code == status


@pytest.mark.parametrize("transport", PEERS)
async def test_large_documents_are_redacted_by_a_helper(stores: Stores, url: str, transport: str) -> None:
    """More than 64 KiB: a row of the snapshot, a patch, and a document beside a patch."""
    docs, long = stores.data["docs"], "x" * 100_000
    await docs.insert_many([{"_id": n, "owner": ("ada", "bob")[n], "secret": CANARY, "text": long} for n in range(2)])
    await caught_up(stores)
    async with following(url, "docs", transport, token_of("ada")) as follower:
        await follower.has("int:0")
        await docs.update_one({"_id": 0}, {"$set": {"lines": [{"cost": CANARY, "n": "y" * 100_000}]}})
        await docs.update_one({"_id": 1}, {"$set": {"owner": "ada"}})
        await follower.reached(await head(stores))
        assert follower.replica.documents == await expected(stores, may_read("ada"))
        assert len(follower.replica.documents) == 2


async def test_work_of_requests_delays_no_events(settings: Settings, tmp_path: Path) -> None:
    """All helpers of requests are busy: large events from which something is hidden arrive, and all that follow."""
    changed = {"collections": ("docs", "other"), "offload_processes": 1, "offload_timeout": 600.0}
    seen = {"docs": {"user": {"read": True, "hide": ["secret"]}}, "other": {"user": {"read": True}}}
    rules = {
        "roles": {"user": True, "operator": {"roles": "ops"}},
        "collections": {**seen, "*": {"operator": EVERYTHING}},
    }
    async with ruled_system(settings.model_copy(update=changed), tmp_path, rules) as system:
        offload, data = system.sync()._stores.offload, system.stores.data
        async with (
            system.client("ada") as ada,
            socket(system, system.token()) as follower,
            asyncio.TaskGroup() as group,
        ):
            await follower.until("live")
            poll = {"shape": "other", "wait": "20"}
            poll["position"] = (await ada.get("/v1/sync/log", params={"shape": "other"})).json()["to"]
            working = group.create_task(offload.run(time.sleep, 600, size=1))
            await eventually(lambda: offload.waiting_bytes)
            await data["docs"].insert_one({"_id": 1, "secret": CANARY, "text": "x" * 100_000})
            await data["other"].insert_one({"_id": 1})
            events = (await ada.get("/v1/sync/log", params=poll)).json()["events"]
            assert [event["collection"] for event in events] == ["other"]
            assert CANARY not in json.dumps(await follower.until("events"))
            assert not working.done()
            working.cancel()
