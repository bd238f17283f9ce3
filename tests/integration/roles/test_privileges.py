"""The documented roles are enough, and anything less is one clear line: with a `mongod` that checks who may do what."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventsync.cli import _FURTHER
from eventsync.dev import mongod
from eventsync.mongodb.client import connect
from eventsync.mongodb.privileges import ROLES, resources
from eventsync.nodestorage import Author, NodeStorage, WritePolicy
from eventsync.settings import Settings
from integration.roles.conftest import (
    PAGE,
    Admin,
    as_user,
    command,
    documented,
    documented_of_mongodb,
    give_back,
    only,
    revoke,
    roles_for,
)
from support.identity import secret_file
from support.systems import Processes, tracked
from support.waiting import patience

PATCH = {"Content-Type": "application/json-patch+json"}
FATAL = [
    ("worker", "shop", "find"),
    ("worker", "shop", "changeStream"),
    ("worker", "shop", "listCollections"),
    ("worker", "shop_eventsync", "insert"),
    ("worker", "local", "find"),
    ("serve", "shop", "find"),
    ("serve", "shop", "listCollections"),
    ("serve", "shop_eventsync", "changeStream"),
    ("serve", "shop_eventsync", "update"),
]


def test_the_documented_roles_are_those_that_are_checked() -> None:
    settings = Settings(database="shop")
    assert documented() == {f"eventsync-{role}": _definition(role, settings) for role in ROLES}


def _definition(role: str, settings: Settings) -> dict[str, Any]:
    """Return a role as `createRole` takes it."""
    privileges = [
        {"resource": {"db": database, "collection": collection}, "actions": list(ROLES[role][where])}
        for where, database, collection, _ in resources(role, settings)
    ]
    return {"role": f"eventsync-{role}", "privileges": privileges, "roles": []}


def test_the_roles_of_mongodb_are_read_from_the_page() -> None:
    assert documented_of_mongodb() == [
        *({"role": role, "db": name} for name in ("shop", "shop_eventsync") for role in ("readWrite", "dbAdmin")),
        {"role": "clusterMonitor", "db": "admin"},
    ]


@pytest.mark.parametrize("given", ["own", "built-in"])
async def test_the_documented_roles_are_enough(
    running: Processes, admin: Admin, port: int, tmp_path: Path, given: str
) -> None:
    async with httpx.AsyncClient(base_url=running.url, timeout=patience(20)) as client:
        for path, body in (("a", {"n": 1}), ("a", {"n": 2}), ("b", {"n": 1})):
            made = await client.put(
                f"/v1/collections/orders/documents/{path}", json=body, headers={"Idempotency-Key": f"{path}{body}"}
            )
            assert made.status_code in {200, 201}, made.text
        # Without a key each of these takes another way.
        plain = "/v1/collections/orders/documents/plain"
        assert (await client.put(plain, json={"n": 1})).status_code == 201
        assert (await client.put(plain, json={"n": 2})).status_code == 200
        assert (
            await client.patch(plain, json=[{"op": "replace", "path": "/n", "value": 3}], headers=PATCH)
        ).status_code == 200
        assert (await client.delete(plain)).status_code == 200
        assert (await client.post("/v1/collections/orders/documents", json={"n": 1})).status_code == 201
        assert (await client.get("/v1/collections/orders/documents")).status_code == 200
        found = {"filter": '{"_id": {"$gte": "a"}}', "sort": "-_id"}
        assert (await client.get("/v1/collections/orders/documents", params=found)).status_code == 200
        for shape in ("orders", "orders/absent"):
            assert (await client.get("/v1/sync/snapshot", params={"shape": shape})).status_code == 200, shape
        assert (await client.put("/v1/state-vectors/me", json={"vector": {}})).status_code == 200
        assert (await client.delete("/v1/collections/orders/documents/b")).status_code == 200
        moved = await client.post(
            "/v1/transactions", json={"operations": [{"method": "PUT", "collection": "orders", "id": "c", "doc": {}}]}
        )
        assert moved.status_code == 200, moved.text
        log = (await client.get("/readyz")).json()["position"].split(":")[0]
    operator = as_user(admin, port, "operator", roles_for(given, "operate"))
    changing: tuple[tuple[str, ...], ...] = (
        ("track", "lines"),
        ("snapshot", "orders"),
        ("restore", "orders", "--at", f"{log}:1", "--into", "then"),
        ("untrack", "lines"),
        ("migrate",),
    )
    for words in changing:
        code, _, err = await command(operator, tmp_path, *words)
        assert code == 0, (words, err)
    # One without a document is read in another way.
    assert (await command(operator, tmp_path, "track", "empty"))[0] == 0
    await tracked(running.url, ["empty"])
    reader = as_user(admin, port, "reader", roles_for(given, "read"))
    reading: tuple[tuple[str, ...], ...] = (
        ("status",),
        ("tail", "orders", "--from", f"{log}:0", "--limit", "1"),
        ("history", "orders/a"),
        ("diff", "orders/a", f"{log}:1"),
        ("verify",),
    )
    for words in reading:
        code, _, err = await command(reader, tmp_path, *words)
        assert code == 0, (words, err)
    if given == "own":
        refused, _, err = await command(reader, tmp_path, "track", "lines")
        assert refused == 1
        assert "it needs update on shop_eventsync.collections" in err
        assert len(err.splitlines()) == 1
    worker = (tmp_path / "worker" / "worker.log").read_text()
    assert "WARNING" not in worker, worker
    write_rules(tmp_path)
    (tmp_path / "new.ndjson").write_text('{"_id": "new"}\n')
    claims = '{"sub": "ada"}'
    operating: tuple[tuple[str, ...], ...] = (
        *reading,
        ("import", "new.ndjson", "--collection", "orders"),
        ("keys", "create", "reports"),
        ("keys", "list"),
        ("revoke", "--sub", "ada"),
        ("rules", "check"),
        ("rules", "apply"),
        ("rules", "show"),
        ("rules", "explain", "my_orders?owner=ada"),
        ("rules", "explain", "--as", claims, "orders/a"),
        ("rules", "diff", "rules.toml", "--as", claims),
        ("token", "--sub", "ada"),
        ("reset-log", "--yes"),
    )
    for words in operating:
        code, _, err = await command(operator, tmp_path, *words)
        assert code == 0, (words, err)
    # `clients` asks a server, and the doctor has roles of its own.
    assert {words[0] for words in (*changing, *operating)} >= {*_FURTHER} - {"clients", "settings", "doctor"}


def write_rules(directory: Path) -> None:
    """Write `rules.toml`, with a declared shape and an issuer."""
    secret = secret_file(directory)
    (directory / "rules.toml").write_text(f"""
[auth]
issuers = [{{ iss = "trial", secret_file = "{secret}", algorithms = ["HS256"] }}]
[roles]
user = true
[collections.orders.user]
read = {{ owner = "$claims.sub" }}
[shapes.my_orders]
collection = "orders"
where = {{ owner = "$owner" }}
parameters = {{ owner = {{ type = "text" }} }}
""")


async def test_commands_that_wait_for_a_worker_run_with_its_user(
    running: Processes, admin: Admin, port: int, tmp_path: Path
) -> None:
    """As the guides have it: in a worker's container, or with the environment of its unit."""
    write_rules(tmp_path)
    user = as_user(admin, port, "same", ["eventsync-worker"])
    guide = (PAGE.parent / "kubernetes.md").read_text()
    guided = re.findall(r"deploy/eventsync-worker -- eventsync (.+)", guide)
    assert "rules apply /dev/stdin < rules.toml" in guided
    for line in ("track lines", "snapshot orders", *guided):
        words = line.replace("/dev/stdin <", "").split()
        code, out, err = await command(user, tmp_path, *words)
        assert code == 0, (words, out, err)


@pytest.mark.parametrize(("role", "database", "action"), FATAL, ids=lambda text: text)
async def test_a_privilege_that_is_missing_is_one_line_at_once(
    admin: Admin, port: int, tmp_path: Path, role: str, database: str, action: str
) -> None:
    settings = as_user(admin, port, "less", [only(admin, role, without=(database, action))])
    code, _, err = await command(settings, tmp_path, role)
    assert code == 2, err
    (line,) = err.splitlines()
    assert re.match(rf"eventsync: the MongoDB user lacks {action} on {database}(\.system\.replset)?; docs/", line)


@pytest.mark.parametrize("role", ["worker", "serve", "status"])
@pytest.mark.parametrize("user", ["less:wrong-pass-x@", ""])
async def test_a_wrong_password_or_none_is_one_line_at_once(
    admin: Admin, port: int, tmp_path: Path, role: str, user: str
) -> None:
    settings = as_user(admin, port, "less", ["eventsync-worker"])
    uri = f"mongodb://{user}127.0.0.1:{port}/?replicaSet={mongod.REPLICA_SET}"
    code, _, err = await command(settings.model_copy(update={"mongodb_uri": uri}), tmp_path, role)
    assert code == (1 if role == "status" else 2)
    assert len(err.splitlines()) == 1
    assert "wrong-pass-x" not in err
    assert err.startswith("eventsync: ")


async def test_without_coll_mod_a_collection_is_refused_with_the_reason(
    admin: Admin, port: int, tmp_path: Path
) -> None:
    admin["shop"].create_collection("orders")
    admin["shop"].create_collection("lines", changeStreamPreAndPostImages={"enabled": True})
    settings = as_user(admin, port, "less", [only(admin, "worker", without=("shop", "collMod"))])
    worker = Processes(settings.model_copy(update={"collections": ("orders", "lines")}), tmp_path)
    try:
        worker.start("worker")
        await worker.said("worker", "the MongoDB user lacks collMod on shop (collections without pre- and post-images")
        await worker.said("worker", "orders can't be tracked")
        await worker.said("worker", "tracking lines from 0")
        assert worker.log("worker").count("orders can't be tracked") == 1
    finally:
        worker.stop()
    assert admin["shop_eventsync"]["collections"].find_one({"_id": "orders"})["refused"]  # type: ignore[index]


async def test_a_privilege_that_is_taken_away_ends_the_worker_with_its_name(
    running: Processes, admin: Admin, port: int, tmp_path: Path
) -> None:
    admin.admin.command("revokePrivilegesFromRole", "eventsync-worker", privileges=[
        {"resource": {"db": "shop_eventsync", "collection": ""}, "actions": ["update"]}
    ])  # fmt: skip
    try:
        log = tmp_path / "worker" / "worker.log"
        async with asyncio.timeout(patience(30)):
            while "eventsync: the MongoDB user lacks update on shop_eventsync" not in log.read_text():  # noqa: ASYNC110 - the event is in another process
                await asyncio.sleep(0.05)
        assert log.read_text().count("WARNING") < 10
    finally:
        role = documented()["eventsync-worker"]
        admin.admin.command("updateRole", "eventsync-worker", privileges=role["privileges"])


async def test_requests_are_refused_while_a_privilege_is_revoked(running: Processes, admin: Admin) -> None:
    path = "/v1/collections/orders/documents/a"
    async with httpx.AsyncClient(base_url=running.url, timeout=patience(20)) as client:
        assert (await client.put(path, json={"n": 1})).status_code == 201
        revoke(admin, "serve", "shop", "insert", "update", "remove")
        try:
            for answer in (await client.put(path, json={"n": 2}), await client.delete(path)):
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), answer.text
                assert "retry-after" not in answer.headers
            assert (await client.get(path)).json()["doc"]["n"] == 1
            assert (await client.get("/readyz")).status_code == 200
        finally:
            give_back(admin, "serve")
        async with asyncio.timeout(patience(20)):
            while (await client.put(path, json={"n": 3})).status_code != 200:  # noqa: ASYNC110 - MongoDB reads the roles again
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_node_storage_writes_without_list_collections(admin: Admin, port: int) -> None:
    """Our processes have it. A program that only uses `nodestorage` does not need it."""
    settings = as_user(admin, port, "less", [only(admin, "serve", without=("shop", "listCollections"))])
    async with connect(settings, "test") as client:
        storage = NodeStorage(client["shop"], client["shop_eventsync"]["operations"], WritePolicy())
        for version in (1, 2):
            author = Author.new("tester")
            result = await storage.replace("orders", "less", {"n": version}, upsert=True, author=author)
            assert result.version == version
