"""The documented roles are enough, and anything less is one clear line: with a `mongod` that checks who may do what."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from eventsync.cli import _FURTHER
from eventsync.dev import mongod
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.mongodb.client import connect
from eventsync.mongodb.errors import Barred
from eventsync.mongodb.privileges import ROLES, resources
from eventsync.nodestorage import Author, NodeStorage, WritePolicy
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from eventsync.stores.history.restore import Restore, RestoreSource
from eventsync.stores.stores import Stores
from support.data_directory import data_directory
from support.environment import environment_with
from support.identity import secret_file
from support.program import finished
from support.systems import Processes, tracked
from support.waiting import eventually, patience, time_limits

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "mongodb-roles.md"
PATCH = {"Content-Type": "application/json-patch+json"}
PASSWORD = "s3cr3t-never-shown"
Admin = MongoClient[dict[str, Any]]


def documented() -> dict[str, dict[str, Any]]:
    """The roles of docs/guides/mongodb-roles.md, by name, for the database `shop`."""
    found = {}
    for name, privileges in re.findall(
        r'createRole\(\{\s*role: "([^"]+)",\s*privileges: \[(.*?)\n  \],', _page(), re.DOTALL
    ):
        rows = [json.loads(line.strip().rstrip(",")) for line in privileges.strip().splitlines()]
        found[name] = {"role": name, "privileges": rows, "roles": []}
    return found


def _page() -> str:
    return PAGE.read_text()


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


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A replica set of one that wants a user, with one who may do everything and the documented roles."""
    directory, free = tmp_path_factory.mktemp("auth"), mongod.free_port()
    key = directory / "key"
    key.write_bytes(base64.b64encode(secrets.token_bytes(384)))
    key.chmod(0o400)
    with (directory / "mongod.log").open("wb") as log, data_directory(directory / "db") as data:
        words = [*mongod.command(mongod.find_mongod(), data, free), "--auth", "--keyFile", str(key)]
        process = subprocess.Popen(words, stdout=log, stderr=log, preexec_fn=die_with_parent)  # noqa: PLW1509 - no thread of ours runs yet
        try:
            _prepare(free)
            yield free
        finally:
            process.terminate()
            process.wait(patience(30))


def _prepare(free: int) -> None:
    client: Admin = MongoClient("127.0.0.1", free, directConnection=True, serverSelectionTimeoutMS=500)
    deadline = time.monotonic() + patience(60)
    with client:
        _until(deadline, lambda: client.admin.command(
            "replSetInitiate", {"_id": mongod.REPLICA_SET, "members": [{"_id": 0, "host": f"127.0.0.1:{free}"}]}
        ))  # fmt: skip
        _until(deadline, lambda: client.admin.command("hello")["isWritablePrimary"])
        client.admin.command("createUser", "root", pwd="root", roles=["root"])
    with _admin(free) as admin:
        for role in documented().values():
            admin.admin.command("createRole", role["role"], privileges=role["privileges"], roles=[])


def _until(deadline: float, attempt: Any) -> None:
    while True:
        try:
            if attempt():
                return
        except PyMongoError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _admin(port: int) -> Admin:
    return MongoClient(f"mongodb://root:root@127.0.0.1:{port}/?replicaSet={mongod.REPLICA_SET}")


@pytest.fixture
def admin(port: int) -> Iterator[Admin]:
    """A client with all rights. The databases and the users of the test are gone afterwards."""
    with _admin(port) as client:
        yield client
        for user in client.admin.command("usersInfo")["users"]:
            if user["user"] != "root":
                client.admin.command("dropUser", user["user"])
        for name in ("shop", "shop_eventsync"):
            client.drop_database(name)


def as_user(admin: Admin, port: int, name: str, roles: list[Any]) -> Settings:
    """The settings by which a new user with these roles is used."""
    admin.admin.command("createUser", name, pwd=PASSWORD, roles=roles)
    uri = f"mongodb://{name}:{PASSWORD}@127.0.0.1:{port}/?replicaSet={mongod.REPLICA_SET}"
    limits = time_limits(lease_period=1.0)
    return Settings(mongodb_uri=uri, database="shop", collections=("orders",), checkpoint_interval=0.1, **limits)  # type: ignore[arg-type]


def only(admin: Admin, role: str, *, without: tuple[str, ...]) -> str:
    """A new role that is a documented one without actions on a database, `without`. Gives its name."""
    definition = documented()[f"eventsync-{role}"]
    database, *actions = without
    privileges = [
        {"resource": item["resource"], "actions": [one for one in item["actions"] if one not in actions]}
        if item["resource"]["db"] == database
        else item
        for item in definition["privileges"]
    ]
    name = f"{role}-{secrets.token_hex(4)}"
    privileges = [item for item in privileges if item["actions"]]
    admin.admin.command("createRole", name, privileges=privileges, roles=[])
    return name


async def command(settings: Settings, directory: Path, *words: str) -> tuple[int, str, str]:
    environment = environment_with(mongodb_uri=settings.mongodb_uri, database="shop", port=0)
    done = await finished(*words, environment=environment, directory=directory, seconds=patience(30))
    assert PASSWORD not in done.stdout + done.stderr
    assert "lsid" not in done.stdout + done.stderr
    return done.exit_code, done.stdout, done.stderr


def documented_of_mongodb() -> list[dict[str, str]]:
    """MongoDB's own roles that the page names for all processes, as `createUser` takes them."""
    (line,) = re.findall(r"MongoDB's built-in roles also work: (.*?)\.\n", _page(), re.DOTALL)
    line = " ".join(line.split())
    found = [
        {"role": role, "db": database}
        for roles, database in re.findall(r"((?:`\w+`(?: and )?)+) on `(\w+)`", line)
        for role in re.findall(r"`(\w+)`", roles)
    ]
    return [*found, *({"role": role, "db": "admin"} for role in re.findall(r"and\s+`(\w+)`$", line))]


def roles_for(given: str, process: str) -> list[Any]:
    """Return the roles of a process's user: the role of its own, or MongoDB's own ones."""
    return [f"eventsync-{process}"] if given == "own" else documented_of_mongodb()


@pytest.fixture
def given() -> str:
    """Kind of roles that the processes of `running` have: `own` or `built-in`."""
    return "own"


@pytest.fixture
async def running(admin: Admin, port: int, tmp_path: Path, given: str) -> AsyncIterator[Processes]:
    """A worker and a server, each with its documented roles alone; `orders` is tracked."""
    (tmp_path / "worker").mkdir()
    worker = Processes(as_user(admin, port, "worker", roles_for(given, "worker")), tmp_path / "worker")
    server = Processes(as_user(admin, port, "serve", roles_for(given, "serve")), tmp_path)
    try:
        worker.start("worker")
        server.start("serve")
        await tracked(server.url, ["orders"])
        # The base: before it, no state of `orders` is known.
        snapshots = admin["shop_eventsync"]["snapshots"]
        await eventually(lambda: snapshots.find_one({"c": "orders", "complete": True}) is not None, 20)
        assert "lacks" not in worker.log("worker") + server.log("serve")
        yield server
        assert PASSWORD not in worker.log("worker") + server.log("serve")
    finally:
        server.stop()
        worker.stop()


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


def revoke(admin: Admin, role: str, database: str, *actions: str) -> None:
    privilege = {"resource": {"db": database, "collection": ""}, "actions": list(actions)}
    admin.admin.command("revokePrivilegesFromRole", f"eventsync-{role}", privileges=[privilege])


def give_back(admin: Admin, role: str) -> None:
    admin.admin.command("updateRole", f"eventsync-{role}", privileges=documented()[f"eventsync-{role}"]["privileges"])


EXPIRED = datetime(2020, 1, 1, tzinfo=UTC)


def broken_off(admin: Admin, *names: str) -> None:
    """Record restores that have died, each with its unfinished collection if its name begins with `built`."""
    for name in names:
        if name.startswith("built"):
            admin["shop"][name].insert_one({"_id": 1})
        admin["shop_eventsync"]["restores"].insert_one({"_id": name, "into": "copy", "until": EXPIRED})


async def test_worker_removes_what_restores_have_left(admin: Admin, port: int) -> None:
    broken_off(admin, "bare.restoring-1", "built.restoring-2")
    settings = as_user(admin, port, "worker", ["eventsync-worker"])
    async with connect(settings, "test") as client:
        assert await Restore(Stores.of(client, settings)).unfinished() == []
    assert admin["shop"].list_collection_names() == []


async def test_restore_that_can_t_be_removed_keeps_no_other_one_from_being_removed(
    admin: Admin, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker's user needs no `dropCollection`: the job does not fail without it, and the log says it once."""
    broken_off(admin, "bare.restoring-1", "built.restoring-2", "last.restoring-3")
    settings = as_user(admin, port, "worker", [only(admin, "worker", without=("shop", "dropCollection"))])
    async with connect(settings, "test") as client:
        for _ in range(2):
            assert await Restore(Stores.of(client, settings)).unfinished() == ["built.restoring-2"]
    (line,) = [record.getMessage() for record in caplog.records if "restoring" in record.getMessage()]
    assert "built.restoring-2 can't be removed" in line
    assert "it needs dropCollection on shop" in line


async def test_restore_that_is_refused_leaves_no_record(admin: Admin, port: int) -> None:
    settings = as_user(admin, port, "less", [only(admin, "operate", without=("shop", "insert", "createCollection"))])
    async with connect(settings, "test") as client:
        stores = Stores.of(client, settings)
        log = LogId("k3f9ab2c")
        snapshot = await stores.snapshots.stored.write(log, "orders", Seq(0), Timestamp(1, 1), nothing())
        with pytest.raises(Barred, match="the MongoDB user of this server lacks the privilege"):
            await Restore(stores).run(RestoreSource(Position(log, Seq(0)), snapshot), "copy")
    assert admin["shop_eventsync"]["restores"].count_documents({}) == 0


async def nothing() -> AsyncIterator[tuple[int, Any]]:
    """The rows of an empty collection."""
    none: list[tuple[int, Any]] = []
    for row in none:
        yield row


async def test_dashboard_restores_with_a_role_of_its_own(running: Processes, admin: Admin) -> None:
    async with httpx.AsyncClient(base_url=running.url, timeout=patience(20)) as client:
        (await client.put("/v1/collections/orders/documents/a", json={"n": 1})).raise_for_status()
        log = (await client.get("/readyz")).json()["position"].split(":")[0]
        restores, body = "/v1/admin/collections/orders/restores", {"into": "then", "position": f"{log}:1"}

        async def begun() -> httpx.Response | None:
            answer = await client.post(restores, json=body)
            return answer if answer.status_code != 410 else None  # the event is not there yet

        refused = await eventually(begun, 20)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), refused.text
        assert "lacks dropCollection on shop, renameCollectionSameDB on shop" in refused.json()["detail"]
        assert admin["shop_eventsync"]["restores"].count_documents({}) == 0
        admin.admin.command("grantRolesToUser", "serve", roles=["eventsync-restore"])
        assert (await client.post(restores, json=body)).status_code == 202

        async def ended() -> dict[str, Any] | None:
            (task,) = (await client.get("/v1/admin/tasks")).json()["tasks"]
            return task if task["state"] != "running" else None

        task = await eventually(ended, 30)
        assert (task["state"], task["reason"]) == ("done", None)
    assert admin["shop"]["then"].count_documents({}) == 1


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


async def findings_of(settings: Settings, directory: Path, *words: str) -> tuple[int, list[dict[str, str]]]:
    code, out, _ = await command(settings, directory, "doctor", "--json", *words)
    return code, json.loads(out)["findings"]


async def test_the_doctor_reads_all_with_the_documented_roles_and_names_what_processes_lack(
    admin: Admin, port: int, tmp_path: Path
) -> None:
    admin["shop_eventsync"]["logs"].insert_one({"_id": "k3f9ab2c"})
    page = (PAGE.parent / "doctor.md").read_text()
    (listed,) = re.findall(r"roles: (\[.*?\])\}\)", page)
    _, found = await findings_of(as_user(admin, port, "doctor", json.loads(listed)), tmp_path)
    assert [item for item in found if "not known" in item["found"]] == []
    users = [item for item in found if item["check"] == "user"]
    assert [item["level"] for item in users] == ["problem", "problem"], "it may not write"
    assert "doctor, as worker: lacks changeStream" not in users[0]["found"]
    assert "collMod on shop_eventsync" in users[0]["found"]
    everything = as_user(admin, port, "all", ["eventsync-worker", "eventsync-serve", "clusterMonitor"])
    _, found = await findings_of(everything, tmp_path)
    assert {item["level"] for item in found if item["check"] == "user"} == {"ok"}
    assert admin["shop_eventsync"].list_collection_names() == ["logs"], "nothing was written"


@pytest.mark.parametrize("role", ["worker", "serve"])
async def test_the_doctor_of_a_process_s_own_user_says_what_it_may_not_read(
    admin: Admin, port: int, tmp_path: Path, role: str
) -> None:
    _, found = await findings_of(as_user(admin, port, "own", [f"eventsync-{role}"]), tmp_path, "--role", role)
    levels = {item["check"]: item["level"] for item in found}
    assert (levels["mongodb"], levels["user"], levels["formats"]) == ("ok", "ok", "ok")
    unknown = {item["check"] for item in found if "not known" in item["found"]}
    assert {"oplog", "members", "storage engine", "journal", "disk"} <= unknown
    assert all(item["level"] == "warning" for item in found if item["check"] in unknown)


async def test_the_doctor_says_that_a_password_is_wrong(admin: Admin, port: int, tmp_path: Path) -> None:
    settings = as_user(admin, port, "less", ["eventsync-worker"])
    wrong = f"mongodb://less:wrong-pass-x@127.0.0.1:{port}/?replicaSet={mongod.REPLICA_SET}"
    code, found = await findings_of(settings.model_copy(update={"mongodb_uri": wrong}), tmp_path)
    assert code == 1
    assert (found[0]["check"], found[0]["level"]) == ("mongodb", "problem")
    assert "wrong-pass-x" not in json.dumps(found)
