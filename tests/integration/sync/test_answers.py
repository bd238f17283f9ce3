"""Catch-up answers: from each position, an answer has the effect of all events."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest
from pymongo.asynchronous.collection import AsyncCollection

from eventsync.domain.ids import format_id
from eventsync.domain.plan import Answer
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.shapes import Shape
from eventsync.settings import Settings
from eventsync.stores.log.logs import Checkpoint
from eventsync.stores.stores import Stores
from support.answers import Past, brought_up, compacted, serving, subscription_to
from support.histories import History, based, newest_checkpoint, stored_at
from support.replay import caught_up, tracked
from support.replica import Replica
from support.systems import running_worker
from support.waiting import eventually, within

DOCS, OTHER = Shape("docs"), Shape("other")
SHAPES = [DOCS, OTHER, *(Shape.parse(f"docs/{text}") for text in ("int:3", "k2", 'ejson:{"x":1}', "nobody"))]
SEEDS = [1, 2]


async def lived(stores: Stores, settings: Settings, seed: int, writes: int = 120) -> Past:
    """Two collections that were written to; a snapshot of the one was stored on the way."""
    histories = [History.of(stores, shape.collection, seed + n) for n, shape in enumerate((DOCS, OTHER))]
    async with running_worker(settings):
        await stores.tracking.ask(["docs", "other"])
        log = await tracked(stores, "docs", "other")
        await based(stores, log, "docs")
        for half in range(2):
            for number in range(writes // 2):
                await histories[number % 2].write()
            await caught_up(stores)
            if half == 0:
                await stored_at(stores, log, "docs", await newest_checkpoint(stores, log))
    return await Past.of(stores, log)


def some(past: Past, seed: int, count: int) -> list[Seq]:
    """Positions that clients may have: both ends, and some in between."""
    seqs = sorted(past.states)
    return sorted({seqs[0], seqs[-2], seqs[-1], *random.Random(seed).sample(seqs, min(count, len(seqs)))})


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_each_answer_has_the_effect_of_all_events(stores: Stores, settings: Settings, seed: int) -> None:
    past = await lived(stores, settings, seed)
    service = await serving(stores, settings.model_copy(update={"frame_bytes": 2048}), past)
    for seq in some(past, seed, 25):
        for shape, force in itertools.product(SHAPES, [*Answer, None]):
            client = past.client(shape, seq)
            kinds = await brought_up(service, client, force=force)
            assert client.rows == past.of_shape(shape, past.head), (shape, seq)
            assert client.resets == 0
            if force is not None and seq < past.head:
                assert set(kinds) <= {force.value, "live", "progress"}, (shape, seq)
                assert force is Answer.EVENTS or force.value in kinds


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_answers_of_a_compacted_log_equal_those_of_the_whole_log(
    stores: Stores, settings: Settings, seed: int
) -> None:
    past = await lived(stores, settings, seed)
    horizon, squash_floor = Seq(past.head * 2 // 3), Seq(past.head // 4)
    while horizon not in past.states:
        horizon = Seq(horizon - 1)
    await compacted(stores, past.log, horizon, squash_floor=squash_floor)
    service = await serving(stores, settings, past)
    for seq in some(past, seed, 40):
        for shape in SHAPES:
            client = past.client(shape, seq)
            kinds = await brought_up(service, client)
            assert client.rows == past.of_shape(shape, past.head), (shape, seq)
            kept = seq >= squash_floor or shape.id is not None
            assert client.resets == (0 if kept else 1), (shape, seq)
            if squash_floor <= seq < horizon and shape == DOCS:
                assert {"squashed", "snapshot"} & set(kinds)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
async def test_new_client_gets_the_whole_state(stores: Stores, settings: Settings, seed: int) -> None:
    past = await lived(stores, settings, seed)
    service = await serving(stores, settings, past)
    for shape in SHAPES:
        client = Replica(str(shape))
        kinds = await brought_up(service, client)
        assert client.rows == past.of_shape(shape, past.head), shape
        assert (kinds[0], client.snapshots) == ("snapshot", 1)


@pytest.mark.slow
@pytest.mark.parametrize("force", [Answer.SQUASHED, Answer.SNAPSHOT])
async def test_client_that_disconnects_during_an_answer_keeps_its_position(
    stores: Stores, settings: Settings, force: Answer
) -> None:
    past = await lived(stores, settings, 3, writes=80)
    service = await serving(stores, settings.model_copy(update={"frame_bytes": 300}), past)
    client = past.client(DOCS, Seq(0))
    avoid = frozenset(Answer) - {force}
    subscription = subscription_to(service, DOCS, Position(past.log, Seq(0)), avoid)
    messages = subscription.messages()
    for part in range(2):
        message = await anext(messages)
        assert message is not None
        assert b'"part":%d,"last":false' % part in message.data
        assert str(subscription.position) == client.position
    await messages.aclose()
    assert str(subscription.position) == client.position
    await brought_up(service, client, force=force)
    assert client.rows == past.of_shape(DOCS, past.head)


async def test_ids_without_an_exact_text_are_not_squashed(stores: Stores, settings: Settings) -> None:
    documents: AsyncCollection[dict[str, object]] = stores.data["docs"]
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await documents.insert_many([{"_id": "long" * 5000}, {"_id": "x"}])
        await caught_up(stores)
    past = await Past.of(stores, log)
    service = await serving(stores, settings, past)
    client = past.client(DOCS, Seq(0))
    kinds = await brought_up(service, client, force=Answer.SQUASHED)
    assert client.rows == past.of_shape(DOCS, past.head)
    assert "squashed" not in kinds


async def test_snapshot_at_the_clients_position_is_not_sent_again(stores: Stores, settings: Settings) -> None:
    """The base is empty and cheap, what came after it is not: the collection is, and that is not where the base is."""
    documents: AsyncCollection[dict[str, object]] = stores.data["docs"]
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
        for number in range(5):
            for key in range(5):
                large = {"_id": key, "n": number, "text": "x" * 20_000}
                await documents.replace_one({"_id": key}, large, upsert=True)
        await caught_up(stores)
    past = await Past.of(stores, log)
    service = await serving(stores, settings, past)
    client = Replica("docs")
    async with within(20):  # it never ended
        await brought_up(service, client)
    assert client.rows == past.of_shape(DOCS, past.head)
    assert client.snapshots <= 2


@pytest.mark.parametrize("force", list(Answer))
async def test_an_answer_from_another_primary_is_given_again_once_the_feed_has_joined(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, force: Answer
) -> None:
    past = await lived(stores, settings, 3, writes=40)
    service = await serving(stores, settings, past)
    restarted = False

    async def process() -> str:
        return "after" if restarted else "before"

    monkeypatch.setattr(service.continuity, "_ask", process)
    service.continuity.follows("before")
    restarted = True
    client = past.client(DOCS, Seq(0))
    answering = asyncio.create_task(brought_up(service, client, force=force))
    async with within(20):
        while not service.continuity.is_doubted:  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.01)
    assert client.position == f"{past.log}:0", "what was read did not reach the client"
    service.continuity.follows("after")
    await answering
    assert client.rows == past.of_shape(DOCS, past.head)
    assert client.resets == 0


async def untracked_for_a_while(stores: Stores, settings: Settings) -> None:
    await stores.tracking.forget(["docs"])
    await stores.data["docs"].insert_one({"_id": "between"})
    async with running_worker(settings):
        await caught_up(stores)
        await stores.tracking.ask(["docs"])
        await tracked(stores, "docs")
        await stores.data["docs"].insert_one({"_id": "after"})
        await caught_up(stores)


@pytest.mark.parametrize("is_known", [True, False])
async def test_squashed_answer_that_waits_for_a_place_steps_over_no_gap(
    stores: Stores, settings: Settings, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    """Also where the answer reads a checkpoint behind the gap before the server reads of the gap."""
    past = await lived(stores, settings, 3, writes=20)
    service = await serving(stores, settings.model_copy(update={"max_bootstraps": 1}), past)
    client, admission = past.client(DOCS, Seq(0)), service.source.admissions["begin"]
    read, was_read = stores.logs.read_checkpoint, asyncio.Event()

    async def noted(log: LogId) -> Checkpoint | None:
        found = await read(log)
        was_read.set()
        return found

    async with admission.admitted():
        answering = asyncio.create_task(brought_up(service, client, force=Answer.SQUASHED))
        await eventually(lambda: admission.waiting)
        await untracked_for_a_while(stores, settings)
        if is_known:
            await service.feed._join()
        monkeypatch.setattr(stores.logs, "read_checkpoint", noted)
    async with within(20):
        await was_read.wait()
        await service.feed._join()
        await answering
    assert {format_id(row["_id"]) async for row in stores.data["docs"].find()} == set(client.rows)
    assert client.resets == 1
