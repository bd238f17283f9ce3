from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonpatch import apply_patch

from eventsync.domain.events import Event, place
from eventsync.domain.ids import IdText
from eventsync.domain.patches.diff import diff
from eventsync.domain.positions import Seq
from eventsync.domain.replay import State, applied, between, patched, read_change
from eventsync.domain.values.extended_json import Document, same
from eventsync.domain.values.type_hints import pack_type_hints, type_hints_of, unpack_type_hints
from support.changes import AT
from support.documents import documents, pairs


@given(pairs())
def test_a_patch_applied_to_the_document_before_gives_the_one_after(pair: tuple[Document, Document]) -> None:
    before, after = copy.deepcopy(pair)
    assert same(patched(before, diff(before, after)), after)


@given(pairs())
def test_the_patch_between_two_states_gives_the_other_one(pair: tuple[Document, Document]) -> None:
    before, after = pair
    assert same(apply_patch(before, between((1, before), (2, after))), after)
    assert same(apply_patch({}, between(None, (2, after))), after)
    assert between((1, before), None) == [{"op": "remove", "path": ""}]
    assert between(None, None) == []


@given(st.lists(pairs() | documents().map(lambda made: (None, made)) | st.none(), max_size=6))
def test_events_written_and_read_back_give_the_document(steps: list[Any]) -> None:
    """None deletes, a document replaces, and of a pair the second one is what the first is updated to."""
    state: State = None
    expected: State = None
    for seq, (op, before, after) in enumerate(_told(steps), start=1):
        version = seq if after is not None else 0
        if op == "update":
            event = Event("docs", IdText("a"), "update", 0, version, AT, patch=diff(before, after))
            state = (0, copy.deepcopy(before))
        else:
            event = Event("docs", IdText("a"), op, 0, version, AT, document=after)
        stored = pack_type_hints(type_hints_of(event.document if event.document is not None else event.patch or []))
        change = read_change(place(event.encode(), Seq(seq), None), unpack_type_hints(stored))
        assert (change.seq, change.op, change.version) == (seq, op, version)
        state = applied(state, change)
        expected = (version, after) if after is not None else None
        assert (state is None) == (expected is None)
        if state is not None and expected is not None:
            assert state[0] == expected[0]
            assert same(state[1], expected[1])


def _told(steps: list[Any]) -> list[tuple[Any, Any, Any]]:
    return [("delete", None, None) if step is None else _op(*step) for step in steps]


def _op(before: Any, after: Any) -> tuple[Any, Any, Any]:
    return ("replace" if before is None else "update"), before, after


@given(st.lists(st.text(max_size=5), max_size=60))
def test_marks_are_stored_and_read_whatever_their_number(pointers: list[str]) -> None:
    assert list(unpack_type_hints(pack_type_hints(pointers))) == pointers


def test_no_marks_are_stored_as_nothing() -> None:
    assert unpack_type_hints(None) == ()
    with pytest.raises(Exception, match="can't be read"):
        unpack_type_hints(b"nonsense")
