"""How often the garbage collector looks for cycles."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """What is there already is never looked through again, and what comes only every 50,000 objects.

    What events, documents and connections are made of has hardly any cycles. By default the collector looks through it,
    and through all modules, every few hundred objects: a tenth of a worker's time, and pauses of a server that all its
    clients wait for.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
