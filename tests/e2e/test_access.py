"""Rules from the file to the clients: applied by the command line, obeyed by servers and workers of their own."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.clients import PEERS, following
from support.environment import environment_of
from support.identity import secret_file, token
from support.program import finished
from support.replay import caught_up
from support.systems import Processes, tracked
from support.waiting import eventually, patience

CANARY = "canary-77ab"

RULES = """
[auth]
issuers = [{ iss = "backend", secret_file = "SECRET", algorithms = ["HS256"] }]

[roles]
user = { sub = { "$exists" = true } }

[collections.orders.user]
read = { "$or" = [{ owner = "$claims.sub" }, { watchers = "$claims.sub" }] }
create = { owner = "$claims.sub" }
update = { owner = "$claims.sub" }
hide = ["margin"]
fixed = ["owner"]
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("orders",)})


@pytest.fixture
def processes(processes: Processes) -> Processes:
    processes.start("worker", "serve")
    return processes


def token_of(sub: str) -> str:
    return token(now=time.time(), sub=sub)


def client_of(url: str, sub: str | None) -> httpx.AsyncClient:
    headers = {} if sub is None else {"Authorization": f"Bearer {token_of(sub)}"}
    return httpx.AsyncClient(base_url=f"{url}/v1/collections/orders", timeout=patience(20), headers=headers)


async def test_a_user_sees_and_changes_only_its_own(
    processes: Processes, settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    await tracked(processes.url, ["orders"])
    rows = [{"_id": n, "owner": sub, "margin": CANARY} for n, sub in enumerate(("ada", "eve", "ada"), 1)]
    orders = stores.data["orders"]
    await orders.insert_many(rows)
    file = tmp_path / "rules.toml"
    file.write_text(RULES.replace("SECRET", str(secret_file(tmp_path))))
    applied = await finished(
        "rules", "apply", environment=environment_of(settings), directory=tmp_path, seconds=patience(40)
    )
    assert applied.exit_code == 0, applied

    async with client_of(processes.url, None) as client:
        await eventually(lambda: _is(client, httpx.codes.UNAUTHORIZED), 20)
        answer = await client.get("/documents")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert CANARY not in answer.text
    async with client_of(processes.url, "ada") as client:
        await eventually(lambda: _is(client, httpx.codes.OK), 20)
        mine, other, missing = [await client.get(f"/documents/int:{n}") for n in (1, 2, 9)]
        assert mine.json()["doc"] == {"_id": 1, "owner": "ada"}
        assert (other.status_code, other.content.replace(b"int:2", b"")) == (
            404,
            missing.content.replace(b"int:9", b""),
        )
        listed = (await client.get("/documents")).json()
        assert [item["id"] for item in listed["documents"]] == ["int:1", "int:3"]
        put = await client.put("/documents/int:1", json={"_id": 1, "owner": "ada", "note": "x"})
        assert put.status_code == httpx.codes.OK, put.text
        assert await orders.find_one({"_id": 1}, {"_sync": 0}) == {
            "_id": 1,
            "owner": "ada",
            "margin": CANARY,
            "note": "x",
        }
        merge = {"Content-Type": "application/merge-patch+json"}
        hidden = await client.patch("/documents/int:1", headers=merge, content='{"margin": 1}')
        fixed = await client.patch("/documents/int:1", headers=merge, content='{"owner": ["ada"]}')
        others = await client.patch("/documents/int:2", headers=merge, content='{"note": "x"}')
        assert [answer.status_code for answer in (hidden, fixed, others)] == [403, 403, 404]
        for answer in (mine, other, put, hidden, fixed, others):
            assert CANARY not in answer.text


@pytest.mark.parametrize("transport", PEERS)
async def test_a_client_follows_what_its_principal_may_read(
    processes: Processes, settings: Settings, stores: Stores, tmp_path: Path, transport: str
) -> None:
    await tracked(processes.url, ["orders"])
    orders = stores.data["orders"]
    await orders.insert_many(
        [{"_id": 1, "owner": "ada", "margin": CANARY}, {"_id": 2, "owner": "eve", "margin": CANARY}]
    )
    (tmp_path / "rules.toml").write_text(RULES.replace("SECRET", str(secret_file(tmp_path))))
    applied = await finished(
        "rules", "apply", environment=environment_of(settings), directory=tmp_path, seconds=patience(40)
    )
    assert applied.exit_code == 0, applied
    async with client_of(processes.url, "ada") as client:
        await eventually(lambda: _is(client, httpx.codes.OK), 20)
    async with following(processes.url, "orders", transport, token=token_of("ada")) as follower:
        await follower.has("int:1")
        await orders.update_one({"_id": 2}, {"$set": {"watchers": ["ada"]}})
        await follower.has("int:2")
        await orders.update_one({"_id": 1}, {"$set": {"owner": "eve", "note": CANARY}})
        await orders.insert_one({"_id": 3, "owner": "eve"})
        log = await caught_up(stores)
        await follower.reached(f"{log}:{await stores.events.head(log)}", seconds=20)
        assert follower.replica.documents == {"int:2": {"_id": 2, "owner": "eve", "watchers": ["ada"]}}


async def _is(client: httpx.AsyncClient, code: int) -> bool:
    return (await client.get("/documents")).status_code == code
