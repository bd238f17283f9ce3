"""When a snapshot is made, and which are kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from eventsync.domain.positions import Seq


class Cause(Enum):
    """Why a snapshot is due."""

    BASE = "it has none yet"
    EVENTS = "many events since the last one"
    RATIO = "more bytes of events than of the last one"
    BEHIND = "the last one keeps the log's old events in MongoDB"
    HORIZON = "the log begins after the last one"
    PERIOD = "the last one is old"


@dataclass(frozen=True, slots=True)
class Conditions:
    """The settings `snapshot_…`, and `span`: how far, in events of all collections, a changed one may stay behind."""

    period: timedelta
    events: int
    ratio: float
    min_events: int
    span: int


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot as the policy sees it. `bytes` is uncompressed, `at` when it was finished."""

    id: str
    seq: Seq
    at: datetime
    bytes: int


@dataclass(frozen=True, slots=True)
class Since:
    """What came after a snapshot: the collection's events, their bytes, and `span`, the events of the whole log that
    lie behind the first of them. `horizon` is whether the log itself begins after the snapshot.
    """

    events: int
    bytes: int
    span: int
    horizon: bool = False


def cause(newest: Made | None, since: Since, now: datetime, conditions: Conditions) -> Cause | None:
    """Why a snapshot is due now; None where none is. As long as the last one says what is now, it will do."""
    if newest is None:
        return Cause.BASE
    if since.horizon:
        return Cause.HORIZON
    if not since.events:
        return None
    causes = {
        Cause.EVENTS: since.events >= conditions.events,
        Cause.RATIO: since.events >= conditions.min_events and since.bytes >= conditions.ratio * newest.bytes,
        Cause.BEHIND: since.span >= conditions.span,
        Cause.PERIOD: now - newest.at >= conditions.period,
    }
    return next((why for why, holds in causes.items() if holds), None)


@dataclass(frozen=True, slots=True)
class Retention:
    """Kept are the `newest` ones, and the last one of each of `days` days (UTC), today included."""

    newest: int
    days: int


def spared(
    snapshots: Sequence[Made], now: datetime, retention: Retention, horizon: Seq, pinned: Collection[str] = ()
) -> set[str]:
    """The ids of those of a collection's snapshots that are kept.

    Besides what the retention keeps: the newest one; what is pinned; and of those up to the horizon the newest one, of
    those after it the oldest one: from these two all states are made that the log still tells.
    """
    ordered = sorted(snapshots, key=lambda item: (item.seq, item.at, item.id))
    kept = {item.id for item in ordered[-max(1, retention.newest) :]}
    kept |= _daily(ordered, now, retention.days)
    kept |= {item.id for item in [item for item in ordered if item.seq <= horizon][-1:]}
    kept |= {item.id for item in [item for item in ordered if item.seq > horizon][:1]}
    return kept | {item.id for item in ordered if item.id in pinned}


def spared_of_document(
    snapshots: Sequence[Made], now: datetime, retention: Retention, horizon: Seq, pinned: Collection[str] = ()
) -> set[str]:
    """The same for a document's own snapshots: before the horizon even the last one only says what is gone.

    (States from the horizon on are made from the collection's snapshots, where it has none of its own.)
    """
    reached = [item for item in snapshots if item.seq >= horizon]
    kept = spared(reached, now, retention, horizon, pinned) if reached else set()
    return kept | {item.id for item in snapshots if item.id in pinned}


def _daily(ordered: Sequence[Made], now: datetime, days: int) -> set[str]:
    first = now.date() - timedelta(days=days - 1)
    last = {item.at.date(): item.id for item in ordered if item.at.date() >= first} if days else {}
    return set(last.values())
