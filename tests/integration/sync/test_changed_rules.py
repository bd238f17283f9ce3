"""Clients of declared shapes while rules are applied: they hold what the shape in force finds, or they are refused."""

from __future__ import annotations

import pytest

from eventsync.domain.predicates.definitions import Definition, define
from eventsync.settings import Settings
from eventsync.stores.log.registry import Declaration, DeclaredShape
from eventsync.stores.stores import Stores
from eventsync_workers.sequencing.log_writer import LogWriter
from eventsync_workers.sequencing.shape_activation import ActiveShapes
from support.clients import PEERS, Follower, following
from support.replay import began, caught_up, eventually
from support.systems import running_server, running_system, running_worker, tracked
from support.waiting import eventually as until

BY_OWNER = define("mine", "docs", {"owner": "$owner"}, {"owner": ["int"]})
OPEN_ONLY = define("mine", "docs", {"owner": "$owner", "open": True}, {"owner": ["int"]})
OF_READER = define("read_by", "docs", {"readers": "$reader"}, {"reader": ["int"]})
SHAPE = "mine?owner=int:7"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"collections": ("docs",)})


async def apply(stores: Stores, *definitions: Definition) -> None:
    await stores.definitions.apply([Declaration.of(each) for each in definitions])


async def active(stores: Stores, *definitions: Definition) -> list[DeclaredShape]:
    """Wait until these definitions are active in the log."""
    wanted = {definition.digest.hex() for definition in definitions}

    async def check() -> list[DeclaredShape] | None:
        log = await stores.logs.current()
        found = await stores.definitions.active(log.id) if log else []
        return found if {shape.digest for shape in found} == wanted else None

    return await eventually(stores, "shapes", check)


async def holds(follower: Follower, *ids: int) -> None:
    """Wait until the client has exactly these documents."""

    async def check() -> bool:
        return follower.replica.live and set(follower.replica.rows) == {f"int:{number}" for number in ids}

    await until(check, 20)


@pytest.mark.parametrize("transport", PEERS)
async def test_clients_of_a_changed_shape_get_a_reset_and_what_it_finds_now(
    stores: Stores, settings: Settings, transport: str
) -> None:
    docs = stores.data["docs"]
    async with running_system(settings) as url:
        await apply(stores, BY_OWNER, OF_READER)
        await active(stores, BY_OWNER, OF_READER)
        await docs.insert_many([{"_id": n, "owner": 7, "open": n == 1, "readers": [7]} for n in (1, 2)])
        await caught_up(stores)
        async with (
            following(url, SHAPE, transport) as follower,
            following(url, "read_by?reader=int:7", transport) as other,
        ):
            await holds(follower, 1, 2)
            await holds(other, 1, 2)
            await apply(stores, OPEN_ONLY, OF_READER)
            await holds(follower, 1)
            await docs.update_many({}, {"$set": {"open": True}})
            await holds(follower, 1, 2)
            await docs.update_one({"_id": 1}, {"$set": {"open": False, "readers": []}})
            await holds(follower, 2)
            await holds(other, 2)
            assert follower.replica.resets == 1
            assert (other.replica.resets, other.replica.snapshots) == (0, 1), "its definition has not changed"


@pytest.mark.parametrize("transport", PEERS)
async def test_clients_of_a_removed_shape_are_refused_until_it_is_declared_again(
    stores: Stores, settings: Settings, transport: str
) -> None:
    """The same definition has the same scope: only the seq of its activation tells the clients of before."""
    docs = stores.data["docs"]
    async with running_system(settings) as url:
        await apply(stores, BY_OWNER)
        await active(stores, BY_OWNER)
        await docs.insert_one({"_id": 1, "owner": 7})
        await caught_up(stores)
        async with following(url, SHAPE, transport) as follower:
            await holds(follower, 1)
            await apply(stores)
            await active(stores)

            async def unrouted() -> bool | None:
                await docs.update_one({"_id": 1}, {"$inc": {"n": 1}})
                log = await caught_up(stores)
                row = await stores.log["events"].find_one({"_id.l": log}, sort=[("_id.n", -1)])
                return True if row is not None and "k" not in row else None

            await eventually(stores, "heads", unrouted)
            await docs.insert_one({"_id": 2, "owner": 7})
            await docs.update_one({"_id": 1}, {"$set": {"owner": 8}})
            await caught_up(stores)
            await apply(stores, BY_OWNER)
            await holds(follower, 2)
            await docs.insert_one({"_id": 3, "owner": 7})
            await holds(follower, 2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("transport", PEERS)
async def test_clients_miss_nothing_where_a_deposed_worker_did_not_route(
    stores: Stores, settings: Settings, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = stores.data["docs"]

    async def nothing(*_: object) -> None:
        return None

    async with running_server(settings) as url:
        async with running_worker(settings):
            await tracked(url, ["docs"])
            await began(stores, "docs")
            await docs.insert_one({"_id": 1, "owner": 7})
            log = await caught_up(stores)
        await apply(stores, BY_OWNER)
        checkpoint = await stores.logs.read_checkpoint(log)
        assert checkpoint is not None
        shapes = (await stores.definitions.read()).shapes
        await stores.definitions.activate(shapes, log, checkpoint.seq, checkpoint.time)
        async with following(url, SHAPE, transport) as follower:
            await holds(follower, 1)
            with monkeypatch.context() as deposed:
                deposed.setattr(LogWriter, "route_by", lambda *_: None)
                deposed.setattr(ActiveShapes, "check_registry", nothing)
                async with running_worker(settings):
                    await docs.insert_one({"_id": 2, "owner": 7})
                    await caught_up(stores)
            async with running_worker(settings):
                await holds(follower, 1, 2)
                await docs.insert_one({"_id": 3, "owner": 7})
                await holds(follower, 1, 2, 3)
