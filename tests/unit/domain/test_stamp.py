from __future__ import annotations

from typing import Any

import pytest
from bson import Int64

from eventsync.domain.stamp import FIELD, MAX_VERSION, Stamp, trace_in, unstamp, unversioned
from eventsync.domain.values.extended_json import same

NO_VERSIONS = (True, False, -1, Int64(-(2**63)), MAX_VERSION + 1, Int64(2**63 - 1))


def test_a_stamp_is_read_as_it_was_written() -> None:
    for stamp in (Stamp(7, "op", "ann"), Stamp(2**40, None, None), Stamp(8, "op", "ann", deleted=True)):
        assert Stamp.of({FIELD: stamp.stored()}) == stamp


def test_a_stamp_is_stored_with_its_fields() -> None:
    assert same(Stamp(7, "op", "ann").stored(), {"v": Int64(7), "op": "op", "by": "ann"})
    assert same(Stamp(7, "op", "ann", deleted=True).stored(), {"v": Int64(7), "op": "op", "by": "ann", "deleted": True})


def test_the_context_of_a_trace_is_beside_what_a_stamp_says() -> None:
    stamp = Stamp(7, "op", "ann")
    stored = stamp.stored("00-4b-00-01")
    assert same(stored, {"v": Int64(7), "op": "op", "by": "ann", "t": "00-4b-00-01"})
    assert Stamp.of({FIELD: stored}) == stamp
    assert trace_in(stored) == "00-4b-00-01"
    for other in (stamp.stored(), {"t": 5}, None, 7, "text"):
        assert trace_in(other) is None


@pytest.mark.parametrize(
    "field",
    [None, 5, "x", [], {}, {"v": "7"}, {"v": 7.0}, {"v": None}, {"op": "x"}, *({"v": odd} for odd in NO_VERSIONS)],
)
def test_a_field_that_is_not_ours_is_version_0(field: Any) -> None:
    assert Stamp.of({FIELD: field}) == Stamp()
    assert Stamp.of({}) == Stamp()
    assert unversioned({"_id": 1, FIELD: field}) == (0, {"_id": 1})


def test_odd_members_are_left_out() -> None:
    field = {"v": 3, "op": 5, "by": ["ann"], "deleted": 1}
    assert Stamp.of({FIELD: field}) == Stamp(3)


def test_unstamping_takes_nothing_else_away() -> None:
    document = {"_id": 1, "a": {FIELD: 5}, FIELD: {"v": Int64(2), "op": "o", "by": "b"}, "z": 1}
    stamp, plain = unstamp(document)
    assert stamp == Stamp(2, "o", "b")
    assert plain == {"_id": 1, "a": {FIELD: 5}, "z": 1}
    assert list(plain) == ["_id", "a", "z"]
    assert FIELD in document


@pytest.mark.parametrize(
    "field",
    [
        {"v": Int64(3), "op": "o", "by": "b"},
        {"v": 3},
        {"v": 0},
        {"v": "3"},
        {"v": 3.0},
        {},
        {"op": "o"},
        None,
        7,
        "text",
        [1],
    ],
    ids=str,
)
def test_the_version_alone_is_what_the_whole_stamp_says(field: Any) -> None:
    for document in ({"_id": 1, FIELD: field, "a": 2}, {"_id": 1, "a": 2}):
        stamp, plain = unstamp(document)
        version, rest = unversioned(dict(document))
        assert (version, rest, list(rest)) == (stamp.version, plain, list(plain))
        assert type(version) is int
