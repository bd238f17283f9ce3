"""Every promise, broken by hand: the checker says which one, and shows what contradicts it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bson.timestamp import Timestamp

from support.chaos.checker import check
from support.chaos.evidence import Evidence, LogRow
from support.chaos.history import Effect, Frame, Write
from support.chaos.sample import LOG, Sample


@pytest.fixture
def sample() -> Sample:
    """Seqs 1, 2, 3, then 4 and 5 in one transaction, 6, and a delete as 7."""
    made = Sample()
    made.write(("a/1", "put"), via="api")
    made.write(("a/2", "put"))
    made.write(("a/1", "put"), via="api")
    made.write(("a/1", "put"), ("a/2", "put"))
    made.write(("b/1", "put"))
    made.write(("a/2", "delete"), via="api")
    return made


def promises(evidence: Evidence, **options: Any) -> set[str]:
    return {violation.promise for violation in check(evidence, **options)}


def with_rows(sample: Sample, rows: list[LogRow], *, renumber: bool = False) -> Evidence:
    """The sample with other rows; `renumber`: so that only their content is wrong, not their numbers."""
    if renumber:
        rows = [replace(row, seq=seq, body={**row.body, "seq": seq}) for seq, row in enumerate(rows, start=1)]
    return replace(sample.evidence(), rows=tuple(rows))


def test_a_run_in_which_all_is_right(sample: Sample) -> None:
    frames = [*sample.frames("one", "a", [2, 3, 6]), *sample.frames("two", "b", [3, 6])]
    assert check(sample.evidence(*frames)) == []


def test_an_event_that_is_missing(sample: Sample) -> None:
    rows = [row for row in sample.rows if row.seq != 2]
    assert {"density", "survival", "bijection", "chain"} <= promises(with_rows(sample, rows))
    closed = check(with_rows(sample, rows, renumber=True))
    assert {"survival", "bijection"} <= {violation.promise for violation in closed}
    assert "density" not in {violation.promise for violation in closed}
    assert "write w2 (behind, ok) of a/2=w2.1" in closed[0].witness


def test_an_event_that_is_there_twice(sample: Sample) -> None:
    rows = [*sample.rows[:3], sample.rows[2], *sample.rows[3:]]
    found = check(with_rows(sample, rows, renumber=True))
    assert {"bijection", "chain"} <= {violation.promise for violation in found}
    doubled = next(violation for violation in found if violation.promise == "bijection")
    assert len(doubled.witness) == 3
    assert "w3" in doubled.witness[0]


def test_two_events_that_are_swapped(sample: Sample) -> None:
    rows = [sample.rows[0], sample.rows[2], sample.rows[1], *sample.rows[3:]]
    found = check(with_rows(sample, rows, renumber=True))
    assert {violation.promise for violation in found} == {"order"}, "the documents differ, so no version chain breaks"
    assert len(found) == 2, "against real time, and against the oplog"


def test_order_is_seen_by_real_time_alone(sample: Sample) -> None:
    rows = [sample.rows[0], sample.rows[2], sample.rows[1], *sample.rows[3:]]
    evidence = replace(with_rows(sample, rows, renumber=True), commits=None)
    assert promises(evidence) == {"order"}


def test_writes_at_the_same_time_have_no_order_of_their_own(sample: Sample) -> None:
    rows = [sample.rows[0], sample.rows[2], sample.rows[1], *sample.rows[3:]]
    evidence = replace(with_rows(sample, rows, renumber=True), commits=None)
    together = [replace(write, invoked=0.0) if write.operation == "w3" else write for write in sample.writes]
    evidence = replace(evidence, history=replace(evidence.history, writes=tuple(together)))
    assert promises(evidence) == set()


def test_a_write_that_failed_and_is_there(sample: Sample) -> None:
    sample.writes[1] = replace(sample.writes[1], outcome="failed")
    assert promises(sample.evidence()) == {"bijection"}


def test_a_write_whose_outcome_is_unknown_may_be_there_or_not(sample: Sample) -> None:
    sample.writes[1] = replace(sample.writes[1], outcome="unknown")
    sample.writes.append(Write("w9", "behind", (Effect(("a", "9"), "w9.1"),), "unknown", 9, 9.5, 9))
    assert check(sample.evidence()) == []


def test_an_event_of_no_write(sample: Sample) -> None:
    del sample.writes[1]
    assert promises(sample.evidence()) == {"bijection"}


def test_a_transaction_in_part(sample: Sample) -> None:
    sample.writes[3] = replace(sample.writes[3], outcome="unknown")
    rows = [row for row in sample.rows if row.seq != 5]
    found = check(with_rows(sample, rows, renumber=True))
    assert any("in part" in violation.message for violation in found)


def test_deletes_behind_the_api_are_counted() -> None:
    sample = Sample()
    sample.write(("a/1", "put"))
    sample.write(("a/1", "delete"))
    assert check(sample.evidence()) == []
    assert "survival" in promises(with_rows(sample, sample.rows[:1]))
    assert "bijection" in promises(with_rows(sample, [*sample.rows, replace(sample.rows[1], seq=3)]))


def test_a_version_that_does_not_chain(sample: Sample) -> None:
    spoilt = replace(sample.rows[2], body={**sample.rows[2].body, "base": 7})
    assert promises(with_rows(sample, [*sample.rows[:2], spoilt, *sample.rows[3:]])) == {"chain"}


def test_an_api_write_that_skips_a_version(sample: Sample) -> None:
    spoilt = replace(sample.rows[0], body={**sample.rows[0].body, "version": 2})
    assert "chain" in promises(with_rows(sample, [spoilt, *sample.rows[1:]]))


def test_a_state_that_is_not_the_source(sample: Sample) -> None:
    sample.state["a", "1"] = (2, {"_id": "1", "mark": "another"})
    found = check(sample.evidence())
    assert [violation.promise for violation in found] == ["state"]
    assert "another" in found[0].witness[1]


def test_a_split_transaction(sample: Sample) -> None:
    rows = [replace(row, group=None, body={k: v for k, v in row.body.items() if k != "txn"}) for row in sample.rows]
    assert promises(with_rows(sample, rows)) == {"groups"}


def test_a_transaction_with_a_stranger_inside(sample: Sample) -> None:
    rows = [*sample.rows[:4], sample.rows[5], sample.rows[4], sample.rows[6]]
    assert {"groups", "order"} <= promises(with_rows(sample, rows, renumber=True))


def test_a_log_that_ends_within_a_transaction(sample: Sample) -> None:
    found = check(with_rows(sample, sample.rows[:4]))
    assert any(violation.message == "the last transaction is not whole" for violation in found)


def test_another_log(sample: Sample) -> None:
    rows = [replace(row, log="log2", seq=row.seq - 3) if row.seq > 3 else row for row in sample.rows]
    found = check(with_rows(sample, rows))
    assert "the log id changed: log1, log2" in [violation.message for violation in found]


def test_a_row_and_its_body_differ(sample: Sample) -> None:
    spoilt = replace(sample.rows[1], body={**sample.rows[1].body, "seq": 9})
    assert "density" in promises(with_rows(sample, [sample.rows[0], spoilt, *sample.rows[2:]]))


@pytest.mark.parametrize("order", [(1, 2, 3, 3, 4, 5, 6, 7), (1, 3, 2, 4, 5, 6, 7)], ids=["doubled", "swapped"])
def test_even_after_a_repair_nothing_is_doubled_or_swapped(sample: Sample, order: tuple[int, ...]) -> None:
    evidence = with_rows(sample, [sample.rows[seq - 1] for seq in order], renumber=True)
    assert promises(evidence, repaired=True) & {"bijection", "order"}


def test_a_commit_time_that_is_another(sample: Sample) -> None:
    spoilt = replace(sample.rows[1], time=Timestamp(99, 1))
    assert promises(with_rows(sample, [sample.rows[0], spoilt, *sample.rows[2:]])) == {"bijection"}


def spoilt_frames(sample: Sample, index: int, **fields: Any) -> Evidence:
    frames = sample.frames("one", "a", [2, 3])
    frames[index] = replace(frames[index], **fields)
    return sample.evidence(*frames)


@pytest.mark.parametrize(
    ("index", "fields", "promise"),
    [
        (3, {"start": f"{LOG}:3"}, "client"),  # a hole
        (3, {"end": f"{LOG}:1"}, "client"),  # backwards
        (3, {"end": f"{LOG}:4"}, "groups"),  # within the transaction
        (3, {"events": ()}, "client"),  # events left out
        (1, {"docs": ({"id": "1", "version": 1, "doc": {}},)}, "state"),  # a snapshot from the future
        (1, {"kind": "reset"}, "client"),
        (1, {"end": "other:3"}, "client"),
        (5, {"end": f"{LOG}:1"}, "client"),  # live, and behind
    ],
)
def test_a_spoilt_frame(sample: Sample, index: int, fields: dict[str, Any], promise: str) -> None:
    assert promise in promises(spoilt_frames(sample, index, **fields))


def test_a_client_that_never_arrives(sample: Sample) -> None:
    frames = sample.frames("one", "a", [2, 3])
    found = check(sample.evidence(*frames[:4], frames[-1]))
    assert [violation.message for violation in found] == ["one ended at log1:3, its shape's last event is 7"]


def test_the_part_of_a_transaction_in_another_shape_does_not_matter() -> None:
    sample = Sample()
    sample.write(("a/1", "put"), ("b/1", "put"))
    frames = sample.frames("one", "a", [2])
    frames[2] = replace(frames[2], end=f"{LOG}:1")
    assert check(sample.evidence(*frames)) == []


def test_progress_past_events_that_were_not_sent(sample: Sample) -> None:
    frames = sample.frames("one", "a", [2, 3])
    frames.insert(4, Frame("one", "a", "progress", end=f"{LOG}:5"))
    assert "client" in promises(sample.evidence(*frames))


def test_a_client_may_get_again_what_it_has(sample: Sample) -> None:
    frames = sample.frames("one", "a", [2, 3])
    again = [Frame("one", "a", "connect"), frames[3]]
    assert check(sample.evidence(*frames[:4], *again, *frames[4:])) == []


def test_a_snapshot_in_the_middle_is_the_log_replayed(sample: Sample) -> None:
    docs = ({"id": "1", "version": 2, "doc": {"_id": "1", "mark": "w3.1"}},
            {"id": "2", "version": 0, "doc": {"_id": "2", "mark": "w2.1"}})  # fmt: skip
    right = Frame("s", "a", "snapshot", end=f"{LOG}:3", docs=docs)
    assert check(sample.evidence(right)) == []
    assert promises(sample.evidence(replace(right, end=f"{LOG}:2"))) == {"state"}
    assert promises(sample.evidence(replace(right, docs=docs[:1]))) == {"state"}


def test_the_parts_of_a_snapshot_are_one() -> None:
    sample = Sample()
    sample.write(("a/1", "put"))
    sample.write(("a/2", "put"))
    rows = [{"id": key, "version": 0, "doc": {"_id": key, "mark": f"w{key}.1"}} for key in ("1", "2")]
    parts = [
        Frame("s", "a", "snapshot", end=f"{LOG}:2", docs=(row,), part=part, last=bool(part))
        for part, row in enumerate(rows)
    ]
    assert check(sample.evidence(*parts)) == []
    cut = [parts[0], Frame("s", "a", "connect"), *parts]
    assert check(sample.evidence(*cut)) == [], "what was not whole is worth nothing on another connection"


def test_a_client_is_to_come_to_where_the_run_ended_and_no_further() -> None:
    made = Sample()
    for key in ("a/1", "a/2"):
        made.write((key, "put"))
    frames = made.frames("c", "a", [1])
    made.write(("a/3", "put"))
    assert not check(made.evidence(*frames[:-1], replace(frames[-1], end=f"{LOG}:2")))
    (late,) = check(made.evidence(*frames[:-1], replace(frames[-1], end=f"{LOG}:3")))
    assert late.message == f"c ended at {LOG}:2, its shape's last event is 3"
