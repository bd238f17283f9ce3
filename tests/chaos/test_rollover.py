"""The oplog rolls over while the worker is down or slow: the log is repaired, and continues under its id."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.chaos.rollover import WAYS, roll_over

CODES = {"down": {286}, "frozen": {286, 136}, "slow": {286, 136}, "cut_off": {286, 136}}
"""An open cursor has lost its position (136), or its successor can't begin there (286): on a busy machine either."""


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_lost_history_is_repaired_from_the_collections(tmp_path: Path, way: str) -> None:
    rolled = await roll_over(tmp_path, WAYS[way])
    assert rolled.violations == []
    # Else nothing was lost, and nothing proved.
    assert rolled.repairs > 0
    assert rolled.codes & CODES[way], rolled
