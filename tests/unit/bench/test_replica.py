"""The replica of a benchmark's client: states that it counts as exact."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from scripts.bench.clients.exactness import History, Message, Reader, Replica, WrongError, document
from scripts.bench.peers import frames

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


def test_documents_take_turns() -> None:
    assert [HISTORY.is_event(seq, seq, (seq - 1) % 3) for seq in range(1, 8)] == [True] * 7
    assert not HISTORY.is_event(4, 4, 1)
    assert not HISTORY.is_event(4, 5, 0)


def test_an_event_that_overtakes_comes_once_and_always_at_the_same_place() -> None:
    history = History(0, overtaking=True)
    assert history.is_event(1, 2, 2)
    assert history.is_event(2, 1, 1)
    assert history.is_event(1, 2, 2)
    assert not history.is_event(3, 2, 2), "a number that came before"
    assert not history.is_event(2, 3, 3), "another event than the other clients had there"
    assert not history.is_event(4, 4, 5), "the number of another document"


def test_a_peers_messages_are_read_as_the_servers_are() -> None:
    reader = Reader(History(0))
    message = reader.read(frames.created(7, document(7, 1.5)))
    assert (message.kind, message.start, message.end, message.at) == ("events", 6, 7, (1.5,))
    assert reader.read(frames.live(7)).end == 7
    changes = Reader(History(3, overtaking=True))
    message = changes.read(frames.changed(1, 2, {"n": 6, "at": 2.5}))
    assert (message.start, message.end, message.at) == (0, 1, (2.5,))
    with pytest.raises(WrongError, match="event 2 is 6 of int:2"):
        changes.read(frames.changed(2, 2, {"n": 6, "at": 2.5}))
    with pytest.raises(WrongError, match="event 2 is 5 of int:2"):
        changes.read(frames.changed(2, 2, {"n": 5, "at": 2.5}))


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


def test_a_snapshot_has_every_document_once_and_counting_begins_after_it() -> None:
    replica = Replica(HISTORY, None)
    replica.take(_snapshot(7, [0, 1], last=False))
    assert not replica.is_exact
    replica.take(_snapshot(7, [2], part=1))
    replica.take(_span(7, 9))
    assert (replica.seq, replica.events, replica.is_exact) == (9, 2, True)


@pytest.mark.parametrize("parts", [[[0, 1]], [[0, 1, 2, 2]], [[0, 1], [1]]])
def test_a_snapshot_that_lacks_a_document_or_repeats_one_is_wrong(parts: list[list[int]]) -> None:
    replica = Replica(HISTORY, None)
    for number, part in enumerate(parts[:-1]):
        replica.take(_snapshot(7, part, number, last=False))
    with pytest.raises(WrongError):
        replica.take(_snapshot(7, parts[-1], len(parts) - 1))


@pytest.mark.parametrize("message", [_snapshot(7, [0, 1, 2]), Message("squashed"), Message("reset", text="purged")])
def test_a_client_with_a_position_is_moved_by_events_alone(message: Message) -> None:
    with pytest.raises(WrongError):
        Replica(HISTORY, 5).take(message)


def test_a_position_without_its_events_is_wrong() -> None:
    with pytest.raises(WrongError, match="says 6"):
        Replica(HISTORY, 5).take(Message("live", 6, 6))


def test_client_of_one_document_passes_the_events_of_others_but_none_of_its_own() -> None:
    assert [*HISTORY.seqs(2, 9, 0)] == [4, 7]
    assert [*HISTORY.seqs(3, 9, 0)] == [4, 7]
    assert [*HISTORY.seqs(4, 4, 0)] == []
    raw = {
        "type": "events",
        "shape": "by_id?id=int:0",
        "from": "l.5:1",
        "to": "l.5:7",
        "events": [_event(4), _event(7)],
    }
    replica = Replica(HISTORY, 2, 0)
    assert replica.take(Reader(HISTORY).read(orjson.dumps(raw))) == 2
    replica.take(Message("live", 9, 9))
    assert (replica.seq, replica.events, replica.is_exact, replica.has_all(9)) == (9, 2, True, True)
    assert not replica.has_all(10)
    with pytest.raises(WrongError, match="says 10, the client is at 9"):
        replica.take(Message("progress", 10, 10))
    with pytest.raises(WrongError, match=r"a frame from 1 to 7 has \[7\]"):
        Reader(HISTORY).read(orjson.dumps(raw | {"events": [_event(7)]}))


def test_principal_that_may_see_one_document_gets_its_events_alone_and_all() -> None:
    def moved(first: int, *seqs: int) -> Replica:
        reader, replica = Reader(HISTORY, owned=True), Replica(HISTORY, first, document=0)
        replica.take(reader.read(_events(0, seqs[-1], [_event(seq) for seq in seqs])))
        return replica

    # A span may begin before the rules, without the events from before them.
    assert (moved(3, 4, 7).events, moved(4, 7).events) == (2, 1)
    with pytest.raises(WrongError, match="came to one of"):
        moved(3, 5)
    with pytest.raises(WrongError, match="1 events came for 2"):
        moved(3, 7)
