"""Checks of the log by itself: it is dense, its transactions are whole, and replayed onto nothing it is the source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from jsonpatch import JsonPatchException, JsonPointerException, apply_patch

from support.chaos.evidence import Evidence, LogRow, Violation
from support.chaos.history import Key
from support.chaos.oplog_checks import steady


def check_numbers(rows: Sequence[LogRow]) -> Iterator[Violation]:
    """Gaps, doubles, a second log, and rows whose body contradicts their key."""
    logs = list(dict.fromkeys(row.log for row in rows))
    if len(logs) > 1:
        first = next(row for row in rows if row.log == logs[1])
        yield Violation("density", f"the log id changed: {', '.join(logs)}", (str(first),))
    previous: LogRow | None = None
    for row in rows:
        expected = previous.seq + 1 if previous and previous.log == row.log else 1
        if row.seq != expected:
            witness = tuple(str(item) for item in (previous, row) if item)
            yield Violation("density", f"event {row.seq} where {expected} is due", witness)
        if (row.body["seq"], row.body["collection"], row.body["id"]) != (row.seq, *row.key):
            yield Violation("density", f"row {row.seq} and its body differ", (str(row), str(dict(row.body))))
        mark = row.group and {"id": row.group.id, "n": row.group.n, "of": row.group.of}
        if row.body.get("txn") != mark:
            yield Violation("groups", f"row {row.seq} and its body differ in the transaction", (str(row), str(mark)))
        previous = row


def check_transactions(rows: Sequence[LogRow]) -> Iterator[Violation]:
    """Every group is whole and contiguous."""
    closed: set[str] = set()
    previous: LogRow | None = None
    for row in rows:
        mark = row.group
        is_open = previous is not None and previous.group is not None and previous.group.n < previous.group.of
        if is_open and previous is not None and previous.group is not None:
            want = (previous.group.id, previous.group.n + 1, previous.group.of)
            if mark is None or (mark.id, mark.n, mark.of) != want:
                yield Violation("groups", "a transaction's events do not stand together", (str(previous), str(row)))
        elif mark is not None and (mark.n != 1 or mark.of < 2 or mark.id in closed):
            yield Violation("groups", "a transaction does not begin at its first event", (str(row),))
        if mark is not None:
            closed.add(mark.id)
        previous = row
    if previous is not None and previous.group is not None and previous.group.n < previous.group.of:
        yield Violation("groups", "the last transaction is not whole", (str(previous),))


def torn(rows: Sequence[LogRow]) -> dict[int, LogRow]:
    """The seqs at which a follower of just these rows (those of its shape) may not stop, each with what would be left.

    A transaction's events in other shapes are none of its business.
    """
    pairs = pairwise(rows)
    return {row.seq: left for row, left in pairs if row.group and left.group and row.group.id == left.group.id}


State = dict[Key, tuple[int, Mapping[str, Any]]]
UNFIT = (AssertionError, LookupError, TypeError, ValueError, JsonPatchException, JsonPointerException)
"""Errors of `step` for an event that does not fit."""


def check_replay(evidence: Evidence) -> Iterator[Violation]:
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
        state[key] = event["version"], apply_patch(document, event["patch"])
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
