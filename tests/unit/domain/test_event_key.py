"""Keys of events and ranges of them."""

from __future__ import annotations

from bson.int64 import Int64

from eventsync.domain.event_key import event_key, key_range
from eventsync.domain.positions import LogId, Seq

LOG = LogId("k3f9ab2c")


def test_event_key_has_the_log_before_the_number() -> None:
    assert list(event_key(LOG, Seq(7)).items()) == [("l", LOG), ("n", Int64(7))]


def test_key_range_excludes_its_start_and_includes_its_end() -> None:
    assert key_range(LOG, 5, 9) == {"$gt": {"l": LOG, "n": 5}, "$lte": {"l": LOG, "n": 9}}


def test_key_range_without_an_end_covers_all_numbers_of_the_log() -> None:
    assert key_range(LOG) == {"$gt": {"l": LOG, "n": -1}, "$lt": {"l": LOG, "n": ""}}
