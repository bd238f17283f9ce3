"""The oplog as the checker's ground truth: what it counts as a change, and what not."""

from __future__ import annotations

from eventsync.domain.stamp import Stamp
from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from support.chaos.evidence import Commit
from support.chaos.observed import read_commits


def short(commits: tuple[Commit, ...]) -> list[tuple[str, str, str | None, bool]]:
    return [(item.key[1], item.kind, item.mark, item.transaction is not None) for item in commits]


async def test_changes_of_every_kind_in_the_order_of_their_commits(client: Client, settings: Settings) -> None:
    orders = client[settings.database]["orders"]
    await orders.insert_one({"_id": "1", "mark": "a"})
    await orders.update_one({"_id": "1"}, {"$set": {"mark": "b", "x": 1}})
    await orders.update_one({"_id": "1"}, [{"$set": {"mark": "c"}}])
    await orders.replace_one({"_id": "1"}, {"mark": "d"})
    await orders.update_one({"_id": "1"}, {"$set": {"mark": "d"}})  # changes nothing
    await client[settings.database]["untracked"].insert_one({"_id": "9"})
    await orders.delete_one({"_id": "1"})
    found = await read_commits(client, settings.database, ["orders"])
    assert short(found) == [
        ("1", "create", "a", False),
        ("1", "change", "b", False),
        ("1", "change", "c", False),
        ("1", "change", "d", False),
        ("1", "delete", None, False),
    ]
    assert [item.time for item in found] == sorted(item.time for item in found)


async def test_an_api_delete_is_one_change(client: Client, settings: Settings) -> None:
    orders = client[settings.database]["orders"]
    await orders.insert_one({"_id": "1", "mark": "a", "_sync": Stamp(1, "op1", "ann").stored()})
    async with client.start_session() as session, await session.start_transaction():
        gone = {"$set": {"_sync": Stamp(2, "op2", "ann", deleted=True).stored()}}
        await orders.update_one({"_id": "1"}, gone, session=session)
        await orders.delete_one({"_id": "1"}, session=session)
    found = await read_commits(client, settings.database, ["orders"])
    assert short(found) == [("1", "create", "a", False), ("1", "delete", None, True)]


async def test_a_transaction_of_more_than_one_oplog_entry(client: Client, settings: Settings) -> None:
    orders = client[settings.database]["orders"]
    padding = "x" * 6_000_000
    async with client.start_session() as session, await session.start_transaction():
        for number in range(4):
            row = {"_id": number, "mark": f"m{number}", "padding": padding}
            await orders.insert_one(row, session=session)
    found = await read_commits(client, settings.database, ["orders"])
    assert short(found) == [(f"int:{number}", "create", f"m{number}", True) for number in range(4)]
    assert len({item.time for item in found}) == 1, "it commits at once"
    assert len({item.transaction for item in found}) == 1
