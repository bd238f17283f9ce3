from __future__ import annotations

import pytest

from scripts.bench.percentiles import percentiles


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentiles(range(100, 0, -1)) == {"p50": 51, "p95": 96, "p99": 100}
    assert percentiles([7.0], "ack ") == {"ack p50": 7.0, "ack p95": 7.0, "ack p99": 7.0}


def test_nothing_has_no_percentiles() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentiles([])
