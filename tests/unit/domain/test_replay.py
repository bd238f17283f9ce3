from __future__ import annotations

from typing import Any

import pytest
from bson.int64 import Int64

from eventsync.domain.ids import IdText
from eventsync.domain.positions import Seq
from eventsync.domain.replay import Change, Damaged, State, applied, patched, read_change
from eventsync.errors import Malformed


def change(op: Any, **content: Any) -> Change:
    return Change(Seq(7), "docs", IdText("a"), op, 1, 2, **content)


@pytest.mark.parametrize(
    ("state", "event", "expected"),
    [
        (None, change("create", document={"_id": "a"}), (2, {"_id": "a"})),
        ((1, {"_id": "a", "n": 1}), change("replace", document={"_id": "a"}), (2, {"_id": "a"})),
        ((1, {"_id": "a"}), change("update", patch=[]), (2, {"_id": "a"})),
        ((1, {"_id": "a"}), change("delete"), None),
        (None, change("delete"), None),
    ],
)
def test_an_event_makes_the_next_state(state: State, event: Change, expected: State) -> None:
    assert applied(state, event) == expected


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (None, change("update", patch=[])),
        ((1, {}), change("update")),
        ((1, {}), change("create")),
        ((1, {}), change("update", patch=[{"op": "remove", "path": "/a"}])),
        ((1, {"a": [1]}), change("update", patch=[{"op": "add", "path": "/a/2", "value": 1}])),
        ((1, {"a": [1]}), change("update", patch=[{"op": "replace", "path": "/a/1", "value": 1}])),
        ((1, {"a": [1]}), change("update", patch=[{"op": "replace", "path": "/a/-", "value": 1}])),
        ((1, {"a": 1}), change("update", patch=[{"op": "add", "path": "/a/b", "value": 1}])),
        ((1, {"a": {}}), change("update", patch=[{"op": "add", "path": "/a/b/c", "value": 1}])),
        ((1, {"a": 1}), change("update", patch=[{"op": "move", "path": "/a"}])),
        ((1, {"a": 1}), change("update", patch=[{"op": "add", "path": "/a"}])),
        ((1, {"a": 1}), change("update", patch=[{"op": "replace", "path": "", "value": {}}])),
    ],
)
def test_an_event_that_can_not_follow_is_named(state: State, event: Change) -> None:
    with pytest.raises(Damaged, match="event 7"):
        applied(state, event)


def test_names_that_look_like_indexes_and_escapes() -> None:
    document = {"0": {"a/b": 1}, "~1": [[1]]}
    patch = [
        {"op": "replace", "path": "/0/a~1b", "value": 2},
        {"op": "add", "path": "/~01/0/0", "value": 0},
        {"op": "add", "path": "/", "value": True},
    ]
    assert patched(document, patch) == {"0": {"a/b": 2}, "~1": [[0, 1]], "": True}


def test_an_event_is_read_with_its_marks() -> None:
    body = b'{"seq":3,"collection":"docs","id":"a","op":"update","base":1,"version":2,"patch":[%b],"at":"x"}'
    operation = b'{"op":"add","path":"/n","value":5}'
    read = read_change(body % operation, ["/0/value"])
    assert read.patch is not None
    assert type(read.patch[0]["value"]) is Int64
    with pytest.raises(Malformed):
        read_change(body % operation, ["/1/value"])
    with pytest.raises(KeyError):
        read_change(b'{"seq":3}', ())
