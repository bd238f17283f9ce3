from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import pytest
from bson.timestamp import Timestamp

from eventsync.domain.positions import LogId, Seq
from eventsync.mongodb.client import Client
from eventsync.stores.log.logs import Checkpoint, Fenced, Log, cluster_identity
from eventsync.stores.stores import Stores
from support.waiting import within

LOG = LogId("k3f9ab2c")


async def begin(stores: Stores, previous: Log | None, reason: str = "because") -> Log:
    return await stores.logs.begin(previous, cluster="c", reason=reason, token="82AA", time=Timestamp(5, 1))


async def read(stores: Stores, log: LogId = LOG) -> Checkpoint:
    checkpoint = await stores.logs.read_checkpoint(log)
    assert checkpoint is not None
    return checkpoint


async def test_logs_follow_each_other(stores: Stores) -> None:
    await stores.ensure_indexes()
    assert await stores.logs.current() is None
    first = await begin(stores, None, "the first log")
    assert (first.number, first.cluster, first.reason) == (1, "c", "the first log")
    assert await stores.logs.current() == first
    second = await begin(stores, first)
    assert second.number == 2
    assert second.id != first.id
    assert await stores.logs.current() == second


async def test_beginnings_of_an_earlier_release_lack_what_it_did_not_record(stores: Stores) -> None:
    await stores.ensure_indexes()
    first = await begin(stores, None)
    second = await begin(stores, first)
    unset = dict.fromkeys(("kind", "previous", "head"), "")
    await stores.log["logs"].update_many({}, {"$unset": unset})
    await stores.log["logs"].update_one({"_id": first.id}, {"$set": {"at": "by hand", "head": "many"}})
    await stores.logs.begin(
        second, cluster="c", reason="r", token="82AA", time=Timestamp(5, 1), kind="lost", head=Seq(7)
    )
    third, *earlier = await stores.logs.beginnings()
    assert (third.kind, third.previous, third.head) == ("lost", second.id, 7)
    assert [(each.log, each.kind, each.previous, each.head) for each in earlier] == [
        (second, None, first.id, None),
        (first, None, None, None),
    ]
    assert earlier[0].at is not None
    assert earlier[1].at is None


async def test_a_log_begins_with_a_checkpoint_at_0(stores: Stores) -> None:
    await stores.ensure_indexes()
    log = await begin(stores, None)
    checkpoint = await read(stores, log.id)
    assert (checkpoint.seq, checkpoint.token, checkpoint.time) == (0, "82AA", Timestamp(5, 1))
    assert abs(checkpoint.at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_one_of_many_that_begin_the_same_log_wins_and_all_continue_with_it(stores: Stores) -> None:
    await stores.ensure_indexes()
    previous: Log | None = None
    for number in (1, 2, 3):
        begun = await asyncio.gather(*(begin(stores, previous, f"{n}") for n in range(8)))
        assert len({log.id for log in begun}) == 1
        assert {log.number for log in begun} == {number}
        assert len({log.reason for log in begun}) == 1, "all of it is the winner's"
        previous = begun[0]
        assert await stores.logs.current() == previous
    assert await stores.log["logs"].count_documents({}) == 3
    assert await stores.log["heads"].count_documents({}) == 3, "the losers leave nothing behind"


async def test_a_beginning_after_an_old_predecessor_returns_the_newest_log(stores: Stores) -> None:
    await stores.ensure_indexes()
    first = await begin(stores, None)
    second = await begin(stores, first)
    third = await begin(stores, second)
    assert await begin(stores, first) == third
    assert await begin(stores, None) == third


async def test_indexes_can_be_asked_for_again(stores: Stores) -> None:
    await asyncio.gather(*(stores.ensure_indexes() for _ in range(3)))
    names = {item["name"] async for item in await stores.log["events"].list_indexes()}
    assert names == {"_id_", "by_document", "by_route"}


async def test_a_checkpoint_never_goes_back(stores: Stores) -> None:
    facts = [(seq, Timestamp(100 + seq, 1)) for seq in range(5)]
    for order in itertools.permutations(facts):
        log = LogId("".join(str(seq) for seq, _ in order))
        newest = 0
        for seq, time in order:
            await stores.logs.checkpoint(log, Seq(seq), f"82{seq}", time)
            newest = max(newest, seq)
            checkpoint = await read(stores, log)
            assert (checkpoint.seq, checkpoint.token, checkpoint.time) == (
                newest,
                f"82{newest}",
                Timestamp(100 + newest, 1),
            )
        if set(order) and order[0][0] == 1:
            break


async def test_a_later_time_with_a_lower_seq_is_no_fact(stores: Stores) -> None:
    await stores.logs.checkpoint(LOG, Seq(5), "82AA", Timestamp(5, 1))
    await stores.logs.checkpoint(LOG, Seq(4), "82BB", Timestamp(9, 1))
    assert (await read(stores)).seq == 5
    await stores.logs.checkpoint(LOG, Seq(5), "82CC", Timestamp(9, 1))
    assert (await read(stores)).token == "82CC"


async def test_a_term_that_is_deposed_writes_nothing_more(stores: Stores, client: Client) -> None:
    """Its successor may have activated a collection, of whose changes it knows nothing."""
    await stores.ensure_indexes()
    log = (await begin(stores, None)).id
    await stores.tracking.ask(["docs"])
    earlier, later = (stores.written_by(client, name) for name in ("earlier", "later"))
    await earlier.logs.take_over(log)
    await earlier.logs.checkpoint(log, Seq(1), "82AA", Timestamp(6, 1))
    async with earlier.logs.leading(log) as session:
        await earlier.tracking.activate(["docs"], log, Seq(1), Timestamp(6, 1), session)
    await later.logs.take_over(log)
    before = await read(stores, log), await stores.tracking.read()
    refused = f"another worker has taken over log {log}"
    with pytest.raises(Fenced, match=refused):
        await earlier.logs.checkpoint(log, Seq(1), "82BB", Timestamp(7, 1))
    with pytest.raises(Fenced, match=refused):
        await earlier.logs.begin_repair(log, "because")
    with pytest.raises(Fenced, match=refused):
        await earlier.logs.end_repair(log)
    with pytest.raises(Fenced, match=refused):
        async with earlier.logs.leading(log) as session:
            await earlier.tracking.activate(["docs"], log, Seq(2), Timestamp(7, 1), session)
    assert (await read(stores, log), await stores.tracking.read()) == before
    await later.logs.checkpoint(log, Seq(1), "82CC", Timestamp(8, 1))
    assert (await read(stores, log)).token == "82CC"


async def test_leader_of_a_former_log_writes_nothing_more(stores: Stores, client: Client) -> None:
    """Its activations would be taken for those of the new log, whose leader has never taken the former one over."""
    await stores.ensure_indexes()
    first = await begin(stores, None)
    earlier, later = (stores.written_by(client, name) for name in ("earlier", "later"))
    await earlier.logs.take_over(first.id)
    second = await begin(stores, first)
    await later.logs.take_over(second.id)
    refused = f"another worker has taken over log {first.id}"
    with pytest.raises(Fenced, match=refused):
        async with earlier.logs.leading(first.id):
            raise AssertionError("it does not lead")
    with pytest.raises(Fenced, match=refused):
        await earlier.logs.checkpoint(first.id, Seq(1), "82AA", Timestamp(6, 1))
    # One that was paused before it took the former log over learns that there is another one, and so does nobody harm.
    with pytest.raises(Fenced, match=f"log {second.id} has begun after {first.id}"):
        await earlier.logs.take_over(first.id)
    await later.logs.take_over(second.id)
    async with later.logs.leading(second.id):
        pass
    with pytest.raises(Fenced, match=refused):
        await earlier.logs.begin_repair(first.id, "because")


async def test_an_activation_does_not_overtake_a_successor(stores: Stores, client: Client) -> None:
    await stores.ensure_indexes()
    log = (await begin(stores, None)).id
    await stores.tracking.ask(["docs"])
    earlier, later = (stores.written_by(client, name) for name in ("earlier", "later"))
    await earlier.logs.take_over(log)
    taking = asyncio.Event()

    async def take_over() -> list[str]:
        taking.set()
        await later.logs.take_over(log)
        return [item.name for item in await later.tracking.active(log)]

    async with asyncio.TaskGroup() as group, earlier.logs.leading(log) as session:
        taken = group.create_task(take_over())
        await taking.wait()
        await earlier.tracking.activate(["docs"], log, Seq(0), Timestamp(6, 1), session)
    assert taken.result() == ["docs"]


async def test_a_record_of_a_checkpoint_that_was_deleted_is_made_again(stores: Stores, client: Client) -> None:
    leading = stores.written_by(client, "leading").logs
    await leading.take_over(LOG)
    await leading.checkpoint(LOG, Seq(1), "82AA", Timestamp(6, 1))
    await stores.log["heads"].delete_one({"_id": LOG})
    await leading.checkpoint(LOG, Seq(2), "82BB", Timestamp(7, 1))
    await leading.checkpoint(LOG, Seq(3), "82CC", Timestamp(8, 1))
    assert (await read(stores)).seq == 3


async def test_repeating_a_checkpoint_says_that_it_is_known_still(stores: Stores) -> None:
    await stores.logs.checkpoint(LOG, Seq(5), "82AA", Timestamp(5, 1))
    first = await read(stores)
    async with within(10):
        while (await read(stores)).at == first.at:
            await stores.logs.checkpoint(LOG, Seq(5), "82AA", Timestamp(5, 1))
    assert (await read(stores)).at > first.at


async def test_a_token_is_text_and_never_an_expression(stores: Stores) -> None:
    await stores.logs.checkpoint(LOG, Seq(0), "$time", Timestamp(5, 1))
    assert (await read(stores)).token == "$time"


@pytest.mark.parametrize("missing", ["none"])
async def test_a_log_without_a_checkpoint(stores: Stores, missing: str) -> None:
    assert await stores.logs.read_checkpoint(LogId(missing)) is None


async def test_the_deployment_is_known_by_its_replica_sets_id(stores: Stores) -> None:
    identity = await cluster_identity(stores.data)
    assert len(identity) == 24
    assert await cluster_identity(stores.log) == identity
