from __future__ import annotations

import pytest

from app.domain.plan import Extent, ResetReason, refusal
from app.domain.position import LogId, Position, Seq

LOG, OTHER = LogId("aaaa"), LogId("bbbb")


@pytest.mark.parametrize(
    ("log", "seq", "reason"),
    [
        (LOG, 10, None),
        (LOG, 15, None),
        (LOG, 20, None),
        (LOG, 9, ResetReason.BEFORE_HORIZON),
        (LOG, 0, ResetReason.BEFORE_HORIZON),
        (LOG, 21, ResetReason.FUTURE),
        (OTHER, 15, ResetReason.UNKNOWN_LOG),
        (OTHER, 99, ResetReason.UNKNOWN_LOG),
    ],
)
def test_a_position_is_continued_where_every_later_event_is_there(
    log: LogId, seq: int, reason: ResetReason | None
) -> None:
    assert refusal(Position(log, Seq(seq)), Extent(LOG, horizon=Seq(10), head=Seq(20))) == reason


def test_the_beginning_of_a_log_that_has_everything_is_continued() -> None:
    assert refusal(Position(LOG, Seq(0)), Extent(LOG, Seq(0), Seq(0))) is None


def test_the_reasons_are_the_words_of_the_protocol() -> None:
    assert {reason.value for reason in ResetReason} == {"unknown_log", "future", "before_horizon"}
