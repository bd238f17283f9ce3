from __future__ import annotations

import logging

import pytest

from eventsync.domain.positions import LogId, Seq
from eventsync.errors import Malformed, NotTracked, Unavailable
from eventsync.stores.log.tracking import TrackedCollection, Tracking

LOG, OTHER = LogId("aaaa"), LogId("bbbb")


def test_a_servers_copy_knows_what_is_active_in_its_log() -> None:
    tracking = Tracking()
    assert tracking.names == []
    tracking.replace(
        LOG,
        [
            TrackedCollection("new", None, Seq(0)),
            TrackedCollection("b", LOG, Seq(7)),
            TrackedCollection("a", LOG, Seq(0)),
            TrackedCollection("old", OTHER, Seq(3)),
            TrackedCollection("v", None, Seq(0), "it is a view"),
        ],
    )
    assert tracking.names == ["a", "b"]
    assert tracking.tracked_from("b") == 7
    tracking.require("a")
    for name in ("new", "old"):
        with pytest.raises(Unavailable, match="about to be tracked"):
            tracking.require(name)
    with pytest.raises(NotTracked, match="eventsync track"):
        tracking.require("nobody")
    with pytest.raises(NotTracked, match="can't be tracked: it is a view"):
        tracking.require("v")
    with pytest.raises(Malformed):
        tracking.require("a/b")
    tracking.replace(None, [TrackedCollection("a", None, Seq(0))])
    assert tracking.names == []
    # A worker that is about to start may bring it along: that it is not tracked is not final.
    with pytest.raises(Unavailable, match="no event log yet"):
        tracking.require("nobody")


ACTIVE = [TrackedCollection("a", LOG, Seq(0)), TrackedCollection("b", LOG, Seq(7))]


@pytest.mark.parametrize(
    ("log", "listed", "lines"),
    [
        (LOG, ACTIVE, []),
        (LOG, [*ACTIVE, TrackedCollection("c", LOG, Seq(8))], []),
        (LOG, ACTIVE[:1], ["b: it was untracked"]),
        (LOG, [ACTIVE[0], TrackedCollection("b", None, Seq(0), "it is a view")], ["b: it is a view"]),
        (LOG, [ACTIVE[0], TrackedCollection("b", LOG, Seq(9))], ["b: it was tracked again"]),
        (
            LOG,
            [ACTIVE[0], TrackedCollection("b", None, Seq(0))],
            ["b: its sequencing was interrupted, the worker's log says why"],
        ),
        (OTHER, ACTIVE, ["a, b: log bbbb has begun"]),
        (OTHER, [TrackedCollection(name, OTHER, Seq(0)) for name in "ab"], ["a, b: log bbbb has begun"]),
        (None, ACTIVE, ["a, b: there is no log any more"]),
    ],
)
def test_collections_that_stop_being_active_are_logged_with_the_reason(
    log: LogId | None, listed: list[TrackedCollection], lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """At WARNING, unless an operator has asked for it."""
    caplog.set_level(logging.INFO)
    tracking = Tracking()
    tracking.replace(LOG, ACTIVE)
    tracking.replace(log, listed)
    assert [(one.levelname, one.message) for one in caplog.records] == [
        ("INFO" if line.endswith("untracked") else "WARNING", f"not served as before: {line}") for line in lines
    ]


def test_log_line_names_at_most_ten_collections(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tracking = Tracking()
    tracking.replace(LOG, [TrackedCollection(f"c{n:03}", LOG, Seq(0)) for n in range(100)])
    tracking.replace(OTHER, [])
    (line,) = caplog.messages
    assert line.endswith("c008, c009 and 90 more: it was untracked")
