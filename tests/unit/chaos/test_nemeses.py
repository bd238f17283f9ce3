from __future__ import annotations

import pytest

from support.chaos import cluster
from support.chaos.nemeses import NEMESES, RENEWING, known, unavailable


def test_all_are_known_where_there_are_members_enough() -> None:
    assert set(known("all", nodes=3)) < set(NEMESES)
    assert "step_down" not in known("all", nodes=1)


def test_all_excludes_nemeses_that_lose_the_history() -> None:
    assert "lose_history" not in known("all", nodes=3)
    assert known("lose_history, kill_worker", nodes=1) == ("lose_history", "kill_worker")


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="no nemesis is called unplug"):
        known("kill_worker,unplug", nodes=3)


def test_nemeses_that_the_machine_cannot_run_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "disks_missing", lambda: "no root")
    monkeypatch.setattr(cluster, "clocks_missing", lambda: None)
    assert unavailable(["kill_worker", "fill_disk", "jump_member_clock"]) == {"fill_disk": "no root"}


def test_nemeses_that_lose_the_log_run_only_by_name() -> None:
    assert RENEWING.isdisjoint({*known("all", nodes=3), *known("fatal", nodes=3)})
    assert set(known("renewing", nodes=3)) > RENEWING
    assert "lose_history" not in known("renewing", nodes=3)
