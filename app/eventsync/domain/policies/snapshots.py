"""Snapshot policy: when a snapshot is due, and which snapshots are retained. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from eventsync.domain.positions import Seq


class Cause(Enum):
    """The reason for a due snapshot."""

    BASE = "it has none yet"
    EVENTS = "many events since the last one"
    RATIO = "more bytes of events than of the last one"
    BEHIND = "the last one keeps the log's old events in MongoDB"
    HORIZON = "the log begins after the last one"
    PERIOD = "the last one is old"


@dataclass(frozen=True, slots=True)
class Conditions:
    """The settings `snapshot_…`, and `span`, the maximum lag in events of all collections."""

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
    """The activity after a snapshot: the collection's events, their bytes, and `span`, the events of the whole log
    since the first of them. `horizon` is True if the log itself begins after the snapshot.
    """

    events: int
    bytes: int
    span: int
    horizon: bool = False


def cause(newest: Made | None, since: Since, now: datetime, conditions: Conditions) -> Cause | None:
    """Return the reason why a snapshot is due now, or None. A snapshot without later events stays valid."""
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
    """Keep the `newest` snapshots, and the last one of each of `days` days (UTC), including today."""

    newest: int
    days: int


def retained(
    snapshots: Sequence[Made], now: datetime, retention: Retention, horizon: Seq, pinned: Collection[str] = ()
) -> set[str]:
    """Return the ids of a collection's snapshots that are retained.

    Besides the snapshots of `retention` these are: the newest one, the pinned ones, the newest one up to the horizon,
    and the oldest one after it. All states that the log covers can be restored from the last two.
    """
    ordered = sorted(snapshots, key=lambda item: (item.seq, item.at, item.id))
    kept = {item.id for item in ordered[-max(1, retention.newest) :]}
    kept |= _daily(ordered, now, retention.days)
    kept |= {item.id for item in [item for item in ordered if item.seq <= horizon][-1:]}
    kept |= {item.id for item in [item for item in ordered if item.seq > horizon][:1]}
    return kept | {item.id for item in ordered if item.id in pinned}


def retained_of_document(
    snapshots: Sequence[Made], now: datetime, retention: Retention, horizon: Seq, pinned: Collection[str] = ()
) -> set[str]:
    """Return the ids of a document's own snapshots that are retained, none of them before the horizon.

    (States from the horizon on can also be restored from the collection's snapshots.)
    """
    reached = [item for item in snapshots if item.seq >= horizon]
    kept = retained(reached, now, retention, horizon, pinned) if reached else set()
    return kept | {item.id for item in snapshots if item.id in pinned}


def _daily(ordered: Sequence[Made], now: datetime, days: int) -> set[str]:
    first = now.date() - timedelta(days=days - 1)
    last = {item.at.date(): item.id for item in ordered if item.at.date() >= first} if days else {}
    return set(last.values())
