"""The oplog rolls over while the worker is down: the log is repaired, and goes on under its id."""

from __future__ import annotations

from pathlib import Path

from support.chaos.rollover import roll_over


async def test_lost_history_is_repaired_from_the_collections(tmp_path: Path) -> None:
    assert await roll_over(tmp_path) == []
