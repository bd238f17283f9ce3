"""Time limits of a system under test: as short as a test needs them, and never too short for a busy machine."""

from __future__ import annotations

from typing import Final

from eventsync.settings import Settings
from support.waiting import scaled

_LIMITS: Final = (
    "body_timeout",
    "drain_timeout",
    "head_timeout",
    "hello_timeout",
    "lease_period",
    "mongodb_timeout",
    "pin_ttl",
    "ready_timeout",
    "request_timeout",
    "send_timeout",
    "stale_after",
    "write_deadline",
    "write_queue_delay",
)
"""Settings after whose seconds the system gives something up that may only be slow."""


def time_limits(**chosen: float) -> dict[str, float]:
    """Return the time limits of `Settings`, those of `chosen` or else its defaults, in seconds of this machine."""
    defaults = {name: float(Settings.model_fields[name].default) for name in _LIMITS}
    return {name: scaled(seconds) for name, seconds in (defaults | chosen).items()}
