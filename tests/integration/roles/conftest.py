"""A `mongod` that checks who may do what, its users with the documented roles, and processes of theirs."""

from __future__ import annotations

import base64
import json
import re
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from support.data_directory import data_directory
from support.environment import environment_with
from support.program import finished
from support.systems import Processes, tracked
from support.waiting import eventually, patience, time_limits

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "mongodb-roles.md"
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


@pytest.fixture(scope="package")
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


def revoke(admin: Admin, role: str, database: str, *actions: str) -> None:
    privilege = {"resource": {"db": database, "collection": ""}, "actions": list(actions)}
    admin.admin.command("revokePrivilegesFromRole", f"eventsync-{role}", privileges=[privilege])


def give_back(admin: Admin, role: str) -> None:
    admin.admin.command("updateRole", f"eventsync-{role}", privileges=documented()[f"eventsync-{role}"]["privileges"])
