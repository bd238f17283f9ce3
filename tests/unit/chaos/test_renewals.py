"""The verdict on runs whose log was destroyed: what is right passes, and each way of going wrong is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from support.chaos.checker import check
from support.chaos.evidence import Evidence
from support.chaos.history import Frame, History
from support.chaos.sample import LOG, Sample

OLD = "older000"
CLIENT = ("one", "a")


@pytest.fixture
def evidence() -> Evidence:
    """A client of an older log is reset by the last one, which has two events of a/1 and one of a/2."""
    made = Sample()
    for key in ("a/1", "a/2", "a/1"):
        made.write((key, "put"))
    found = made.evidence()
    documents = [{"id": key[1], "version": row[0], "doc": dict(row[1])} for key, row in found.source.items()]
    bodies = [dict(row.body) for row in found.rows]
    deleted = {"seq": 9, "id": "9", "op": "delete", "base": 1}
    frames = (
        Frame(*CLIENT, "connect"),
        Frame(*CLIENT, "snapshot", end=f"{OLD}:7", docs=({"id": "9", "version": 1, "doc": {"_id": "9"}},)),
        Frame(*CLIENT, "live", end=f"{OLD}:7"),
        Frame(
            *CLIENT,
            "events",
            start=f"{OLD}:7",
            end=f"{OLD}:9",
            events=(deleted,),
        ),
        Frame(*CLIENT, "reset"),
        Frame(*CLIENT, "snapshot", end=f"{LOG}:0", docs=()),
        Frame(*CLIENT, "events", start=f"{LOG}:0", end=f"{LOG}:2", events=tuple(bodies[:2])),
        Frame(*CLIENT, "connect"),
        Frame(*CLIENT, "squashed", start=f"{LOG}:2", end=f"{LOG}:3", docs=tuple(documents)),
        Frame(*CLIENT, "progress", end=f"{LOG}:3"),
        Frame(*CLIENT, "end"),
    )
    return replace(found, history=History((), frames), commits=None)


def _without(number: int) -> Callable[[Evidence], Evidence]:
    def change(evidence: Evidence) -> Evidence:
        frames = list(evidence.history.frames)
        del frames[number]
        return replace(evidence, history=History((), tuple(frames)))

    return change


def _hole_in_the_log(evidence: Evidence) -> Evidence:
    return replace(evidence, rows=(evidence.rows[0], evidence.rows[2]))


def _not_the_collections(evidence: Evidence) -> Evidence:
    return replace(evidence, unverified=("a/1 differs",))


def _another_document(evidence: Evidence) -> Evidence:
    return replace(evidence, source={**evidence.source, ("a", "5"): (1, {"_id": "5"})})


def test_a_correct_renewal_passes(evidence: Evidence) -> None:
    assert check(evidence, renewed=True) == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_hole_in_the_log, "event 3 where 2 is due"),
        (_not_the_collections, "the product's own comparison fails"),
        (_another_document, "one ends at"),
        (_without(4), f"one at {OLD}:9 can't take a frame: AssertionError('{LOG}:0 is of another log"),  # no reset
        (_without(6), "a hole"),  # events that never came
        (_without(5), "events before a snapshot"),  # no snapshot
        (_without(8), "with another 1"),  # missed, and told that nothing was
    ],
)
def test_a_wrong_renewal_is_detected(evidence: Evidence, spoil: Callable[[Evidence], Evidence], message: str) -> None:
    found = [str(violation) for violation in check(spoil(evidence), renewed=True)]
    assert any(message in text for text in found), found


def test_the_last_log_alone_is_looked_at(evidence: Evidence) -> None:
    older = tuple(replace(row, log=OLD) for row in evidence.rows[1:])
    assert check(replace(evidence, rows=(*older, *evidence.rows)), renewed=True) == []
