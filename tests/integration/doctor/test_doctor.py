"""`eventsync doctor`, with real deployments in which one thing after another is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from eventsync.dev import mongod
from eventsync.doctor import Finding, examine
from eventsync.doctor.changes import oplog_finding
from eventsync.doctor.deployment import disk
from eventsync.mongodb.client import Client, connect
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support import archives
from support.environment import command_environment, environment_of
from support.own_mongod import running_mongod
from support.program import finished
from support.waiting import patience, within

DAY = 86400.0


async def examined(settings: Settings, **options: Any) -> dict[str, Finding]:
    """The worst finding of each check."""
    found: dict[str, Finding] = {}
    ranks = ("ok", "warning", "problem")
    for item in await examine(settings, **({"absence": DAY} | options)):
        if item.check not in found or ranks.index(item.level) > ranks.index(found[item.check].level):
            found[item.check] = item
    return found


def levels(found: dict[str, Finding]) -> dict[str, str]:
    return {name: item.level for name, item in found.items() if item.level != "ok"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",), "max_sockets": 1000})


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A node whose oplog is small, that offers zlib and flushes its journal every 100 ms. Gives its port."""
    options = ("--oplogSize", "1", "--syncdelay", "1", "--networkMessageCompressors", "zlib,snappy")
    with running_mongod(tmp_path_factory.mktemp("broken"), *options, "--journalCommitInterval", "100") as port:
        yield port


@pytest.fixture
def of_broken(settings: Settings, broken: int) -> Iterator[Settings]:
    yield settings.model_copy(update={"mongodb_uri": mongod.uri(broken)})
    with MongoClient[Any](mongod.uri(broken)) as client:
        client.drop_database(settings.database)
        client.drop_database(settings.log_db)


# --- nothing is wrong -------------------------------------------------------------------------------------------------


async def test_a_deployment_as_it_should_be_has_no_problem(settings: Settings, stores: Stores) -> None:
    await stores.ensure_indexes()
    found = await examined(settings)
    wrong = levels(found)
    # One member, of MongoDB 6.0.5. The disk is that of whoever runs the tests.
    # The oplog is that of the whole run of the tests, which fills it.
    assert {name for name in wrong if not name.startswith("disk")} <= {"oplog", "replica set", "version"}, found
    assert "problem" not in {level for name, level in wrong.items() if not name.startswith(("disk", "oplog"))}
    assert {"storage engine", "oplog", "journal", "write concern", "user", "formats", "clock", "open files"} <= set(
        found
    )


async def test_nothing_is_written_and_no_password_is_shown(client: Client, settings: Settings, tmp_path: Path) -> None:
    result = await finished(
        "doctor", environment=command_environment(settings), directory=tmp_path, seconds=patience(20)
    )
    assert "problem(s)" in result.stdout, result
    names = await client.list_database_names()
    assert settings.database not in names
    assert settings.log_db not in names


async def test_findings_for_programs_and_the_exit_code(settings: Settings, tmp_path: Path) -> None:
    secret = settings.model_copy(update={"mongodb_uri": f"mongodb://ann:s3cr3t@127.0.0.1:{mongod.free_port()}/"})
    environment = command_environment(secret) | {"EVENTSYNC_MONGODB_TIMEOUT": "0.3"}
    result = await finished("doctor", "--json", environment=environment, directory=tmp_path, seconds=patience(20))
    assert result.exit_code == 1
    tree = json.loads(result.stdout)
    assert [(item["check"], item["level"]) for item in tree["findings"][:2]] == [
        ("mongodb", "problem"),
        ("open files", "ok"),
    ]
    assert tree["counts"] == {"ok": 1, "warning": 0, "problem": 1}
    assert all(item["meaning"] and item["remedy"] for item in tree["findings"] if item["level"] != "ok")
    assert "s3cr3t" not in result.stdout + result.stderr
    text = await finished("doctor", environment=environment, directory=tmp_path, seconds=patience(20))
    assert "PROBLEM  mongodb" in text.stdout
    assert "means: nothing works without it" in text.stdout


# --- MongoDB ----------------------------------------------------------------------------------------------------------


async def test_an_oplog_that_covers_minutes_is_a_problem(of_broken: Settings) -> None:
    async with connect(of_broken, "test") as client:
        filler = client[of_broken.database]["filler"]
        for number in range(40):
            await filler.insert_one({"_id": number, "text": os.urandom(50_000).hex()})
        found = (await examined(of_broken))["oplog"]
    assert found.level == "problem"
    assert "changes are lost" in found.meaning
    assert "replSetResizeOplog" in found.remedy


@pytest.mark.parametrize(
    ("covered", "share", "level"),
    [
        (DAY, 1.0, "ok"),
        (DAY / 2, 1.0, "warning"),
        (600.0, 0.95, "problem"),
        (DAY / 2, 0.5, "ok"),
        (DAY / 2, 0.6, "warning"),
        (60.0, 0.5, "ok"),
        (60.0, 0.0, "ok"),
    ],
)
def test_an_oplog_is_compared_with_the_longest_absence(covered: float, share: float, level: str) -> None:
    found = oplog_finding(covered, share * 1024**3, 1024**3, DAY)
    assert found.level == level, found
    assert ("minRetentionHours: 24" in found.remedy) is (level != "ok")


async def test_compression_with_a_known_hole_is_a_problem(of_broken: Settings) -> None:
    async with connect(of_broken, "test") as client:
        if tuple((await client["admin"].command("buildInfo"))["versionArray"][:3]) >= (6, 0, 27):
            pytest.skip("this MongoDB has no such hole")
    found = (await examined(of_broken))["compression"]
    assert found.level == "problem"
    assert "6.0.27" in found.remedy


async def test_late_flushes_of_the_journal_are_a_warning_if_the_worker_does_not_help(of_broken: Settings) -> None:
    assert (await examined(of_broken))["journal"].level == "ok"
    alone = of_broken.model_copy(update={"journal_flush_interval": 0.0})
    found = (await examined(alone))["journal"]
    assert found.level == "warning"
    assert "100 ms" in found.found


async def test_a_weak_default_write_concern_is_a_warning(of_broken: Settings) -> None:
    async with connect(of_broken, "test") as client:
        admin = client["admin"]
        assert (await examined(of_broken))["write concern"].level == "ok"
        await admin.command({"setDefaultRWConcern": 1, "defaultWriteConcern": {"w": 1}})
        try:
            found = (await examined(of_broken))["write concern"]
        finally:
            await admin.command({"setDefaultRWConcern": 1, "defaultWriteConcern": {"w": "majority"}})
    assert found.level == "warning"
    assert found.found == "w: 1 by default"


async def test_images_that_expire_early_are_a_warning(of_broken: Settings) -> None:
    async def set_expiry(client: Client, seconds: int | str) -> None:
        options = {"preAndPostImages": {"expireAfterSeconds": seconds}}
        await client["admin"].command({"setClusterParameter": {"changeStreamOptions": options}})

    async with connect(of_broken, "test") as client:
        await set_expiry(client, 600)
        try:
            assert (await examined(of_broken, absence=600.0))["images"].level == "ok"
            found = (await examined(of_broken))["images"]
        finally:
            await set_expiry(client, "off")
    assert found.level == "warning"
    assert found.found == "kept for 10 min"


async def test_a_member_that_is_away_is_a_problem(settings: Settings, tmp_path: Path) -> None:
    with running_mongod(tmp_path) as port:
        there = settings.model_copy(update={"mongodb_uri": mongod.uri(port)})
        async with connect(there, "test") as client:
            config = (await client["admin"].command("replSetGetConfig"))["config"]
            away: dict[str, Any] = {"_id": 1, "host": f"127.0.0.1:{mongod.free_port()}", "votes": 0, "priority": 0}
            changed = config | {"version": config["version"] + 1, "members": [*config["members"], away]}
            await client["admin"].command({"replSetReconfig": changed})
        found = await examined(there)
        assert found["members"].level == "problem", found
        assert away["host"] in found["members"].found


async def test_servers_of_other_kinds_are_problems(settings: Settings, tmp_path: Path) -> None:
    with running_mongod(tmp_path, "--replSet", "other", initiated=False) as port:
        alone = settings.model_copy(update={"mongodb_uri": f"mongodb://127.0.0.1:{port}/?directConnection=true"})
        found = await examined(alone)
        assert found["replica set"].level == "problem", found


@pytest.mark.parametrize(("share", "level"), [(0.5, "ok"), (0.85, "warning"), (0.95, "problem")])
def test_a_disk_that_fills_up(share: float, level: str) -> None:
    found = disk("disk", share * 1024**3, 1024**3, "MongoDB")
    assert found.level == level
    assert f"{share:.0%}" in found.found


# --- collections and formats ------------------------------------------------------------------------------------------


async def test_collections_that_can_not_be_followed_exactly(settings: Settings, stores: Stores) -> None:
    await stores.ensure_indexes()
    await stores.data.create_collection("docs", changeStreamPreAndPostImages={"enabled": True})
    await stores.data.create_collection("bare")
    await stores.data.create_collection("round", capped=True, size=4096)
    await stores.data.command({"create": "seen", "viewOn": "docs", "pipeline": []})
    await stores.tracking.ask(["docs", "bare", "round", "seen"])
    found = await examined(settings)
    assert found["collections"].found == "2 of 4 tracked ones have images, or will have them"
    assert found["collection round"].found == "a capped collection"
    assert found["collection seen"].found == "a view"
    await stores.log["collections"].update_one({"_id": "bare"}, {"$set": {"log": "k3f9ab2c", "base": 0}})
    found = await examined(settings)
    assert {name: item.level for name, item in found.items() if name.startswith("collection ")} == {
        "collection bare": "problem",
        "collection round": "problem",
        "collection seen": "problem",
    }
    assert 'collMod: "bare"' in found["collection bare"].remedy


async def test_formats_of_a_later_version_are_a_problem(settings: Settings, stores: Stores) -> None:
    await stores.log["logs"].insert_one({"_id": "k3f9ab2c"})
    assert (await examined(settings))["formats"].level == "warning"
    await stores.ensure_indexes()
    assert (await examined(settings))["formats"].level == "ok"
    await stores.log["deployment"].update_one({"_id": "formats"}, {"$set": {"versions.events": 2}})
    found = (await examined(settings))["formats"]
    assert found.level == "problem"
    assert "'events' in version 2" in found.found


# --- the surroundings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "level"), [(0.0, "ok"), (5.0, "warning"), (-5.0, "warning"), (60.0, "problem")])
async def test_clocks_that_differ(settings: Settings, ahead: float, level: str) -> None:
    found = (await examined(settings, clock=lambda: time.time() + ahead))["clock"]
    assert found.level == level


async def test_a_low_limit_on_open_files_is_a_problem(settings: Settings, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "eventsync", "doctor", "--json"),
        env=environment_of(settings),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_NOFILE, (700, 700)),
    )
    async with within(20):
        out, _ = await process.communicate()
    (found,) = [item for item in json.loads(out)["findings"] if item["check"] == "open files"]
    assert found["level"] == "problem"
    assert found["found"] == "700 are allowed, and max_sockets is 1000"
    assert "LimitNOFILE=1500" in found["remedy"]
    assert process.returncode == 1


@asynccontextmanager
async def archived(stores: Stores, settings: Settings) -> AsyncIterator[Path]:
    """Segments of a log, in an archive. Gives its directory."""
    await archives.begun(stores, [archives.event(seq) for seq in range(1, 121)])
    log = await stores.logs.require()
    await stores.archive.identity.claim(log.id)
    await archives.archiver(stores, settings).run_once()
    yield Path(settings.archive_url)


@pytest.fixture
def archiving(settings: Settings, tmp_path: Path) -> Settings:
    update = {"archive_url": str(tmp_path / "archive"), "hot_events": 10, "segment_events": 40, "retention_age": 0.0}
    return settings.model_copy(update=update)


async def test_an_archive_with_what_was_written(client: Client, archiving: Settings) -> None:
    async with archived(Stores.of(client, archiving), archiving):
        found = await examined(archiving)
    assert (found["archive"].level, found["segments"].level) == ("ok", "ok"), found


async def test_another_archive_and_one_without_its_segments_are_problems(
    client: Client, archiving: Settings, tmp_path: Path
) -> None:
    async with archived(Stores.of(client, archiving), archiving) as directory:
        (tmp_path / "other").mkdir()
        for url in (str(tmp_path / "other"), ""):
            found = (await examined(archiving.model_copy(update={"archive_url": url})))["archive"]
            assert found.level == "problem", found
        for file in directory.rglob("*"):
            if file.is_file() and "archive" not in file.name and "witness" not in str(file):
                file.write_bytes(file.read_bytes()[:-100])
        found = (await examined(archiving))["segments"]
        assert found.level == "problem"


@pytest.fixture
def unwritable() -> Iterator[Path]:
    """A directory that everybody may read and that this user, who is not root meanwhile, may not write."""
    with tempfile.TemporaryDirectory(prefix="eventsync-tests-") as name:
        directory = Path(name)
        directory.chmod(0o555)
        if os.geteuid():
            yield directory
            return
        os.seteuid(65534)
        try:
            yield directory
        finally:
            os.seteuid(0)


async def test_an_archive_that_may_not_be_written_is_a_problem(settings: Settings, unwritable: Path) -> None:
    found = (await examined(settings.model_copy(update={"archive_url": str(unwritable)})))["archive"]
    assert found.level == "problem"
    assert "can't be written by this user" in found.found


@pytest.mark.parametrize(
    ("update", "level", "said"),
    [
        ({"host": "0.0.0.0"}, "problem", "no rules have been applied"),
        ({"host": "0.0.0.0", "allow_unauthenticated": True}, "warning", "allow_unauthenticated"),
        ({"principal_held_bytes": 2**40}, "warning", "principal_held_bytes (1099511627776) is greater than held_bytes"),
        ({"principal_connections": 5000}, "warning", "principal_connections (5000) is greater than max_sockets (1000)"),
        ({"archive_url": "/nowhere/archive", "hot_age": 2e6, "retention_age": 1e6}, "warning", "hot_age (2e+06)"),
        ({}, "ok", "none contradicts another"),
    ],
)
async def test_settings_that_do_not_fit_each_other(
    settings: Settings, update: dict[str, Any], level: str, said: str
) -> None:
    found = (await examined(settings.model_copy(update=update)))["settings"]
    assert found.level == level, found
    assert said in found.found
