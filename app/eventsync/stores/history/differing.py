"""The comparison of documents with their states in the log. Pure, so that a helper process can do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eventsync.domain.encoded_state import EncodedState, change_of, decoded, encoded
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId
from eventsync.domain.replay import State, applied
from eventsync.domain.segments.format import SealedEvent
from eventsync.domain.stamp import unversioned
from eventsync.domain.values.extended_json import decode, same
from eventsync.stores.snapshots.rows import StoredLine, read_row


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """The stored data of some documents: states or rows of a snapshot, and the events after them."""

    log: LogId
    snapshot: str
    lines: Sequence[StoredLine]
    states: Mapping[IdText, EncodedState]
    events: Sequence[SealedEvent]


@dataclass(frozen=True, slots=True)
class EncodedDifference:
    """A document that differs between the log and the collection. `raw` is that of the collection, with its stamp."""

    id: IdText
    in_log: EncodedState
    raw: bytes | None


def replayed_all(history: StoredHistory) -> dict[IdText, EncodedState]:
    """Return the documents' states after the events. Raises `Damaged`."""
    return {text: encoded(state) for text, state in _states(history).items()}


def differing(history: StoredHistory, there: Mapping[IdText, bytes | None]) -> list[EncodedDifference]:
    """Return those of the documents `there` that differ from their states in the log. Raises `Damaged`.

    None stands for a document that does not exist.
    """
    states, differences = _states(history), []
    for text, raw in there.items():
        in_log = states.get(text)
        if not same_state(in_log, None if raw is None else unversioned(decode(raw))):
            differences.append(EncodedDifference(text, encoded(in_log), raw))
    return differences


def same_state(left: State, right: State) -> bool:
    """Return True if two states have the same version, values and BSON types."""
    if left is None or right is None:
        return left is right
    return left[0] == right[0] and same(left[1], right[1])


def _states(history: StoredHistory) -> dict[IdText, State]:
    states: dict[IdText, State] = {text: decoded(state) for text, state in history.states.items()}
    for number, text, line in history.lines:
        states[text] = read_row(history.snapshot, number, text, line)[1:]
    for event in history.events:
        states[event.id] = applied(states.get(event.id), change_of(history.log, event))
    return states
