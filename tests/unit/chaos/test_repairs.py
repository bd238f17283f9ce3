"""Deviations that the checker forgives after a repair, and those that it does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from support.chaos.checker import check
from support.chaos.evidence import Evidence, LogRow
from support.chaos.history import Frame
from support.chaos.sample import LOG, Sample

Spoil = Callable[[list[LogRow]], list[LogRow]]


@pytest.fixture
def sample() -> Sample:
    """Events 1 to 3; then a/1 changed twice, a/2 deleted, a/3 made, all told by a repair in 4 to 6; then 7."""
    made = Sample()
    made.write(("a/1", "put"))
    made.write(("a/2", "put"), via="api")
    made.write(("b/1", "put"))
    made.write(("a/1", "put"))
    made.write(("a/1", "put"), via="api")
    made.write(("a/2", "delete"), via="api")
    made.write(("a/3", "put"), ("b/2", "put"))
    made.write(("b/2", "delete"))
    made.repair(3)
    made.write(("a/1", "put"))
    return made


def spoilt(sample: Sample, rows: list[LogRow]) -> Evidence:
    numbered = tuple(replace(row, seq=seq, body={**row.body, "seq": seq}) for seq, row in enumerate(rows, start=1))
    return replace(sample.evidence(), rows=numbered)


def test_a_repair_that_is_right(sample: Sample) -> None:
    assert [row.kind for row in sample.rows[3:6]] == ["change", "delete", "create"]
    assert check(sample.evidence(), repaired=True) == []
    assert check(sample.evidence()), "where nothing was to be lost, it is wrong"


def test_a_repair_at_the_very_time_of_the_last_commit_before_it() -> None:
    """One of its events looks exactly as that commit's own would."""
    made = Sample()
    made.write(("a/1", "put"))
    made.write(("a/2", "put"))
    made.write(("a/3", "put"))
    made.write(("a/2", "delete"))
    made.write(("a/1", "put"))
    made.write(("a/0", "put"))
    made.repair(1, later=False)
    made.write(("a/0", "put"))
    assert [row.key[1] for row in made.rows] == ["1", "0", "1", "3", "0"]
    assert check(made.evidence(), repaired=True) == []


def test_a_repair_that_no_worker_has_recorded(sample: Sample) -> None:
    found = check(replace(sample.evidence(), repairs=0), repaired=True)
    said = "1 times commits have no events, and 0 repairs are recorded"
    assert [item.message for item in found] == [f"a: {said}", f"b: {said}"]


@pytest.mark.parametrize("seq", [4, 5, 6])
def test_a_repair_that_leaves_one_document_out(sample: Sample, seq: int) -> None:
    found = check(spoilt(sample, [row for row in sample.rows if row.seq != seq]), repaired=True)
    text = "/".join(sample.rows[seq - 1].key)
    [first] = [item for item in found if item.message.startswith(f"after a repair {text} is")]
    assert all(text in line or line.startswith("before") for line in first.witness), "of this document alone"


def test_an_event_that_is_left_out_elsewhere(sample: Sample) -> None:
    found = check(spoilt(sample, sample.rows[:-1]), repaired=True)
    assert {"bijection", "survival"} & {item.promise for item in found}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda rows: [*rows[:4], rows[3], *rows[4:]],  # twice
        lambda rows: [*rows[:3], replace(rows[0], token="repair0", body={**rows[0].body, "op": "replace"}), *rows[3:]],
        lambda rows: [*rows[:3], replace(rows[3], body={**rows[3].body, "external": False}), *rows[4:]],
    ],
    ids=["twice", "what is known", "as if by the API"],
)
def test_a_repair_that_says_too_much(sample: Sample, spoil: Spoil) -> None:
    assert "bijection" in {item.promise for item in check(spoilt(sample, spoil(sample.rows)), repaired=True)}


def test_without_the_oplog_the_state_counts(sample: Sample) -> None:
    evidence = replace(sample.evidence(), commits=None)
    assert check(evidence, repaired=True) == []
    less = spoilt(sample, [row for row in sample.rows if row.seq != 6])
    assert check(replace(less, commits=None), repaired=True)


def dropped() -> Sample:
    made = Sample()
    for key in ("a/1", "a/2", "a/3", "b/1"):
        made.write((key, "put"))
    made.drop("a")
    made.write(("a/1", "put"))
    return made


def test_a_drop_deletes_all_in_any_order() -> None:
    sample = dropped()
    assert check(sample.evidence()) == []
    rows = [*sample.rows[:4], sample.rows[6], sample.rows[4], sample.rows[5], sample.rows[7]]
    assert check(spoilt(sample, rows)) == []


@pytest.mark.parametrize("seq", [5, 6, 7])
@pytest.mark.parametrize("repaired", [False, True])
def test_a_drop_whose_deletes_miss_one_document(seq: int, repaired: bool) -> None:
    sample = dropped()
    sample.repairs = 1
    found = check(spoilt(sample, [row for row in sample.rows if row.seq != seq]), repaired=repaired)
    assert "bijection" in {item.promise for item in found}


def test_a_drop_stands_against_all_else_in_order() -> None:
    sample = dropped()
    rows = [*sample.rows[:3], *sample.rows[4:7], sample.rows[3], sample.rows[7]]
    assert "order" in {item.promise for item in check(spoilt(sample, rows))}


def sometimes(*tracked: int) -> Evidence:
    """Six commits, of which only those with these numbers have events."""
    sample = Sample()
    for _ in range(6):
        sample.write(("x/1", "put"))
    weak = tuple(replace(write, outcome="unknown") for write in sample.writes)
    evidence = spoilt(sample, [row for row in sample.rows if row.seq in tracked])
    return replace(evidence, history=replace(evidence.history, writes=weak), sometimes={"x": 2})


def test_a_collection_that_is_tracked_twice() -> None:
    assert check(sometimes(1, 2, 5, 6)) == []
    [found] = check(sometimes(1, 3, 6))
    assert found.message == "x was tracked 2 times, and its events are 3 runs of its commits"
    assert len(found.witness) == 1, "the shortest hole"


def test_an_unverified_document_breaks_the_promise_of_the_state(sample: Sample) -> None:
    found = check(replace(sample.evidence(), unverified=("orders/1",)), repaired=True)
    assert [item.promise for item in found] == ["state"]


def test_a_snapshot_right_behind_an_event_that_does_not_begin_at_nothing() -> None:
    sample = Sample()
    sample.write(("a/1", "put"))
    sample.write(("x/1", "put"))
    sample.write(("x/1", "put"))
    del sample.rows[1]
    documents = ({"id": "1", "version": 0, "doc": {"_id": "1", "mark": "w1.1"}},)
    snapshot = Frame("s", "a", "snapshot", end=f"{LOG}:2", docs=documents)
    evidence = spoilt(sample, sample.rows)
    weak = tuple(replace(write, outcome="unknown") for write in sample.writes)
    evidence = replace(evidence, history=replace(evidence.history, writes=weak, frames=(snapshot,)))
    assert check(replace(evidence, sometimes={"x": 1})) == []


def test_a_repair_stands_for_what_was_written_to_a_collection_that_was_tracked_at_some_times_only(
    sample: Sample,
) -> None:
    names = {row.key[0] for row in sample.rows}
    evidence = replace(sample.evidence(), sometimes=dict.fromkeys(names, 1))
    assert check(evidence, repaired=True) == []
    less = replace(spoilt(sample, sample.rows[1:]), sometimes=dict.fromkeys(names, 1))
    assert "survival" in {item.promise for item in check(less, repaired=True)}, "elsewhere nothing is excused"
