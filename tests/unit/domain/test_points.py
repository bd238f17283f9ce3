from __future__ import annotations

from datetime import UTC, datetime

import pytest

from eventsync.domain.points import Version, parse_instant, parse_point, parse_version
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.errors import Malformed


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("0", Version(0)),
        ("128", Version(128)),
        ("k3f9ab2c:128", Position(LogId("k3f9ab2c"), Seq(128))),
        ("2026:1", Position(LogId("2026"), Seq(1))),
        ("2026-11-23T05:22:46Z", datetime(2026, 11, 23, 5, 22, 46, tzinfo=UTC)),
        ("2026-11-23t05:22:46z", datetime(2026, 11, 23, 5, 22, 46, tzinfo=UTC)),
        ("2026-11-23 05:22:46.5Z", datetime(2026, 11, 23, 5, 22, 46, 500_000, UTC)),
        ("2026-11-23T05:22:46.405999999Z", datetime(2026, 11, 23, 5, 22, 46, 405_999, UTC)),
        ("2026-11-23T07:22:46+02:00", datetime(2026, 11, 23, 5, 22, 46, tzinfo=UTC)),
        ("2026-11-22T23:52:46-05:30", datetime(2026, 11, 23, 5, 22, 46, tzinfo=UTC)),
    ],
)
def test_points(text: str, point: object) -> None:
    assert parse_point(text) == point
    assert type(parse_point(text)) is type(point)


def test_instants_are_in_utc() -> None:
    assert parse_instant("2026-11-23T07:22:46+02:00").tzinfo is UTC


@pytest.mark.parametrize(
    "text",
    [
        "", " 7", "+7", "07", "1_0", "٣", "9" * 19, "1.0", "yesterday",
        "k3f9ab2c:", ":7", "k3f9ab2c:07", "K3F9AB2C:7", "k3f9ab2c:-7", "k3f9ab2c:7 ",
        "2026-11-23", "2026-11-23T05:22:46", "2026-11-23T05:22Z", "2026-11-23T05:22:46.Z", "2026-11-23T05:22:46 02:00",
        "2026-13-23T05:22:46Z", "2026-11-23T25:22:46Z", "2026-11-23T05:22:60Z", "2026-11-23T05:22:46+25:00",
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "2026-11-23T05:22:46Z\n", "-1",
        "2026-11-23T05:22:46.1234567890Z",
    ],
)  # fmt: skip
def test_other_texts_are_no_points(text: str) -> None:
    with pytest.raises(Malformed):
        parse_point(text)


@pytest.mark.parametrize("text", ["yesterday", "last-week", "", "-1", "1.0"])
def test_the_error_of_an_unknown_text_lists_the_forms(text: str) -> None:
    with pytest.raises(Malformed, match=r"a version \(6\), an instant .* or a position"):
        parse_point(text)
    with pytest.raises(Malformed, match=r"expected an instant .* or a position"):
        parse_point(text, versions=False)


def test_each_kind_refuses_the_others() -> None:
    for text in ("k3f9ab2c:1", "2026-11-23T05:22:46Z"):
        with pytest.raises(Malformed, match="no version"):
            parse_version(text)
    for text in ("k3f9ab2c:1", "1"):
        with pytest.raises(Malformed, match="no instant"):
            parse_instant(text)
