"""The log replayed onto nothing: versions chain, patches apply, and the end is the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from support.chaos.evidence import Evidence, LogRow
from support.chaos.history import Key
from support.chaos.repairs import steady
from support.chaos.violation import Violation
from support.replay import apply_patch

State = dict[Key, tuple[int, Mapping[str, Any]]]
UNFIT = (AssertionError, KeyError, IndexError, TypeError, ValueError)
"""What `step` raises where an event does not fit."""


def check(evidence: Evidence) -> Iterator[Violation]:
    """The version chain of each document, and then the whole state: as replayed here, and as the product does it.

    A collection that was tracked at some times only does not begin empty: there only the product knows its base.
    """
    state: State = {}
    last: dict[Key, LogRow] = {}
    for row in steady(evidence)[0]:
        before = last.get(row.key)
        witness = (str(before), str(row)) if before else (str(row),)
        if fault := _misfit(row.body, state.get(row.key)):
            yield Violation("chain", f"event {row.seq} of {'/'.join(row.key)} {fault}", witness)
        try:
            step(state, row.key, row.body)
        except UNFIT as error:
            yield Violation("state", f"event {row.seq} can't be applied: {error!r}", witness)
        last[row.key] = row
    source = {key: value for key, value in evidence.source.items() if key[0] not in evidence.sometimes}
    yield from differences(state, source, last)
    for difference in evidence.unverified:
        yield Violation("state", f"the product's own comparison fails: {difference}")


def step(state: State, key: Key, event: Mapping[str, Any]) -> None:
    """Apply one event. Raises one of `UNFIT`."""
    _, document = state.pop(key, (0, {}))
    if event["op"] == "update":
        state[key] = event["version"], apply_patch(event["patch"], dict(document))
    elif event["op"] != "delete":
        state[key] = event["version"], event["doc"]


def _misfit(event: Mapping[str, Any], was: tuple[int, Mapping[str, Any]] | None) -> str | None:
    """Return the reason why the event can't follow this state; None where it can."""
    version = was[0] if was else 0
    if event["op"] == "create" and was is not None:
        return "creates a document that exists"
    if event["op"] != "create" and was is None:
        return "changes a document that does not exist"
    if event["base"] != version:
        return f"has base {event['base']}, the version before it is {version}"
    if not event.get("external") and event["version"] != version + 1:
        return f"is an API write from version {version} to {event['version']}"
    return None


def differences(
    state: State, source: Mapping[Key, tuple[int, Mapping[str, Any]]], last: Mapping[Key, LogRow]
) -> Iterator[Violation]:
    """The documents in which the replayed state and the source are not the same."""
    for key in sorted(state.keys() | source.keys()):
        if state.get(key) != source.get(key):
            witness = [f"log:    {state.get(key)}", f"source: {source.get(key)}"]
            witness += [str(last[key])] if key in last else []
            yield Violation("state", f"{'/'.join(key)} is not what its events make of it", tuple(witness))


def states_at(rows: Sequence[LogRow], seqs: set[int]) -> dict[int, State]:
    """The state at each of these positions, 0 included. Rows that can't be applied are passed over."""
    state: State = {}
    found: dict[int, State] = {0: {}}
    for row in rows:
        with suppress(*UNFIT):
            step(state, row.key, row.body)
        if row.seq in seqs:
            found[row.seq] = dict(state)
    return found
