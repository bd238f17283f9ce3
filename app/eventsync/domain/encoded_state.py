"""A document's state as BSON, and its replay from events and snapshots. Pure.

Large documents are processed in helper processes (`concurrency.offload`), so arguments and results are bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import orjson

from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.entity_tag import digest_of
from eventsync.domain.ids import IdText
from eventsync.domain.positions import LogId
from eventsync.domain.replay import Change, Damaged, State, applied, between, read_change
from eventsync.domain.segments.format import SealedEvent
from eventsync.domain.values.extended_json import Document, decode, to_json
from eventsync.errors import Malformed

EncodedState = tuple[int, bytes] | None
"""A document's version and its BSON, without `_sync`; None where there is no document."""

_HEAD = re.compile(
    rb'\{"seq":\d+,"collection":"(?:[^"\\]|\\.)*","id":"(?:[^"\\]|\\.)*","op":"([a-z]+)","base":\d+,"version":(\d+)'
)
"""The beginning of an event's body, as `eventsync.domain.events` writes it."""


def encoded(state: State) -> EncodedState:
    """Encode a state."""
    return None if state is None else (state[0], encode(state[1]))


def decoded(state: EncodedState) -> State:
    """Decode a state."""
    return None if state is None else (state[0], decode(state[1]))


Show = Callable[[Document], Document | None]
"""Returns what a reader may see of a document; None if it may not read it. Picklable."""


def seen(state: EncodedState, show: Show) -> EncodedState:
    """Return a state as a reader sees it: one that it may not read is none."""
    if state is None or (document := show(decode(state[1]))) is None:
        return None
    return state[0], encode(document)


def head_of(body: bytes) -> tuple[str, int]:
    """Return the op and the version of an event, which precede its content. Raises `ValueError` and `LookupError`."""
    if match := _HEAD.match(body):
        return match[1].decode(), int(match[2])
    tree = orjson.loads(body)
    return tree["op"], int(tree["version"])


def change_of(log: LogId, event: SealedEvent) -> Change:
    """Read a stored event. Raises `Damaged`."""
    try:
        change = read_change(event.body, event.type_hints)
    except (Malformed, LookupError, TypeError, ValueError, AttributeError) as error:
        raise Damaged(f"event {log}:{event.seq} can't be read: {error}") from error
    # Body and columns are stored apart, so a row that was edited by hand shows here.
    said = (change.seq, change.collection, change.id, change.version)
    if said != (event.seq, event.collection, event.id, event.version):
        raise Damaged(
            f"event {log}:{event.seq} says that it is {said}, and is stored as of {event.collection}/{event.id}"
        )
    return change


def replayed(
    log: LogId,
    state: EncodedState,
    events: Sequence[SealedEvent],
    whole: bool = True,
) -> tuple[EncodedState, bool]:
    """Apply events of one document to its state. Return the new state, and True if it is known.

    With `whole`, `state` is known. Otherwise the state is known from the first event that holds the whole document.
    Raises `Damaged`.
    """
    now = decoded(state)
    for event in events:
        change = change_of(log, event)
        # A patch needs the state before it. From an event with the whole document on, every state is known.
        whole = whole or change.op != "update"
        now = applied(now, change) if whole else None
    return encoded(now), whole


def document_json(text: IdText, state: tuple[int, bytes], position: str, now: str | None = None) -> tuple[bytes, str]:
    """Return the answer, `{"id", "version", "doc", "position", "now"?}`, about a past state, and its digest."""
    document = decode(state[1])
    answer = {"id": text, "version": state[0], "doc": document, "position": position}
    return to_json(answer if now is None else answer | {"now": now}), digest_of(document)


def difference_json(before: EncodedState, after: EncodedState) -> bytes:
    """Return the RFC 6902 patch from one state to another."""
    return to_json(between(decoded(before), decoded(after)))
