"""Messages to clients of a declared shape, spoiled by hand: the checker says what is wrong with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from support.chaos.checker import check
from support.chaos.evidence import Evidence, Part
from support.chaos.history import Frame
from support.chaos.sample import LOG, Sample

SHAPE, SCOPE, OTHER = "some?board=a", "5f2c81ab", "00000000"


@pytest.fixture
def sample() -> Sample:
    """Seqs 1 to 3 write a/1, a/2 and a/3; 4 changes a/1, 5 and 6 in one transaction a/2 and b/1; 7 deletes a/3."""
    made = Sample()
    for number in (1, 2, 3):
        made.write((f"a/{number}", "put"))
    made.write(("a/1", "put"))
    made.write(("a/2", "put"), ("b/1", "put"))
    made.write(("a/3", "delete"))
    return made


def states(*found: tuple[str, str]) -> frozenset[bytes]:
    """The states that belong to the part, by id and mark."""
    return frozenset(orjson.dumps({"_id": key, "mark": mark}) for key, mark in found)


PART = Part(SHAPE, "a", SCOPE, states(("1", "w1.1"), ("2", "w2.1"), ("2", "w5.1")))
"""a/1 leaves at 4; a/2 stays at 5; a/3 is never in it."""


def at(seq: int, scope: str = SCOPE) -> str:
    return f"{LOG}.{scope}:{seq}"


def frames(sample: Sample, *, until: int = 7) -> list[Frame]:
    """A client that is right: the snapshot at 1, and every event after it."""
    bodies = {row.seq: dict(row.body) for row in sample.rows}
    leave = {name: value for name, value in bodies[4].items() if name != "patch"} | {"op": "delete", "leave": True}
    stay = {name: value for name, value in bodies[5].items() if name != "txn"}
    first = {"id": "1", "version": 0, "doc": {"_id": "1", "mark": "w1.1"}}
    return [
        Frame("one", SHAPE, "snapshot", end=at(1), docs=(first,)),
        Frame("one", SHAPE, "events", at(1), at(4), (bodies[2], leave)),
        Frame("one", SHAPE, "events", at(4), at(until), (stay,)),
        Frame("one", SHAPE, "end"),
    ]


def judged(sample: Sample, told: list[Frame], *parts: Part, **known: Any) -> list[str]:
    evidence: Evidence = replace(sample.evidence(*told), parts={each.scope: each for each in parts or (PART,)}, **known)
    return [violation.message for violation in check(evidence) if violation.promise == "scope"]


def test_a_client_that_is_right(sample: Sample) -> None:
    assert judged(sample, frames(sample)) == []


def test_a_snapshot_with_a_document_of_others(sample: Sample) -> None:
    told = frames(sample)
    other = {"id": "3", "version": 0, "doc": {"_id": "3", "mark": "w3.1"}}
    told[0] = replace(told[0], docs=(*told[0].docs, other))
    assert judged(sample, told)[0] == f"a snapshot state at {at(1)} differs from what MongoDB finds in 3"


def test_a_squashed_document_of_others(sample: Sample) -> None:
    told = frames(sample)
    gone = {"id": "1", "deleted": True}
    own = {"id": "2", "version": 0, "doc": {"_id": "2", "mark": "w2.1"}}
    told[1] = Frame("one", SHAPE, "squashed", at(1), at(4), docs=(gone, own))
    assert judged(sample, told) == []
    told[1] = replace(told[1], docs=(gone, own, {"id": "3", "deleted": True}))
    assert judged(sample, told) == ["a squashed document is of others: 3"]


def test_a_squashed_leave_that_is_missing(sample: Sample) -> None:
    told = frames(sample)
    own = {"id": "2", "version": 0, "doc": {"_id": "2", "mark": "w2.1"}}
    told[1] = Frame("one", SHAPE, "squashed", at(1), at(4), docs=(own,))
    assert judged(sample, told)[0] == f"a squashed state at {at(4)} differs from what MongoDB finds in 1"


def test_a_bare_position_beyond_an_event(sample: Sample) -> None:
    told = frames(sample)
    told[1:3] = [Frame("one", SHAPE, "live", end=at(7))]
    assert judged(sample, told)[:2] == ["one got no create of 2", "one got no leave of 1"]


def test_an_event_that_is_not_recounted(sample: Sample) -> None:
    told = frames(sample)
    told[2] = replace(told[2], events=(dict(sample.rows[4].body),))
    assert judged(sample, told) == ["one got event 5 as part {'id': 'w5', 'n': 1, 'of': 2} of a transaction"]


def test_an_end_before_the_last_event(sample: Sample) -> None:
    told = frames(sample)
    del told[2]
    assert judged(sample, told) == [f"one ends at {at(4)}, without event 5"]


def test_a_reset_without_another_definition(sample: Sample) -> None:
    told = [Frame("one", SHAPE, "reset"), *frames(sample)]
    assert judged(sample, told) == ["one was reset 1 times, its shape was changed 0 times"]
    assert judged(sample, told, changed={"some": 1}) == []


def test_an_end_with_a_definition_of_before(sample: Sample) -> None:
    old, new = replace(PART, last=False), replace(PART, scope=OTHER)
    assert judged(sample, frames(sample), old, new) == [f"one ends at {at(7)}, which is not of the last definition"]


def test_a_scope_of_another_shape(sample: Sample) -> None:
    messages = judged(sample, frames(sample), replace(PART, shape="some?board=b"))
    assert messages[0] == f"{at(1)} has the scope of no definition of {SHAPE}"
