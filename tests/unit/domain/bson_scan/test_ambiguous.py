"""Documents with a field name twice are known, at the top and within, and no others are taken for them."""

from __future__ import annotations

from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.bson_scan.ambiguous import AmbiguousDocument, checked, is_distinct
from eventsync.domain.predicates.definitions import define
from eventsync.domain.routes import Router
from eventsync.domain.values.extended_json import JSON_CODEC, decode
from eventsync_workers.sequencing.converter import StateMissing, convert_raw
from support.mutants import framed

Pairs = list[tuple[str, Any]]
"""An object as its fields in order, with names that may stand twice; a value may be such a list, too."""


class Items(list[Any]):
    """An array."""


def element(name: str, value: Any) -> bytes:
    key = name.encode() + b"\0"
    if isinstance(value, Items):
        return b"\x04" + key + framed(*(element(str(n), item) for n, item in enumerate(value)))
    if isinstance(value, list):
        return b"\x03" + key + raw_of(value)
    encoded = bson.encode({name: value})
    return encoded[4:-1]


def raw_of(pairs: Pairs) -> bytes:
    return framed(*(element(name, value) for name, value in pairs))


def ambiguous(pairs: Pairs) -> set[str]:
    """Return the names that `checked` is to find."""
    names = [name for name, _ in pairs]
    return {name for name, value in pairs if names.count(name) > 1 or _repeats(value)}


def _repeats(value: Any) -> bool:
    if isinstance(value, Items):
        return any(map(_repeats, value))
    if not isinstance(value, list):
        return False
    names = [name for name, _ in value]
    return len(set(names)) < len(names) or any(_repeats(item) for _, item in value)


NAMES = st.sampled_from(["a", "b", "ab", "n", "1"])
SCALARS = st.sampled_from([1, "a", "a\0b", None, 1.5, True, b"a\0a\0", bson.Int64(5)])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(st.tuples(NAMES, inner), max_size=3) | st.lists(inner, max_size=3).map(Items),
    max_leaves=6,
)
DOCUMENTS = st.lists(st.tuples(NAMES, VALUES), max_size=5)


@given(DOCUMENTS)
def test_the_fields_with_a_name_twice_are_found(pairs: Pairs) -> None:
    raw = raw_of(pairs)
    found = checked(decode(raw), raw)
    assert (found.fields if isinstance(found, AmbiguousDocument) else set()) == ambiguous(pairs)
    assert found == decode(raw)


@given(DOCUMENTS, DOCUMENTS, st.sets(NAMES, min_size=1), st.lists(st.tuples(NAMES, SCALARS), max_size=2))
def test_no_change_with_such_an_image_is_taken_for_another(
    before: Pairs, after: Pairs, fields: set[str], updated: Pairs
) -> None:
    change: Pairs = [
        ("fullDocumentBeforeChange", before),
        ("fullDocument", after),
        ("updateDescription", [("updatedFields", updated), ("removedFields", Items(["b"]))]),
    ]
    raw = raw_of(change)
    images = ("fullDocumentBeforeChange", "fullDocument")
    if is_distinct(bson.decode(raw, JSON_CODEC), images, raw, sorted(fields)):
        assert fields.isdisjoint(ambiguous(before) | ambiguous(after))


@pytest.mark.parametrize(
    "pairs",
    [[], [("a", 1)], [("a", Items(["x", "y"])), ("b", 1.5), ("note", "a and b"), ("_a", 1), ("é_b", [("d", 1)])]],
)
def test_an_ordinary_change_is_known_by_its_bytes_alone(pairs: Pairs) -> None:
    change: Pairs = [("fullDocumentBeforeChange", pairs), ("fullDocument", [*pairs, ("c", 2)])]
    raw = raw_of([*change, ("updateDescription", [("updatedFields", [("c", 2)]), ("removedFields", Items())])])
    images = ("fullDocumentBeforeChange", "fullDocument")
    assert is_distinct(bson.decode(raw, JSON_CODEC), images, raw, ["a", "b", "c"])


TWICE: dict[str, Pairs] = {
    "in the field": [("_id", 1), ("owner", "ada"), ("owner", "bob")],
    "in an object": [("_id", 1), ("owner", [("name", "ada"), ("name", "bob")])],
    "in an item": [("_id", 1), ("owner", Items([[("name", "ada"), ("name", "bob")]]))],
}
ELSEWHERE: Pairs = [("_id", 1), ("owner", "bob"), ("note", [("x", 1), ("x", 2)]), ("note", 3)]
ROUTER = Router([define("of", "docs", {"owner": "$who"}, {"who": ["any"]})])


def changed(before: Pairs | None, after: Pairs) -> bytes:
    """Return a change of `docs/int:1`."""
    head: Pairs = [("operationType", "insert" if before is None else "replace"), ("ns", [("coll", "docs")])]
    images: Pairs = [("fullDocument", after), *([] if before is None else [("fullDocumentBeforeChange", before)])]
    body = raw_of([*head, ("documentKey", [("_id", 1)]), *images])
    return framed(body[4:-1], bson.encode({"wallTime": bson.datetime_ms.DatetimeMS(0)})[4:-1])


@pytest.mark.parametrize("twice", TWICE.values(), ids=TWICE)
def test_such_a_field_decides_nothing(twice: Pairs) -> None:
    created, _ = convert_raw(changed(None, twice), ROUTER)
    assert created is not None
    assert (created.routes, created.unrouted) == (None, ("of",))
    left, _ = convert_raw(changed([("_id", 1), ("owner", "bob")], twice), ROUTER)
    assert left is not None
    assert left.routes is not None
    assert left.routes.leaves == frozenset(left.routes.keys)
    entered, _ = convert_raw(changed(twice, [("_id", 1), ("owner", "bob")]), ROUTER)
    assert entered is not None
    assert entered.routes is not None
    assert entered.routes.enters == frozenset(entered.routes.keys)


def test_a_name_twice_in_another_field_counts_nothing() -> None:
    created, _ = convert_raw(changed(None, ELSEWHERE), ROUTER)
    assert created is not None
    assert created.routes is not None
    assert not created.unrouted


UPDATES: dict[str, tuple[Pairs, Pairs, bool]] = {
    "set": ([("note", 1), ("note", 2)], [("updatedFields", [("note", 5)])], True),
    "unset": ([("note", 1), ("note", 2)], [("removedFields", Items(["note"]))], True),
    "set within": ([("o", [("x", 1), ("x", 2)])], [("updatedFields", [("o.x", 5)])], True),
    "cut": (
        [("o", [("x", Items([1, 2])), ("x", 2)])],
        [("truncatedArrays", Items([[("field", "o.x"), ("newSize", 1)]]))],
        True,
    ),
    "dots": ([("a.b", 1), ("a.b", 2)], [("updatedFields", [("a.b", 5)])], True),
    "another field": ([("note", 1), ("note", 2)], [("updatedFields", [("n", 5)])], False),
    "the name elsewhere": ([("note", 1), ("o", [("note", 1)])], [("updatedFields", [("note", 5)])], False),
    "plain": ([("note", 1)], [("removedFields", Items(["note"]))], False),
}


@pytest.mark.parametrize(("fields", "described", "doubtful"), UPDATES.values(), ids=UPDATES)
def test_an_update_of_such_a_field_is_not_told_by_its_images(fields: Pairs, described: Pairs, doubtful: bool) -> None:
    before: Pairs = [("_id", 1), *fields]
    after: Pairs = [*before, ("n", 5)]
    body: Pairs = [
        *[("operationType", "update"), ("ns", [("coll", "docs")]), ("documentKey", [("_id", 1)])],
        *[("fullDocument", after), ("fullDocumentBeforeChange", before), ("updateDescription", described)],
    ]
    change = framed(raw_of(body)[4:-1], bson.encode({"wallTime": bson.datetime_ms.DatetimeMS(0)})[4:-1])
    if doubtful:
        with pytest.raises(StateMissing):
            convert_raw(change, ROUTER)
    else:
        event, _ = convert_raw(change, ROUTER)
        assert event is not None
