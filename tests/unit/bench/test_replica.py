from __future__ import annotations

from typing import Any

import orjson
import pytest

from scripts.bench.crowd.history import History
from scripts.bench.crowd.messages import Message, Reader, WrongError
from scripts.bench.crowd.replica import Replica

HISTORY = History(3)


def _event(seq: int, **changed: Any) -> dict[str, Any]:
    patch = [{"op": "replace", "path": "/n", "value": seq}, {"op": "replace", "path": "/at", "value": 1.5}]
    return {"seq": seq, "id": f"int:{HISTORY.document(seq)}", "patch": patch} | changed


def _events(start: int, end: int, events: list[dict[str, Any]]) -> bytes:
    return orjson.dumps({"type": "events", "shape": "docs", "from": f"l:{start}", "to": f"l:{end}", "events": events})


def _span(start: int, end: int) -> Message:
    return Reader(HISTORY).read(_events(start, end, [_event(seq) for seq in range(start + 1, end + 1)]))


def _snapshot(seq: int, numbers: list[int], part: int = 0, *, last: bool = True) -> Message:
    docs = [{"id": f"int:{number}", "doc": {"n": HISTORY.value(number, seq)}} for number in numbers]
    raw = {"type": "snapshot", "position": f"l:{seq}", "part": part, "last": last, "docs": docs}
    return Reader(HISTORY).read(orjson.dumps(raw))


def test_the_history_is_what_its_events_make() -> None:
    values = dict.fromkeys(range(3), 0)
    for seq in range(1, 12):
        values[HISTORY.document(seq)] = seq
        assert values == {number: HISTORY.value(number, seq) for number in range(3)}
    assert HISTORY.touched(4, 6) == {1, 2}
    assert HISTORY.touched(0, 100) == {0, 1, 2}
    assert History(0).touched(2, 4) == {3, 4}


def test_each_event_counts_once_also_where_frames_overlap() -> None:
    replica = Replica(HISTORY, 5)
    assert [replica.take(_span(5, 7)), replica.take(_span(4, 8)), replica.take(_span(2, 6))] == [2, 1, 0]
    assert (replica.seq, replica.events, replica.is_exact) == (8, 3, True)


def test_a_hole_is_wrong() -> None:
    with pytest.raises(WrongError, match="came at 5"):
        Replica(HISTORY, 5).take(_span(6, 7))


@pytest.mark.parametrize(
    "events",
    [
        [_event(6), _event(8)],
        [_event(6), _event(6), _event(7)],
        [_event(6), _event(7, id="int:2")],
        [_event(6), _event(7, patch=_event(8)["patch"])],
    ],
)
def test_a_frame_with_other_events_than_were_written_is_wrong(events: list[dict[str, Any]]) -> None:
    with pytest.raises(WrongError):
        Reader(HISTORY).read(_events(5, 7, events))


def test_a_snapshot_has_every_document_once_and_counting_begins_behind_it() -> None:
    replica = Replica(HISTORY, None)
    replica.take(_snapshot(7, [0, 1], last=False))
    assert not replica.is_exact
    replica.take(_snapshot(7, [2], part=1))
    replica.take(_span(7, 9))
    assert (replica.seq, replica.events, replica.is_exact) == (9, 2, True)


@pytest.mark.parametrize("numbers", [[0, 1], [0, 1, 2, 2]])
def test_a_snapshot_that_lacks_a_document_or_repeats_one_is_wrong(numbers: list[int]) -> None:
    with pytest.raises(WrongError):
        Replica(HISTORY, None).take(_snapshot(7, numbers))


def test_a_position_without_its_events_is_wrong() -> None:
    with pytest.raises(WrongError, match="says 6"):
        Replica(HISTORY, 5).take(Message("live", 6, 6))
