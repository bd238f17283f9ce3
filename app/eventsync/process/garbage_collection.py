"""Thresholds of the garbage collector."""

from __future__ import annotations

import gc
from typing import Final

_RARE: Final = (50_000, 20, 20)
_SHORT: Final = (8_000, 100, 20)
"""Thresholds of the three generations, as `gc.set_threshold` takes them."""


def collect_rarely(*, waited_for: bool) -> None:
    """Exclude existing objects from collection, and collect new ones rarely.

    Events, documents and connections have hardly any cycles. By default the collector scans them and all modules every
    few hundred objects, which takes a tenth of a worker's time.

    With `waited_for`, clients wait for each collection, so it scans fewer objects, for a few milliseconds. During a
    storm, when each new client leaves a hundred objects, a scan of 50,000 took 15 to 60 ms and delayed publications by
    as much (`scripts/bench/run storm`).
    """
    gc.freeze()
    gc.set_threshold(*(_SHORT if waited_for else _RARE))
