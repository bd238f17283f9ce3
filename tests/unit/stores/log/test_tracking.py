from __future__ import annotations

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
