"""Points in history: what is written reads back, and whatever is read either is a point or is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.events import timestamp
from eventsync.domain.points import Version, parse_instant, parse_point
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.errors import Malformed

INSTANTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.just(UTC))  # noqa: DTZ001
OFFSETS = st.integers(-24 * 60 + 1, 24 * 60 - 1).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.integers(0, 10**18 - 1))
def test_versions(number: int) -> None:
    assert parse_point(str(number)) == Version(number)


@given(st.from_regex(r"[a-z0-9]{1,32}", fullmatch=True), st.integers(0, 2**63 - 1))
def test_positions(log: str, seq: int) -> None:
    position = Position(LogId(log), Seq(seq))
    assert parse_point(str(position)) == position


@given(INSTANTS, OFFSETS)
def test_an_instant_is_the_same_in_every_zone(at: datetime, zone: timezone) -> None:
    assert parse_point(at.astimezone(zone).isoformat(timespec="microseconds")) == at


@given(INSTANTS)
def test_the_at_of_an_event_is_that_instant(at: datetime) -> None:
    assert timestamp(parse_instant(timestamp(at))) == timestamp(at)


@given(st.text() | st.text("0123456789:-TZtz+. abk", max_size=30))
def test_everything_else_is_refused(text: str) -> None:
    try:
        point = parse_point(text)
    except Malformed:
        return
    if isinstance(point, int | Position):
        assert str(point) == text
    else:
        assert point.tzinfo is UTC
