"""Operations on whole collections, and collections of every kind: the log replays to the collections, BSON-exact."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from bson import Int64

from eventsync.domain.positions import LogId
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import Stores
from support.histories import based
from support.replay import Replay, assert_complete, current_log, eventually, tracked
from support.systems import running_worker

Act = Callable[[Stores], Awaitable[object]]
CAPPED = "it is capped, and MongoDB can't read a capped collection as it was at a cluster time"


def brief(replay: Replay, after: int = 0) -> list[tuple[str, str, str]]:
    return [(event["op"], event["collection"], event["id"]) for event in replay.events if event["seq"] > after]


async def begun(stores: Stores, *names: str) -> LogId:
    """Track, and wait until a repair would have something to start from."""
    await stores.tracking.ask(names)
    log = await tracked(stores, *names)
    for name in names:
        await based(stores, log, name)
    return log


async def fill(stores: Stores) -> None:
    """Two tracked collections and one that is not."""
    await stores.data["docs"].insert_many([{"_id": number, "n": Int64(number)} for number in range(4)])
    await stores.data["other"].insert_many([{"_id": 1, "other": True}, {"_id": 9}])
    await stores.data["elsewhere"].insert_many([{"_id": 1, "n": Int64(1)}, {"_id": 2, "n": 9}, {"_id": 7}])


# --- collections that are written or replaced as a whole ----------------------------------------------------------


async def rename_one_onto_the_other(stores: Stores) -> None:
    await stores.data["other"].rename("docs", dropTarget=True)


async def rename_away_and_back(stores: Stores) -> None:
    await stores.data["docs"].rename("meanwhile")
    await stores.data["meanwhile"].update_one({"_id": 1}, {"$set": {"n": 5}})
    await stores.data["meanwhile"].rename("docs", dropTarget=True)


async def out(stores: Stores) -> None:
    await (await stores.data["elsewhere"].aggregate([{"$out": "docs"}])).to_list()


async def drop_and_make_again_without_images(stores: Stores) -> None:
    await stores.data["docs"].drop()
    await stores.data["docs"].insert_one({"_id": 1, "again": True})


REPLACED: dict[Act, set[tuple[str, str, str]]] = {
    rename_one_onto_the_other: {
        *(("delete", "docs", f"int:{number}") for number in (0, 2, 3)),
        ("replace", "docs", "int:1"), ("create", "docs", "int:9"),
        ("delete", "other", "int:1"), ("delete", "other", "int:9"),
    },
    out: {
        ("delete", "docs", "int:0"), ("delete", "docs", "int:3"), ("replace", "docs", "int:2"),
        ("create", "docs", "int:7"),
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("act", [*REPLACED, rename_away_and_back, drop_and_make_again_without_images])
async def test_a_collection_that_becomes_another(stores: Stores, settings: Settings, act: Act) -> None:
    async with running_worker(settings):
        log = await begun(stores, "docs", "other")
        await fill(stores)
        before = (await assert_complete(stores, "docs", "other")).seq
        await act(stores)
        replay = await assert_complete(stores, "docs", "other")
        if act in REPLACED:
            assert set(brief(replay, before)) == REPLACED[act]
        assert len(brief(replay, before)) == len(set(brief(replay, before)))
        await stores.data["docs"].update_one({"_id": 1}, {"$set": {"n": Int64(7)}}, upsert=True)
        await assert_complete(stores, "docs", "other")
    assert await current_log(stores) == log


async def test_merged_onto_a_collection_is_written_document_by_document(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        await stores.tracking.ask(["docs", "other"])
        await tracked(stores, "docs", "other")
        await fill(stores)
        before = (await assert_complete(stores, "docs", "other")).seq
        for matched in ("merge", "replace", [{"$set": {"of": "$$new.n"}}]):
            merge = {"into": "docs", "whenMatched": matched, "whenNotMatched": "insert"}
            await (await stores.data["elsewhere"].aggregate([{"$merge": merge}])).to_list()
        replay = await assert_complete(stores, "docs", "other")
    # The first changes 2 and makes 7; what `replace` finds equal is no change; the third adds a field to two of them,
    # which MongoDB writes as replacements.
    assert brief(replay, before) == [
        ("update", "docs", "int:2"), ("create", "docs", "int:7"),
        ("replace", "docs", "int:1"), ("replace", "docs", "int:2"),
    ]  # fmt: skip


async def test_a_change_of_collection_options_makes_no_event(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await begun(stores, "docs", "other")
        await fill(stores)
        before = (await assert_complete(stores, "docs", "other")).seq
        docs = stores.data["docs"]
        await docs.create_index("n")
        await stores.data.command({"collMod": "docs", "validator": {"n": {"$exists": True}}, "validationLevel": "off"})
        await stores.data.command({"collMod": "docs", "index": {"keyPattern": {"n": 1}, "hidden": True}})
        await docs.drop_indexes()
        await stores.data.command({"compact": "docs", "force": True})
        await docs.update_one({"_id": 1}, {"$set": {"m": 1}})
        replay = await assert_complete(stores, "docs", "other")
    assert brief(replay, before) == [("update", "docs", "int:1")]
    assert await current_log(stores) == log


# --- collections of every kind ------------------------------------------------------------------------------------


async def test_a_capped_collection_is_refused(stores: Stores, settings: Settings) -> None:
    """Nobody could begin with it exactly: MongoDB refuses to read one at a cluster time."""
    await stores.data.create_collection("docs", capped=True, size=2**20, max=3)
    async with running_worker(settings):
        await stores.tracking.ask(["docs", "other"])
        await tracked(stores, "other")
        await stores.data["other"].insert_one({"_id": 1})
        await assert_complete(stores, "other")
        (docs, _) = await stores.tracking.read()
    assert (docs.log, docs.refused) == (None, CAPPED)


async def test_a_collection_that_is_made_a_capped_one_stops_nobody_else(stores: Stores, settings: Settings) -> None:
    async with running_worker(settings):
        log = await begun(stores, "docs", "other")
        await fill(stores)
        await stores.data.command({"convertToCapped": "docs", "size": 2**20})

        async def given_up() -> bool | None:
            (docs, _) = await stores.tracking.read()
            return (docs.log, docs.refused) == (None, CAPPED) or None

        await eventually(stores, "collections", given_up)
        await stores.data["other"].insert_one({"_id": "after"})
        await assert_complete(stores, "other")
        await stores.data["docs"].drop()
        await tracked(stores, "docs", "other")
        await stores.data["docs"].insert_one({"_id": "again"})
        replay = await assert_complete(stores, "other")
    assert brief(replay)[-1] == ("create", "docs", "again")
    assert await current_log(stores) == log


async def test_a_clustered_collection_and_what_expires_in_it(stores: Stores, settings: Settings) -> None:
    key = {"key": {"_id": 1}, "unique": True}
    await stores.data.command({"create": "docs", "clusteredIndex": key, "expireAfterSeconds": Int64(3600)})
    old, new = datetime(2020, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await stores.data["docs"].insert_many([{"_id": old}, {"_id": new}, {"_id": "no date"}])
        await stores.data["docs"].update_many({"_id": {"$ne": old}}, {"$set": {"n": 1}})

        async def expired() -> bool | None:
            return None if await stores.data["docs"].find_one({"_id": old}) else True

        await eventually(stores, "heads", expired)
        replay = await assert_complete(stores, "docs")
    assert sorted(op for op, _, _ in brief(replay)) == ["create", "create", "create", "delete", "update", "update"]


async def test_ids_that_a_collation_takes_for_equal_are_documents_of_their_own(
    stores: Stores, settings: Settings
) -> None:
    await stores.data.create_collection("docs", collation={"locale": "en", "strength": 2})
    docs = stores.data["docs"]
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await docs.insert_one({"_id": "A", "n": 1})
        await docs.update_one({"_id": "a"}, {"$set": {"n": 2}})
        await docs.delete_one({"_id": "a"})
        await docs.insert_one({"_id": "a", "n": 3})
        replay = await assert_complete(stores, "docs")
    assert [(op, key) for op, _, key in brief(replay)] == [
        ("create", "A"), ("update", "A"), ("delete", "A"), ("create", "a"),
    ]  # fmt: skip


# --- transactions -------------------------------------------------------------------------------------------------


async def test_a_transaction_that_changes_one_document_again_and_again(
    client: Client, stores: Stores, settings: Settings
) -> None:
    docs, elsewhere = stores.data["docs"], stores.data["elsewhere"]
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await docs.insert_one({"_id": 0, "pad": "x" * 200})
        async with client.start_session() as session:
            await session.start_transaction()
            await docs.insert_one({"_id": "never"}, session=session)
            await session.abort_transaction()
            async with await session.start_transaction():
                await docs.insert_one({"_id": 1, "pad": "x" * 200}, session=session)
                await elsewhere.insert_one({"_id": "untracked"}, session=session)
                await docs.update_many({}, [{"$set": {"l": [[Int64(1)], "$pad"]}}], session=session)
                await docs.delete_one({"_id": 0}, session=session)
                await docs.insert_one({"_id": 0}, session=session)
                await docs.replace_one({"_id": 0}, {"a.b": Int64(1)}, session=session)
                await docs.delete_one({"_id": 1}, session=session)
        replay = await assert_complete(stores, "docs")
    told = [(event["op"], event["id"], event["txn"]["n"]) for event in replay.events[1:]]
    assert [(op, key) for op, key, _ in told] == [
        ("create", "int:1"), ("update", "int:0"), ("update", "int:1"), ("delete", "int:0"), ("create", "int:0"),
        ("replace", "int:0"), ("delete", "int:1"),
    ]  # fmt: skip
    assert [number for _, _, number in told] == list(range(1, 8))
    assert len({event["txn"]["id"] for event in replay.events[1:]}) == 1
