"""How often the garbage collector looks for cycles, and how long it takes each time."""

from __future__ import annotations

import gc
from typing import Final

_PATIENT: Final = (50_000, 20, 20)
_PROMPT: Final = (8_000, 100, 20)
"""New objects, and younger collections, that the collector waits for, generation by generation."""


def collect_rarely(*, waited_for: bool) -> None:
    """What is there already is never looked through again, and what comes only every so many thousand objects.

    What events, documents and connections are made of has hardly any cycles. By default the collector looks through it,
    and through all modules, every few hundred objects: a tenth of a worker's time.

    `waited_for`: clients wait while it looks, so it looks through fewer objects at a time, a few milliseconds' worth.
    In a storm, where each newcomer leaves a hundred, 50,000 took it 15 to 60 ms, and news to the others came so much
    later (`scripts/bench/run storm`).
    """
    gc.freeze()
    gc.set_threshold(*(_PROMPT if waited_for else _PATIENT))
