from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
from bson.int64 import Int64
from bson.timestamp import Timestamp

from eventsync.domain.encoded_state import decoded
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import State
from eventsync.domain.values.extended_json import Document
from eventsync.settings import Settings
from eventsync.stores.history.differing import same_state
from eventsync.stores.history.log_state import NoBase
from eventsync.stores.stores import Stores
from support.histories import History, based, collection_at, newest_checkpoint, state_of, stored_at
from support.replay import Replay, caught_up, tracked
from support.replica import to_tree
from support.systems import running_worker

LOG = LogId("k3f9ab2c")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Small chunks: a history of a few documents fills several."""
    return settings.model_copy(update={"snapshot_chunk_bytes": 1024})


def assert_same(said: dict[IdText, State], model: dict[IdText, State]) -> None:
    assert said.keys() == model.keys()
    for text, state in model.items():
        assert same_state(said[text], state), (text, said[text], state)


async def test_without_a_stored_snapshot_there_is_no_state(stores: Stores) -> None:
    with pytest.raises(NoBase, match="no stored snapshot of docs"):
        await stores.history.state.document(LOG, "docs", IdText("a"), Seq(5))
    with pytest.raises(NoBase):
        await state_of(stores, LOG, "docs", Seq(5))


async def test_a_snapshot_from_before_the_collection_was_tracked_again_is_ignored(stores: Stores) -> None:
    """Between the two its changes were not read."""

    async def none() -> AsyncIterator[tuple[int, Document]]:
        for made in list[tuple[int, Document]]():
            yield made

    others = [{"_id": {"l": LOG, "n": Int64(seq)}, "c": "others", "i": "x"} for seq in range(1, 10)]
    await stores.log["events"].insert_many(others)
    await stores.tracking.ask(["docs"])
    await stores.tracking.activate(["docs"], LOG, Seq(4))
    await stores.snapshots.stored.write(LOG, "docs", Seq(4), Timestamp(1, 1), none())
    assert await state_of(stores, LOG, "docs", Seq(9)) == {}
    await stores.tracking.activate(["docs"], LOG, Seq(7))
    with pytest.raises(NoBase):
        await state_of(stores, LOG, "docs", Seq(9))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_after_any_history_it_is_the_collection_at_every_position(
    stores: Stores, settings: Settings, seed: int
) -> None:
    history, choose = History.of(stores, "docs", seed), random.Random(seed)
    for _ in range(25):
        await history.write()  # before it is tracked: only the base has it
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
        models = {}
        for _ in range(8):
            for _ in range(choose.randrange(1, 25)):
                await history.write()
            await caught_up(stores)
            checkpoint = await newest_checkpoint(stores, log)
            models[checkpoint] = await collection_at(stores, "docs", checkpoint)
            if choose.random() < 0.4:
                await stored_at(stores, log, "docs", checkpoint)
    for checkpoint, model in models.items():
        assert_same(await state_of(stores, log, "docs", checkpoint.seq), model)
        ids = [*model, IdText("nobody")]
        states = {text: decoded(await stores.history.state.document(log, "docs", text, checkpoint.seq)) for text in ids}
        assert_same(states, model | {IdText("nobody"): None})


@pytest.mark.slow
async def test_at_positions_between_checkpoints_it_is_the_log_replayed(stores: Stores, settings: Settings) -> None:
    history = History.of(stores, "docs", 11)
    async with running_worker(settings):
        await stores.tracking.ask(["docs"])
        log = await tracked(stores, "docs")
        await based(stores, log, "docs")
        for number in range(120):
            await history.write()
            if number == 60:
                await caught_up(stores)
                await stored_at(stores, log, "docs", await newest_checkpoint(stores, log))
        await caught_up(stores)
    replay = Replay()
    tail = await stores.events.tail(log)
    assert tail is not None
    for seq in range(0, tail.seq, 7):
        async for stored in stores.events.read(log, Seq(replay.seq), Seq(seq)):
            replay.take(stored)
        said = await state_of(stores, log, "docs", Seq(seq))
        trees = {text: (state[0], to_tree(state[1])) for text, state in said.items() if state}
        assert trees == replay.of("docs")
