"""How a client at some position is brought up to date. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from app.domain.position import LogId, Position, Seq


class ResetReason(StrEnum):
    """Why a position can't be continued from, as `reset` messages and 409 answers say it."""

    UNKNOWN_LOG = "unknown_log"
    """The position belongs to another log: the numbering has begun anew."""
    FUTURE = "future"
    """The position is beyond the newest event."""
    BEFORE_HORIZON = "before_horizon"
    """The events after the position are not all in the log."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What a log can serve for one shape: the events after `horizon`, up to `head`."""

    log: LogId
    horizon: Seq
    head: Seq


def refusal(position: Position, extent: Extent) -> ResetReason | None:
    """Why `position` can't be continued within `extent`; None if the events after it bring it up to date."""
    if position.log != extent.log:
        return ResetReason.UNKNOWN_LOG
    if position.seq > extent.head:
        return ResetReason.FUTURE
    if position.seq < extent.horizon:
        return ResetReason.BEFORE_HORIZON
    return None
