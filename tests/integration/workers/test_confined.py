"""A lasting fault of one collection is reported and stops no other: sequencing, repair, base, snapshots."""

from __future__ import annotations

import asyncio
import random
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from bson.timestamp import Timestamp
from pymongo.errors import PyMongoError
from typer.testing import CliRunner

from eventsync.cli import commands
from eventsync.domain.names import MAX_COLLECTION_BYTES, check_collection
from eventsync.domain.positions import LogId, Seq
from eventsync.errors import ConfigurationError, Malformed
from eventsync.mongodb.client import Client, app_name
from eventsync.settings import Settings, load_settings
from eventsync.stores.history.restore import Restore, RestoreSource
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores
from support.failpoints import failing
from support.histories import based
from support.replay import Replay, assert_complete, caught_up, current_log, eventually, replayed, tracked
from support.systems import running_system, running_worker
from support.waiting import patience

IMPOSSIBLE = ["a..b", ".a", "a.", "$x", "a$x", "system.x", "", "a\0b", "x" * 256, "a/b", "a?b", "..", "."]
"""Names that PyMongo, MongoDB or a shape can't take."""


async def item(stores: Stores, name: str) -> TrackedCollection:
    (found,) = [item for item in await stores.tracking.read() if item.name == name]
    return found


async def refused(stores: Stores, name: str) -> str:
    """Wait until it is inactive; why."""

    async def check() -> str | None:
        found = await item(stores, name)
        return found.refused if found.log is None else None

    return await eventually(stores, "collections", check)


async def repaired(stores: Stores, log: LogId) -> None:
    """Wait until no repair is under way."""

    async def check() -> bool | None:
        checkpoint = await stores.logs.read_checkpoint(log)
        return True if checkpoint is not None and checkpoint.repair is None else None

    await eventually(stores, "heads", check)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_an_impossible_name_is_refused_at_each_door(name: str, stores: Stores, tmp_path: Path) -> None:
    with pytest.raises(Malformed):
        await stores.tracking.ask([name])
    assert await stores.tracking.read() == []
    restore = Restore(stores)
    with pytest.raises(Malformed):
        await restore.run(RestoreSource(None, None), name)  # type: ignore[arg-type] # refused before they are looked at
    if name:
        with pytest.raises(ConfigurationError, match="collections"):
            load_settings(collections=(name,))


async def test_an_impossible_name_is_refused_by_the_command_and_over_http(settings: Settings) -> None:
    uri = ["--mongodb-uri", str(settings.mongodb_uri), "--database", settings.database]
    answer = await asyncio.to_thread(CliRunner().invoke, commands, ["track", "a..b", *uri])
    assert (answer.exit_code, "'a..b' can't be a collection name" in answer.output) == (1, True)
    async with running_system(settings) as url, httpx.AsyncClient(base_url=url, timeout=patience(20)) as http:
        for path in ("/v1/collections/a..b/documents", "/v1/sync/log?shape=a..b", "/v1/sync/snapshot?shape=a..b"):
            refusal = await http.get(path)
            assert (refusal.status_code, refusal.json()["code"]) == (400, "malformed"), path


async def test_every_accepted_name_is_accepted_by_mongodb(stores: Stores) -> None:
    """Names at random: none passes the door that the driver or MongoDB refuses."""
    choose = random.Random(5)
    taken = 0
    for _ in range(300):
        name = "".join(choose.choices(["a", "b", ".", "..", "$", "é", "-", " ", "system", "%", "\0", "~", "\\"], k=4))
        try:
            check_collection(name)
        except Malformed:
            continue
        taken += 1
        try:
            await stores.data[name].find_one({})
        except PyMongoError as error:
            pytest.fail(f"{name!r}: {error}")
    await stores.data.create_collection("é" * (MAX_COLLECTION_BYTES // 2))
    assert taken > 30


async def test_a_name_that_stands_in_the_registry_already_holds_up_nothing(stores: Stores, settings: Settings) -> None:
    """Record a collection as tracked and active, as an earlier version has let it in."""
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
    await stores.log["collections"].insert_one({"_id": "a..b", "log": log, "base": Seq(0)})
    await stores.log["snapshot_requests"].insert_many(
        {"_id": shape, "shape": shape, "s": Timestamp(1, 1), "at": None} for shape in ("a..b", "mine?n=int:1", "docs")
    )
    await stores.data["docs"].insert_one({"_id": 1})
    await stores.logs.begin_repair(log, "the test asks for it")
    async with running_worker(settings):
        await repaired(stores, log)
        assert "a..b" in await refused(stores, "a..b")
        await stores.data["docs"].insert_one({"_id": 2})
        replay = await assert_complete(stores, "docs")
        assert [event["id"] for event in replay.events] == ["int:1", "int:2"]
        await stores.tracking.ask(["later"])
        await tracked(stores, "later")
        await based(stores, log, "later")
        await eventually(stores, "snapshot_requests", lambda: answered(stores))
    assert await current_log(stores) == log
    answers = {row["_id"]: row["refused"] or row["snapshot"] async for row in stores.log["snapshot_requests"].find()}
    assert "can't be a collection name here" in answers["a..b"]
    assert answers["mine?n=int:1"].startswith("mine?n=int:1 is a declared shape; a snapshot is stored of a collection")
    assert answers["docs"] in {item.id for item in await stores.snapshots.stored.listing(log)}


async def answered(stores: Stores) -> bool | None:
    """Return True once no request for a snapshot waits for its answer."""
    return None if await stores.snapshots.requests.unanswered() else True


# --- rights -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def log(stores: Stores, settings: Settings) -> LogId:
    """A log with the bases of `docs` and `locked`, whose worker is gone."""
    await stores.data["locked"].insert_one({"_id": "l"})
    async with running_worker(settings):
        await stores.tracking.ask(["docs", "locked"])
        log = await tracked(stores, "docs", "locked")
        await based(stores, log, "docs")
        await based(stores, log, "locked")
    return log


def barred(client: Client, settings: Settings, command: str = "find") -> Any:
    """Refuse reads of `locked`, as for a user without the privilege."""
    namespace = f"{settings.database}.locked"
    return failing(client, command, 13, app=app_name(settings, "worker"), times=None, of=namespace)


async def test_a_collection_that_may_not_be_read_holds_up_no_repair(
    log: LogId, client: Client, stores: Stores, settings: Settings
) -> None:
    await stores.data["docs"].insert_one({"_id": 1})
    await stores.logs.begin_repair(log, "the test asks for it")
    async with barred(client, settings), running_worker(settings):
        await repaired(stores, log)
        assert "privilege" in await refused(stores, "locked")
        await stores.data["docs"].insert_one({"_id": 2})
        await assert_complete(stores, "docs")
    assert await current_log(stores) == log


async def test_a_collection_that_may_be_read_again_is_tracked_again(
    log: LogId, client: Client, stores: Stores, settings: Settings
) -> None:
    await stores.logs.begin_repair(log, "the test asks for it")
    async with running_worker(settings):
        async with barred(client, settings):
            await stores.data["locked"].rename("elsewhere")
            await stores.data["docs"].rename("locked")
            await caught_up(stores)
        await tracked(stores, "docs", "locked")
        await stores.data["locked"].insert_one({"_id": "again"})
        await assert_proved_by_events(stores, "again")
    assert await current_log(stores) == log


async def assert_proved_by_events(stores: Stores, id_text: str) -> None:
    replay = await replayed(stores, await caught_up(stores), Replay())
    assert replay.events[-1]["id"] == id_text


async def test_a_base_that_may_not_be_read_keeps_no_other_from_its_base(
    client: Client, stores: Stores, settings: Settings
) -> None:
    for name in ("docs", "locked", "other"):
        await stores.data[name].insert_one({"_id": 1})
    async with barred(client, settings), running_worker(settings):
        await stores.tracking.ask(["docs", "locked", "other"])
        log = await tracked(stores, "docs", "other")
        await based(stores, log, "docs")
        await based(stores, log, "other")
        assert "privilege" in await refused(stores, "locked")


@pytest.mark.parametrize("code", [1, 8, 13])
async def test_a_base_that_can_not_be_read_now_keeps_no_other_from_its_base(
    code: int, client: Client, stores: Stores, settings: Settings
) -> None:
    """A right that is taken away just then, or an error that nobody knows."""
    await stores.data["locked"].insert_one({"_id": 1})
    namespace, worker = f"{settings.database}.locked", app_name(settings, "worker")
    async with running_worker(settings):
        await stores.tracking.ask(["first"])
        await tracked(stores, "first")
        async with failing(client, "find", code, app=worker, times=None, of=namespace):
            await stores.tracking.ask(["locked", "zeta"])
            log = await tracked(stores, "zeta")
            await based(stores, log, "zeta")
        await tracked(stores, "locked")
        await based(stores, log, "locked")


async def test_a_state_that_may_not_be_read_stops_no_other_collection(
    log: LogId, client: Client, stores: Stores, settings: Settings
) -> None:
    """A change without images, whose states have to be read from the collection."""
    images = {"changeStreamPreAndPostImages": {"enabled": False}}
    async with running_worker(settings):
        await caught_up(stores)
        await stores.data.command({"collMod": "locked"} | images)
        async with barred(client, settings):
            await stores.data["locked"].update_one({"_id": "l"}, {"$set": {"n": 1}})
            await stores.data["docs"].insert_one({"_id": 1})
            assert "privilege" in await refused(stores, "locked")
            await assert_complete(stores, "docs")
        await tracked(stores, "locked")
    assert await current_log(stores) == log


async def test_an_image_that_may_not_be_read_for_a_moment_ends_no_more_than_the_term(
    log: LogId, client: Client, stores: Stores, settings: Settings
) -> None:
    """A right is taken away and granted again, as while an operator changes a role."""
    await stores.data.command({"collMod": "locked", "changeStreamPreAndPostImages": {"enabled": False}})
    namespace, app = f"{settings.database}.locked", app_name(settings, "worker")
    async with running_worker(settings.model_copy(update={"images": False})):
        await stores.data["locked"].insert_one({"_id": "m"})
        await caught_up(stores)
        async with failing(client, "find", 13, app=app, times=1, of=namespace):
            await stores.data["locked"].update_one({"_id": "m"}, {"$set": {"n": 1}})
            replay = await replayed(stores, await caught_up(stores))
    assert [(event["id"], event["op"]) for event in replay.events] == [("m", "create"), ("m", "replace")]
    assert (await item(stores, "locked")).log == log == await current_log(stores)


# --- refusals that nobody has a name for ----------------------------------------------------------------------------


async def test_a_refusal_that_repeats_confines_itself_to_its_collection(
    client: Client, stores: Stores, settings: Settings, log: LogId
) -> None:
    """MongoDB answers each read of one collection with a code of which nothing says that it passes."""
    await stores.data["docs"].insert_one({"_id": 1})
    await stores.logs.begin_repair(log, "the test asks for it")
    async with refusing(client, settings, times=None), running_worker(settings):
        await repaired(stores, log)
        assert "locked can't be read: MongoDB refuses it (code 8)" in await refused(stores, "locked")
        await stores.data["docs"].insert_one({"_id": 2})
        replay = await assert_complete(stores, "docs")
    assert [event["id"] for event in replay.events] == ["int:1", "int:2"]
    assert await current_log(stores) == log


async def test_a_repeated_refusal_of_an_image_confines_itself_to_its_collection(
    client: Client, stores: Stores, settings: Settings, log: LogId
) -> None:
    for name in ("docs", "locked"):
        await stores.data.command({"collMod": name, "changeStreamPreAndPostImages": {"enabled": False}})
    without = settings.model_copy(update={"images": False})
    async with refusing(client, settings, times=None), running_worker(without):
        await stores.data["locked"].update_one({"_id": "l"}, {"$set": {"n": 1}})
        assert "locked can't be read: MongoDB refuses it (code 8)" in await refused(stores, "locked")
        await stores.data["docs"].insert_one({"_id": 1})
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"n": 1}})
        replay = await assert_complete(stores, "docs")
    assert {event["id"] for event in replay.events} == {"int:1"}
    assert await current_log(stores) == log


async def test_a_lock_that_somebody_holds_confines_its_collection(
    client: Client, stores: Stores, settings: Settings, log: LogId
) -> None:
    """An open transaction of another program keeps the images of a collection from being enabled."""
    await stores.data.create_collection("held")
    async with running_worker(settings):
        async with client.start_session() as session:
            await session.start_transaction()
            await stores.data["held"].insert_one({"_id": 1}, session=session)
            await stores.tracking.ask(["held"])
            assert "another operation holds a lock on it" in await refused(stores, "held")
            await stores.data["docs"].insert_one({"_id": 1})
            await assert_complete(stores, "docs")
            assert (await item(stores, "held")).log is None
            await session.abort_transaction()
        await tracked(stores, "held")
        await stores.data["held"].insert_one({"_id": 2})
        await assert_complete(stores, "held")
    assert await current_log(stores) == log


async def test_a_refusal_that_passes_confines_nothing(
    client: Client, stores: Stores, settings: Settings, log: LogId
) -> None:
    await stores.data["docs"].insert_one({"_id": 1})
    await stores.data["locked"].insert_one({"_id": "m"})
    await stores.logs.begin_repair(log, "the test asks for it")
    async with refusing(client, settings, times=2), running_worker(settings):
        await repaired(stores, log)
        replay = await assert_complete(stores, "docs")
    assert {event["id"] for event in replay.events} == {"int:1", "m"}
    assert (await item(stores, "locked")).log == log


@pytest.mark.parametrize("in_a_repair", [True, False])
async def test_work_that_takes_a_helper_too_long_confines_itself_to_its_collection(
    stores: Stores, settings: Settings, log: LogId, in_a_repair: bool
) -> None:
    large = {"_id": "large", "x": [[]] * 200_000}
    await stores.data["docs"].insert_one({"_id": 1})
    if in_a_repair:
        await stores.data["locked"].insert_one(large)
        await stores.logs.begin_repair(log, "the test asks for it")
    async with running_worker(settings.model_copy(update={"offload_timeout": 0.001})):
        if not in_a_repair:
            await stores.data["locked"].insert_one(large)
        expected = "locked can't be followed: a helper process did not finish its work within 0.01 s"
        assert expected in await refused(stores, "locked")
        await repaired(stores, log)
        await stores.data["docs"].insert_one({"_id": 2})
        replay = await assert_complete(stores, "docs")
    assert [event["id"] for event in replay.events] == ["int:1", "int:2"]
    assert await current_log(stores) == log


def refusing(client: Client, settings: Settings, *, times: int | None) -> AbstractAsyncContextManager[None]:
    """Have MongoDB refuse the worker's reads of the collection `locked`."""
    app, locked = app_name(settings, "worker"), f"{settings.database}.locked"
    return failing(client, "find", 8, app=app, times=times, of=locked)
