from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId, Seq
from eventsync.domain.replay import Damaged
from eventsync.domain.routes import Routes
from eventsync.domain.segments.file import SegmentBuilder, SegmentFile, open_footer
from eventsync.domain.segments.format import SealedEvent, Selection
from eventsync.domain.shapes import Shape
from support.archives import blocks_of, events_of, index_of

LOG = LogId("segtests")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
BODIES = st.builds(
    lambda at, doc: orjson.dumps({"at": f"2026-11-23T05:22:46.{at:03}Z", "doc": doc}),
    st.integers(0, 999),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)
KEYS = [bytes([number]) * 16 for number in range(6)]
SETS = st.frozensets(st.sampled_from(KEYS), max_size=3)
ROUTES = st.builds(
    lambda enters, leaves, stay, document: Routes(
        tuple(sorted(enters | leaves | stay)), enters - leaves, leaves - enters, document
    ),
    SETS,
    SETS,
    SETS,
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=50).map(orjson.dumps),
)
ROWS = st.fixed_dictionaries(
    {
        "collection": st.sampled_from(["docs", "orders", "é.x"]),
        "id": st.sampled_from(["a", "int:5", 'ejson:{"a":1}']) | TEXT,
        "version": st.integers(0, 2**63 - 1),
        "time": st.builds(Timestamp, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
        "body": BODIES,
        "type_hints": st.lists(TEXT, max_size=3).map(tuple),
        "transaction": st.none() | st.builds(TransactionPart, TEXT, st.integers(1, 9), st.integers(1, 9)),
        "routes": st.none() | ROUTES,
    }
)
RUNS = st.lists(st.lists(ROWS, min_size=1, max_size=5), min_size=1, max_size=5)
FIRST = st.integers(1, 2**62)


def placed(runs: Sequence[Sequence[dict[str, Any]]], first: int) -> list[list[SealedEvent]]:
    """The rows as events that are numbered on from `first`."""
    numbers = iter(range(first, 2**63))
    return [[SealedEvent(Seq(next(numbers)), **(row | {"id": IdText(row["id"])})) for row in run] for run in runs]


def sealed(runs: Sequence[Sequence[SealedEvent]]) -> SegmentFile:
    builder = SegmentBuilder(LOG)
    for run in runs:
        builder.add(run)
    return builder.finish()


@given(RUNS, FIRST)
def test_sealed_events_read_back_in_every_field(runs: Any, first: int) -> None:
    blocks = placed(runs, first)
    events = [event for block in blocks for event in block]
    made = sealed(blocks)
    assert list(events_of(made.data)) == events
    footer = open_footer(made.data[made.tail :], len(made.data))
    assert footer == made.footer
    assert footer.log == LOG
    assert (footer.span.first, footer.span.last) == (first, first + len(events) - 1)
    assert footer.span.earliest == min(event.at for event in events)
    assert footer.span.last_time == max(event.time for event in events)


@given(RUNS, FIRST, st.data())
def test_a_range_of_a_shape(runs: Any, first: int, data: st.DataObject) -> None:
    blocks = placed(runs, first)
    events = [event for block in blocks for event in block]
    made = sealed(blocks)
    after, up_to = (Seq(data.draw(st.integers(first - 2, first + len(events) + 1))) for _ in range(2))
    chosen = data.draw(st.sampled_from(events))
    shape = data.draw(st.sampled_from([None, Shape(chosen.collection), Shape(chosen.collection, chosen.id)]))
    selection = Selection.of(shape)
    found = []
    for entry, block in zip(made.footer.blocks, blocks_of(made.data), strict=True):
        read = [block.event(n) for n in block.numbers(after, up_to, selection)]
        assert not read or entry.may_have(after, up_to, selection)
        found.extend(read)
    assert found == [event for event in events if after < event.seq <= up_to and is_of(event, shape)]


def is_of(event: SealedEvent, shape: Shape | None) -> bool:
    return shape is None or (event.collection == shape.collection and shape.id in {None, event.id})


@given(RUNS, FIRST)
def test_the_index_leads_to_every_block_of_a_document(runs: Any, first: int) -> None:
    blocks = placed(runs, first)
    index = index_of(sealed(blocks).data)
    for document in {(event.collection, event.id) for block in blocks for event in block}:
        having = [n for n, block in enumerate(blocks) if any((e.collection, e.id) == document for e in block)]
        assert index.find(*document) == having
    assert index.find("nobody", IdText("nobody")) == []


@given(RUNS, FIRST, st.frozensets(st.sampled_from(KEYS), min_size=1))
def test_the_events_of_a_route_are_found_by_the_index(runs: Any, first: int, keys: frozenset[bytes]) -> None:
    blocks = placed(runs, first)
    made = sealed(blocks)
    index, selection = index_of(made.data), Selection("docs", keys=keys)
    having = {number for key in keys for number in index.find_key(key)}
    found = []
    for number, block in enumerate(blocks_of(made.data)):
        read = [block.event(n) for n in block.numbers(Seq(first - 1), Seq(2**63), selection)]
        assert not read or number in having
        found.extend(read)
    events = [event for block in blocks for event in block]
    assert found == [event for event in events if event.routes and not keys.isdisjoint(event.routes.keys)]


@given(RUNS, FIRST)
def test_a_segment_without_routes_is_as_it_was_before_there_were_any(runs: Any, first: int) -> None:
    plain = [[row | {"routes": None} for row in run] for run in runs]
    header, *bodies = next(blocks_of(sealed(placed(plain, first)).data)).raw.split(b"\n")
    assert orjson.loads(header).keys() == {"first", "collections", "c", "i", "v", "s", "length", "g", "w"}
    assert bodies == [row["body"] for row in runs[0]]


@given(RUNS, FIRST, st.data())
def test_no_changed_byte_goes_unseen(runs: Any, first: int, data: st.DataObject) -> None:
    made = sealed(placed(runs, first))
    at = data.draw(st.integers(0, len(made.data) - 1))
    broken = bytearray(made.data)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Damaged):
        read_all(bytes(broken))


@given(RUNS, FIRST, st.data())
def test_no_missing_end_goes_unseen(runs: Any, first: int, data: st.DataObject) -> None:
    made = sealed(placed(runs, first))
    with pytest.raises(Damaged):
        read_all(made.data[: data.draw(st.integers(0, len(made.data) - 1))])


def read_all(data: bytes) -> None:
    for _ in events_of(data):
        pass
    index_of(data)


@given(RUNS, FIRST)
def test_only_what_follows_is_sealed(runs: Any, first: int) -> None:
    (one, *_), *_ = placed(runs, first)
    for seq in (one.seq, one.seq + 2):
        with pytest.raises(Damaged, match=f"event {seq} comes after event {one.seq}"):
            sealed([[one], [dataclasses.replace(one, seq=Seq(seq))]])
        with pytest.raises(Damaged, match=f"event {seq} comes after event {one.seq}"):
            sealed([[one, dataclasses.replace(one, seq=Seq(seq))]])
