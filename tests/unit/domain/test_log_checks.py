from __future__ import annotations

from typing import Any

import pytest

from eventsync.domain.events import TransactionPart
from eventsync.domain.ids import IdText
from eventsync.domain.log_checks import SequenceCheck, VersionChainCheck
from eventsync.domain.positions import Seq
from eventsync.domain.replay import Change


def numbers_of(*events: tuple[int, TransactionPart | None], head: int | None = None, settled: bool = True) -> list[str]:
    numbers = SequenceCheck()
    said = [numbers.take(Seq(seq), transaction) for seq, transaction in events]
    said.append(numbers.end(Seq(head if head is not None else events[-1][0]), settled=settled))
    return [text for text in said if text]


def test_dense_numbers_and_whole_transactions() -> None:
    t, u = (
        (TransactionPart("t", 1, 2), TransactionPart("t", 2, 2)),
        (TransactionPart("u", 1, 2), TransactionPart("u", 2, 2)),
    )
    assert numbers_of((1, None), (2, t[0]), (3, t[1]), (4, u[0]), (5, u[1]), (6, None)) == []
    assert SequenceCheck().end(Seq(0), settled=True) is None


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([(2, None)], "event 1 is missing"),
        ([(1, None), (5, None)], "events 2 to 4 are missing"),
        ([(1, TransactionPart("t", 2, 3))], "event 1 is 2 of 3 of a transaction, and event 0 is no part of it"),
        (
            [(1, TransactionPart("t", 1, 3)), (2, None)],
            "event 2 is not 2 of 3 of the transaction that event 1 is a part of",
        ),
        ([(1, TransactionPart("t", 1, 3)), (2, TransactionPart("t", 3, 3))], "event 2 is not 2 of 3"),
        ([(1, TransactionPart("t", 1, 2)), (2, TransactionPart("u", 2, 2))], "event 2 is not 2 of 2"),
        ([(1, TransactionPart("t", 1, 3))], "the transaction of event 1 ends after 1 of 3 events"),
    ],
)
def test_each_fault_is_described(events: list[Any], expected: str) -> None:
    assert expected in numbers_of(*events)[0]


def test_the_head_has_to_be_reached_and_an_open_end_may_continue() -> None:
    assert numbers_of((1, None), head=3) == ["events 2 to 3 are missing"]
    assert numbers_of((1, TransactionPart("t", 1, 3)), settled=False) == []


def chains_of(*events: tuple[str, Any, int, int]) -> list[str]:
    chains = VersionChainCheck()
    made = [
        Change(Seq(seq), "docs", IdText(key), op, base, version)
        for seq, (key, op, base, version) in enumerate(events, start=1)
    ]
    return [text for event in made if (text := chains.take(event))]


def test_versions_that_follow_on_each_other() -> None:
    one = [("a", "create", 0, 1), ("a", "update", 1, 2), ("a", "delete", 2, 3), ("a", "create", 0, 0)]
    assert chains_of(*one, ("b", "update", 17, 18), ("b", "replace", 18, 0), ("c", "delete", 4, 4)) == []


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([("a", "create", 0, 1), ("a", "update", 2, 3)], "its base is 2, but event 1 left version 1"),
        ([("a", "create", 0, 1), ("a", "create", 0, 1)], "the document exists since event 1"),
        ([("a", "update", 4, 5), ("a", "delete", 5, 5), ("a", "update", 5, 6)], "was deleted by event 2"),
        ([("a", "delete", 4, 5), ("a", "delete", 5, 5)], "was deleted by event 1"),
        ([("a", "create", 1, 2)], "its base is 1"),
    ],
)
def test_a_chain_that_breaks(events: list[Any], expected: str) -> None:
    (said,) = chains_of(*events)
    assert expected in said
