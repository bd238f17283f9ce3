from __future__ import annotations

import pytest

from eventsync.concurrency.waiting import backoff


@pytest.mark.parametrize(("failures", "most"), [(0, 0.1), (1, 0.2), (3, 0.8), (6, 5.0), (10_000, 5.0)])
def test_twice_as_long_each_time_with_jitter_up_to_a_cap(failures: int, most: float) -> None:
    waits = [backoff(failures, first=0.1, cap=5.0) for _ in range(100)]
    assert all(most / 2 <= wait <= most for wait in waits)
    assert len(set(waits)) > 1
