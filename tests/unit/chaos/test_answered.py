"""Answers of a broken group commit: the checker finds each, and says whose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from support.chaos.checker import check
from support.chaos.evidence import Evidence, LogRow, Violation
from support.chaos.history import Answer, Key, Write
from support.chaos.sample import Sample

SAME, OTHER = ["a/1"] * 4, ["a/1", "a/2", "a/3", "a/4"]


@pytest.fixture(params=["one document", "several"])
def sample(request: pytest.FixtureRequest) -> Sample:
    """A write behind the API to each document, then a group of four writes without a key: w5 to w8."""
    made = Sample()
    for name in OTHER:
        made.write((name, "put"))
    for name in SAME if request.param == "one document" else OTHER:
        made.write((name, "put"), via="api", keyed=False)
    return made


def spoilt(sample: Sample, number: int, **fields: Any) -> list[Violation]:
    """Return the verdict where write `number` is another."""
    sample.writes[number - 1] = replace(sample.writes[number - 1], **fields)
    return check(sample.evidence())


def said(found: list[Violation], text: str) -> bool:
    return any(text in violation.message for violation in found)


def lost(sample: Sample, *seqs: int) -> Evidence:
    """The evidence of a run in which these changes were never made, numbered well and chained."""
    versions: dict[Key, int] = {}
    rows, state = list[LogRow](), dict(sample.evidence().source)
    for row in sample.rows:
        base = versions.get(row.key, 0)
        if row.seq not in seqs:
            version = base if row.body.get("external") else base + 1
            versions[row.key] = version
            body = {**row.body, "seq": len(rows) + 1, "base": base, "version": version}
            rows.append(replace(row, seq=len(rows) + 1, body=body))
            state[row.key] = version, {"_id": row.key[1], "mark": row.mark}
    commits = tuple(commit for seq, commit in enumerate(sample.commits, start=1) if seq not in seqs)
    return replace(sample.evidence(), rows=tuple(rows), commits=commits, source=state)


def test_a_group_that_is_right_passes(sample: Sample) -> None:
    assert check(sample.evidence()) == []
    sample.writes[5] = replace(sample.writes[5], outcome="unknown", answers=())
    assert check(sample.evidence()) == [], "an unknown write may be there"
    assert check(lost(sample, 8))[0].promise == "survival"
    sample.writes[7] = replace(sample.writes[7], outcome="unknown", answers=())
    assert check(lost(sample, 8)) == [], "and it may be missing"


def test_an_answer_to_the_wrong_writer(sample: Sample) -> None:
    sixth, seventh = sample.writes[5], sample.writes[6]
    sample.writes[5] = replace(sixth, answers=seventh.answers)
    found = spoilt(sample, 7, answers=sixth.answers)
    assert {violation.promise for violation in found} == {"answers"}
    assert said(found, "w6 was answered")
    assert said(found, "w7 was answered")
    assert "answer: Answer(" in found[0].witness[0]


def test_a_minimal_answer_to_the_wrong_writer(sample: Sample) -> None:
    answers = [replace(write.answers[0], doc=None, patch=None) for write in sample.writes[4:]]
    assert spoilt(sample, 6, answers=(answers[1],)) == []
    assert spoilt(sample, 6, answers=(answers[2],)) != []


def test_a_group_half_applied_and_all_acknowledged(sample: Sample) -> None:
    found = check(lost(sample, 7, 8))
    assert [violation.promise for violation in found] == ["survival", "survival"]
    assert said(found, "an acknowledged write has no event")


def test_a_lost_operation_that_is_called_done_has_no_event(sample: Sample) -> None:
    found = check(lost(sample, 6))
    assert "survival" in {violation.promise for violation in found}
    assert said(found, "an acknowledged write has no event")


def test_an_applied_operation_that_is_called_refused(sample: Sample) -> None:
    found = spoilt(sample, 6, outcome="failed", answers=())
    assert said(found, "a write that failed has an event")


def test_an_operation_that_is_applied_twice(sample: Sample) -> None:
    again = replace(sample.rows[5], seq=9, body={**sample.rows[5].body, "seq": 9})
    found = check(replace(sample.evidence(), rows=(*sample.rows, again)))
    assert said(found, "one change has 2 events")


def test_an_acknowledgement_without_an_answer(sample: Sample) -> None:
    assert said(spoilt(sample, 6, answers=()), "w6 was acknowledged without an answer")


Spoil = Callable[[Answer], Answer]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda answer: replace(answer, id="9"), "w6 was answered about 9"),
        (lambda answer: replace(answer, version=answer.version + 1), "w6 was answered with version"),
        (lambda answer: replace(answer, doc={"_id": "1", "mark": "w7.1"}), "w6 was answered with another document"),
        (lambda answer: replace(answer, patch=[]), "w6 was answered with another difference"),
        (
            lambda answer: replace(answer, patch=[{"op": "replace", "path": "/list/0", "value": 1}]),
            "w6 was answered with another difference",
        ),
        (lambda answer: replace(answer, etag='"2.0011223344556677"'), "which is of another state"),
        (lambda answer: replace(answer, etag=None), "which is of another state"),
    ],
)
def test_an_answer_that_is_wrong_in_one_thing(sample: Sample, spoil: Spoil, message: str) -> None:
    found = spoilt(sample, 6, answers=(spoil(sample.writes[5].answers[0]),))
    assert said(found, message)
    assert {violation.promise for violation in found} == {"answers"}


def restamped(sample: Sample, seq: int, **fields: Any) -> list[Violation]:
    rows = [replace(row, body={**row.body, **fields}) if row.seq == seq else row for row in sample.rows]
    return check(replace(sample.evidence(), rows=tuple(rows)))


def test_a_change_with_the_operation_id_of_another(sample: Sample) -> None:
    assert said(restamped(sample, 6, op_id="own w5"), "w6 has an event with the operation id of w5")
    assert said(restamped(sample, 6, op_id=None), "w6 has an event with the operation id None")


def test_a_change_with_another_key_than_it_was_sent_with() -> None:
    made = Sample()
    made.write(("a/1", "put"), via="api")
    assert check(made.evidence()) == []
    assert said(restamped(made, 1, op_id="w2"), "w1 has an event with the operation id w2")


def test_a_condition_that_did_not_hold(sample: Sample) -> None:
    base = int(sample.rows[5].body["base"])
    assert said(spoilt(sample, 6, required=base + 1), f"w6 required version {base + 1}, and replaced {base}")
    if base:
        assert spoilt(sample, 6, required=base) == []


def test_a_creation_of_what_is_there_already() -> None:
    made = Sample()
    made.write(("a/1", "put"), via="api", keyed=False)
    assert spoilt(made, 1, required=0) == []
    made.write(("a/1", "put"), via="api", keyed=False)
    assert said(spoilt(made, 2, required=0), "w2 required version 0, and replaced 1")
    behind = Sample()
    behind.write(("a/1", "put"))
    behind.write(("a/1", "put"), via="api", keyed=False)
    assert said(spoilt(behind, 2, required=0), "w2 required version 0"), "it was there, at version 0"


def test_each_effect_of_a_transaction_has_its_own_answer() -> None:
    made = Sample()
    write: Write = made.write(("a/1", "put"), ("a/2", "put"), via="api")
    assert check(made.evidence()) == []
    assert said(spoilt(made, 1, answers=write.answers[::-1]), "w1 was answered about 2")
    assert said(spoilt(made, 1, answers=write.answers[:1]), "w1 was acknowledged without an answer")
