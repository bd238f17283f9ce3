"""Dates as text: the same as the standard library and the driver write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import bson
import pytest
from bson.tz_util import utc as driver_utc
from hypothesis import given
from hypothesis import strategies as st

from eventsync.domain.values.extended_json import CODEC, JSON_CODEC, decode, to_json, utc_text

ZONES = st.sampled_from([UTC, driver_utc, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))])
DATES = st.datetimes(datetime.min + timedelta(1), datetime.max - timedelta(1), timezones=ZONES)  # noqa: DTZ901 - naive bounds are what it takes


@given(DATES)
def test_in_utc_as_the_standard_library_writes_it(date: datetime) -> None:
    utc = date.astimezone(UTC).replace(tzinfo=None)
    for precision in ("seconds", "milliseconds"):
        assert utc_text(date, precision) == utc.isoformat(timespec=precision) + "Z"
        assert utc_text(utc, precision) == utc_text(date, precision)


@pytest.mark.parametrize(
    ("date", "text"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), '{"$date":"1970-01-01T00:00:00Z"}'),
        (datetime(1969, 12, 31, 23, 59, 59, 999000, tzinfo=UTC), '{"$date":{"$numberLong":"-1"}}'),
        # Half an hour after midnight, where it was still 1969 in UTC; and the other way round.
        (datetime(1970, 1, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), '{"$date":{"$numberLong":"-1800000"}}'),
        (datetime(1969, 12, 31, 23, 30, tzinfo=timezone(timedelta(hours=-1))), '{"$date":"1970-01-01T00:30:00Z"}'),
        (datetime(2026, 2, 3, 4, 5, 6, 7000, tzinfo=UTC), '{"$date":"2026-02-03T04:05:06.007Z"}'),
    ],
)
def test_extended_json_of_dates(date: datetime, text: str) -> None:
    assert to_json(date).decode() == text
    assert to_json(date.astimezone(UTC).replace(tzinfo=None)).decode() == text, "in UTC without saying so"


@given(st.integers(-(2**63), 2**63 - 1))
def test_each_stored_date_has_one_text(millis: int) -> None:
    raw = bson.encode({"at": bson.DatetimeMS(millis)})
    assert to_json(decode(raw, JSON_CODEC)) == to_json(decode(raw, CODEC))
