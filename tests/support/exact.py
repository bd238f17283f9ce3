"""The log replayed with its marks, which tell what JSON can't (an int64 that fits into 32 bits): BSON-exact."""

from __future__ import annotations

from contextlib import aclosing

from eventsync.domain.ids import IdText, format_id
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import State, applied
from eventsync.domain.shapes import Shape
from eventsync.domain.stamp import unstamp
from eventsync.domain.values.extended_json import RAW_CODEC, decode
from eventsync.stores.history.differing import same_state
from eventsync.stores.stores import Stores
from support.replay import Replay, caught_up, replayed


async def assert_exact(stores: Stores, *names: str) -> Replay:
    """Wait for the log; then: replayed onto nothing, it is the collections, in every value and BSON type.

    The collections have to be tracked since they were empty. Returns the replay that takes the events as clients do.
    """
    log = await caught_up(stores)
    replay = await replayed(stores, log)
    for name in names:
        said = await _said(stores, log, name, Seq(replay.seq))
        found = await _found(stores, name)
        assert said.keys() == found.keys() == replay.of(name).keys()
        for text, state in found.items():
            assert same_state(said[text], state), (text, said[text], state)
    return replay


async def _said(stores: Stores, log: LogId, name: str, up_to: Seq) -> dict[IdText, State]:
    states: dict[IdText, State] = {}
    async with aclosing(stores.history.reader.in_order(log, Shape(name), after=Seq(0), up_to=up_to)) as changes:
        async for change in changes:
            states[change.id] = applied(states.get(change.id), change)
    return {text: state for text, state in states.items() if state is not None}


async def _found(stores: Stores, name: str) -> dict[IdText, State]:
    states: dict[IdText, State] = {}
    async for raw in stores.data.get_collection(name, codec_options=RAW_CODEC).find():
        stamp, document = unstamp(decode(raw.raw))
        states[format_id(document["_id"])] = (stamp.version, document)
    return states
