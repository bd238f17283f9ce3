"""The view of a log, against a model that knows the states of each document and asks plain predicates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import jsonpatch
import orjson
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eventsync.domain.access.redaction import Redaction
from eventsync.domain.events import Event, TransactionPart, place
from eventsync.domain.ids import IdText
from eventsync.domain.patches.diff import diff
from eventsync.domain.positions import Seq
from eventsync.domain.predicates.definitions import define
from eventsync.domain.routes import Router, Routes, Transition
from eventsync.domain.values.extended_json import to_json
from eventsync.domain.views import Clause, View
from eventsync.stores.log.stored_event import StoredEvent
from eventsync.sync.live import followed as followed_module
from eventsync.sync.live.followed import followed, seen_body, transition_of

State = dict[str, Any] | None
AT = datetime(2026, 11, 29, tzinfo=UTC)
BOARD = define("board", "cards", {"board": "$board"}, {"board": ["any"]})
OWNER = define("owner", "cards", {"owner": "$owner", "secret": {"$ne": True}}, {"owner": ["text"]})
PUBLIC = define("public", "cards", {"public": True}, {})
ROUTER = Router([BOARD, OWNER, PUBLIC])
HIDDEN = Redaction([("margin",), ("lines", "cost")])


class Case(NamedTuple):
    """A view, and in plain words which documents are in it and what is left of them."""

    view: View
    is_seen: Callable[[Mapping[str, Any]], bool]
    is_hidden: bool = False


def _of(*parts: Any) -> Clause:
    return Clause.of(parts)


BOARD_1 = _of(BOARD.bind({"board": 1}))
MINE = _of(OWNER.bind({"owner": "ada"}), PUBLIC.bind({}))


def _on_board(document: Mapping[str, Any]) -> bool:
    return 1 in (document["board"] if isinstance(document["board"], list) else [document["board"]])


def _is_mine(document: Mapping[str, Any]) -> bool:
    return document["public"] or (document["owner"] == "ada" and not document["secret"])


CASES = [
    Case(View.of("cards", "cards", [MINE]), _is_mine),
    Case(View.of("cards", "cards", [MINE], HIDDEN), _is_mine, is_hidden=True),
    Case(View.of("cards", "cards", [], HIDDEN), lambda _: True, is_hidden=True),
    Case(View.of("b?b=1", "cards", [BOARD_1, MINE]), lambda one: _on_board(one) and _is_mine(one)),
    Case(View.of("b?b=1", "cards", [BOARD_1, MINE], HIDDEN), lambda one: _on_board(one) and _is_mine(one), True),
]

DOCUMENTS = st.fixed_dictionaries(
    {
        "board": st.sampled_from([1, 2, [1, 2], []]),
        "owner": st.sampled_from(["ada", "bob"]),
        "public": st.booleans(),
        "secret": st.booleans(),
        "margin": st.sampled_from([1, 2, {"doc": [',"at":"']}]),
        "lines": st.lists(st.fixed_dictionaries({"cost": st.integers(0, 2), "n": st.integers(0, 2)}), max_size=3),
        "op": st.sampled_from(["a", ',"doc":{']),
    }
)
WRITES = st.lists(
    st.tuples(st.sampled_from(["1", "2", "3"]), st.none() | DOCUMENTS, st.sampled_from([0, 0, 1, 2]), st.booleans()),
    max_size=14,
)
"""Each write: the document, its state afterwards, the transaction (0: none), and whether it is a replacement."""


class Log(NamedTuple):
    """The rows of a log as the worker makes them, and the states of its documents after each."""

    events: list[StoredEvent]
    states: list[dict[str, State]]


def logged(writes: Sequence[tuple[str, State, int, bool]]) -> Log:
    states: dict[str, State] = {}
    made: list[tuple[Event, Routes | None, int]] = []
    history: list[dict[str, State]] = []
    for text, state, transaction, replaces in writes:
        before, after = states.get(text), None if state is None else {"_id": text, **state}
        if before == after:
            continue
        routes, _ = ROUTER.routes("cards", before, after)
        event = _event(text, before, after, replaces=replaces)
        if routes is not None and event.op == "update" and routes.enters:
            routes = routes._replace(document=to_json(after))
        states = {**states, text: after}
        made.append((event, routes, transaction))
        history.append(states)
    return Log(list(_placed(made)), history)


def _event(text: str, before: State, after: State, *, replaces: bool) -> Event:
    if after is None:
        return Event("cards", IdText(text), "delete", 1, 2, AT, op_id="o", by="b")
    if before is None:
        return Event("cards", IdText(text), "create", 0, 1, AT, document=after)
    if replaces:
        return Event("cards", IdText(text), "replace", 1, 2, AT, document=after)
    return Event("cards", IdText(text), "update", 1, 2, AT, patch=diff(before, after), op_id="o", by="b")


def _placed(made: list[tuple[Event, Routes | None, int]]) -> list[StoredEvent]:
    events, start = [], 0
    while start < len(made):
        end = start + 1
        name = made[start][2]
        while name and end < len(made) and made[end][2] == name:
            end += 1
        for number in range(start, end):
            event, routes, _ = made[number]
            part = TransactionPart(f"t{start}", number - start + 1, end - start) if name else None
            body = place(event.encode(), Seq(number + 1), part)
            events.append(StoredEvent(Seq(number + 1), "cards", event.id, body, part, routes))
        start = end
    return events


def shown(case: Case, state: State) -> State:
    """The part of a document that a reader has, by the plain predicate."""
    if state is None or not case.is_seen(state):
        return None
    if not case.is_hidden:
        return state
    lines = [{name: item for name, item in line.items() if name != "cost"} for line in state["lines"]]
    return {name: item for name, item in state.items() if name != "margin"} | {"lines": lines}


def check(case: Case, log: Log) -> None:
    """A reader that applies what it is shown has after each event exactly what it may see; and nothing else is sent."""
    got = {event.seq: event for event in followed(log.events, case.view)}
    client: dict[str, Any] = {}
    before: dict[str, State] = {}
    for event, states in zip(log.events, log.states, strict=True):
        was, now = shown(case, before.get(event.id)), shown(case, states[event.id])
        before = states
        assert (event.seq in got) == (was is not None or now is not None), "what is nothing to the reader is not sent"
        if event.seq not in got:
            continue
        body = orjson.loads(got[event.seq].body)
        original = orjson.loads(event.body)
        content = {"doc", "patch", "op", "enter", "leave", "txn"}
        assert [(k, v) for k, v in body.items() if k not in content] == [
            (k, v) for k, v in original.items() if k not in content
        ], "all else is what it was"
        if body["op"] == "delete":
            assert body.keys().isdisjoint({"doc", "patch"}), "nothing of the content"
            assert body.get("leave", False) == (original["op"] != "delete")
            client.pop(event.id, None)
        elif body["op"] == "update":
            client[event.id] = jsonpatch.apply_patch(client[event.id], body["patch"])
        else:
            assert body.get("enter", False) == (was is None and original["op"] != "create")
            client[event.id] = body["doc"]
        assert client.get(event.id) == (None if now is None else orjson.loads(to_json(now)))
    check_transactions(list(got.values()))


def check_transactions(events: list[StoredEvent]) -> None:
    parts: dict[str, list[tuple[int, int]]] = {}
    for event in events:
        txn = orjson.loads(event.body).get("txn")
        assert txn == (event.transaction and {"id": event.transaction.id, **_counts(event.transaction)})
        if event.transaction is not None:
            parts.setdefault(event.transaction.id, []).append((event.transaction.n, event.transaction.of))
    for numbers in parts.values():
        of = len(numbers)
        assert numbers == [(n, of) for n in range(1, of + 1)], "numbered among what is seen"
        assert of > 1


def _counts(part: TransactionPart) -> dict[str, int]:
    return {"n": part.n, "of": part.of}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CASES), WRITES)
def test_a_reader_has_exactly_what_it_may_see(case: Case, writes: list[tuple[str, State, int, bool]]) -> None:
    check(case, logged(writes))


# --- mutants that must die ----------------------------------------------------------------------------------------


def _after_only(event: StoredEvent, view: View) -> Transition | None:
    """Look at the state afterwards alone, as one does who evaluates a filter on each event's document."""
    right = transition_of(event, view)
    return None if right == "leave" else "stay" if right == "enter" else right


def _union(event: StoredEvent, view: View) -> Transition | None:
    """Take a document for one of the view if it has a key of any clause."""
    return event.routes.transition(frozenset[bytes]().union(*view.clauses)) if event.routes and view.clauses else "stay"


def _forgets_on_enter(event: StoredEvent, transition: Transition, view: View) -> bytes:
    return seen_body(event, transition, replace(view, redaction=None) if transition == "enter" else view)


def _uncounted(events: list[StoredEvent], _: str) -> Iterator[StoredEvent]:
    return iter(events)


MUTANTS: dict[str, tuple[str, Any]] = {
    "the state afterwards only": ("transition_of", _after_only),
    "a union of the clauses": ("transition_of", _union),
    "redaction forgotten where a document enters": ("seen_body", _forgets_on_enter),
    "transactions as they are in the log": ("_counted", _uncounted),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attribute, mutant = MUTANTS[name]
    if attribute == "seen_body":
        monkeypatch.setattr(followed_module.followed, "__defaults__", (mutant,))
    else:
        monkeypatch.setattr(followed_module, attribute, mutant)

    @settings(max_examples=300, deadline=None, database=None, phases=[Phase.generate], derandomize=True)
    @given(st.sampled_from(CASES), WRITES)
    def found(case: Case, writes: list[tuple[str, State, int, bool]]) -> None:
        check(case, logged(writes))

    with pytest.raises(
        (AssertionError, KeyError, jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, ValueError)
    ):
        found()


def test_events_of_which_the_redaction_leaves_nothing_are_sent() -> None:
    before = {"board": 1, "owner": "ada", "public": True, "secret": False, "margin": 1, "lines": [], "op": "a"}
    log = logged([("1", before, 0, False), ("1", before | {"margin": 2}, 0, False)])
    got = list(followed(log.events, CASES[1].view))
    assert [event.seq for event in got] == [1, 2]
    assert orjson.loads(got[1].body)["patch"] == []


# --- keys ---------------------------------------------------------------------------------------------------------


def test_views_that_show_something_else_have_other_keys() -> None:
    views = [case.view for case in CASES] + [
        View.of("cards/1", "cards", [MINE]),
        View.of("b?", "cards", [BOARD_1, MINE]),
        View.of("cards", "cards", [MINE], Redaction([("margin",)])),
        View.of("cards", "cards", [_of(OWNER.bind({"owner": "bob"}), PUBLIC.bind({}))]),
        View.of("cards", "cards", [_of(PUBLIC.bind({}))]),
        View.of("cards", "cards", []),
    ]
    assert len({view.key for view in views}) == len(views)
    assert len({view.scope for view in views}) == len(views)


def test_views_that_show_the_same_share_their_key() -> None:
    other = _of(PUBLIC.bind({}), OWNER.bind({"owner": "ada"}))
    one, two = (
        View.of("b?b=1", "cards", [MINE, BOARD_1], Redaction([("lines", "cost"), ("margin",)])),
        View.of("b?b=1", "cards", [BOARD_1, other], HIDDEN),
    )
    assert one.key == two.key


def test_events_are_found_by_the_smallest_set_of_keys() -> None:
    assert CASES[3].view.keys == BOARD_1.keys
    mine = _of(OWNER.bind({"owner": "ada"}))
    assert View.of("b?b=1", "cards", [BOARD_1, mine]).keys == mine.keys, "of two equal ones by those of the principal"
    assert not View.of("cards", "cards", []).keys


def test_a_filter_and_the_keys_admit_the_same_documents() -> None:
    view = CASES[3].view
    mine = {"$or": [{"owner": {"$eq": "ada"}, "secret": {"$ne": True}}, {"public": True}]}
    assert view.filter == {"$and": [{"board": {"$eq": 1}}, mine]}
    seen = {"board": [1, 2], "owner": "bob", "public": True, "secret": True}
    assert view.admits(seen)
    assert not view.admits(seen | {"board": 2})
    assert not view.admits(seen | {"public": False})
    assert View.of("cards", "cards", []).filter == {}
