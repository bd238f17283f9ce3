"""Checks of writes against events: acknowledged ones survive, once each and in real time, with the right answers."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from jsonpatch import apply_patch

from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.values.extended_json import from_tree
from support.chaos.evidence import Evidence, LogRow, Violation
from support.chaos.history import ALL, Answer, Key, Write, identified, identity, shortened
from support.chaos.log_checks import UNFIT, State, step
from support.chaos.oplog_checks import Excuse

Rows = Mapping[str, Sequence[LogRow]]
_SHOWN = 6


def check_effects(evidence: Evidence, excuse: Excuse) -> Iterator[Violation]:
    """Every effect of an acknowledged write is one event, unless excused; every event is an effect of a write that
    did not fail.
    """
    by_name: dict[str, list[LogRow]] = defaultdict(list)
    for row in evidence.changes:
        if (name := row.identity) is not None:
            by_name[name].append(row)
    owners = dict(identified(evidence.history.writes))
    for name, rows in by_name.items():
        yield from _of_name(name, rows, owners.get(name))
    if excuse.everything:
        return
    for write in evidence.history.writes:
        yield from _of_write(write, by_name, excuse)
    yield from _nameless(evidence, excuse)


def _of_write(write: Write, rows: Rows, excuse: Excuse) -> Iterator[Violation]:
    named = [(effect, name) for effect in write.effects if (name := identity(write, effect)) is not None]
    missing = [effect for effect, name in named if name not in rows]
    if any(effect.mark in excuse.marks or effect.key in excuse.deleted for effect in missing):
        # Where part of it is in a repair's gap, all of it is: the repair is held to the outcome.
        return
    if write.outcome == "ok" and missing:
        lost = ", ".join("/".join(effect.key) for effect in missing[:_SHOWN])
        yield Violation("survival", f"an acknowledged write has no event (of {lost})", (str(write),))
    elif write.outcome == "unknown" and 0 < len(missing) < len(named):
        there = [str(row) for _, name in named for row in rows.get(name, ())][:_SHOWN]
        yield Violation("groups", "a transaction is in the log in part", (str(write), *there))


def _of_name(name: str, rows: Sequence[LogRow], write: Write | None) -> Iterator[Violation]:
    texts = tuple(map(str, rows))
    if write is None:
        yield Violation("bijection", f"an event of no write: {name}", texts)
        return
    if len(rows) > 1:
        yield Violation("bijection", f"one change has {len(rows)} events", (str(write), *texts))
    if write.outcome == "failed":
        yield Violation("bijection", "a write that failed has an event", (str(write), *texts))
    if strange := [str(row) for row in rows if row.key not in {effect.key for effect in write.effects}]:
        yield Violation("bijection", "the event of a write is of another document", (str(write), *strange))


def _nameless(evidence: Evidence, excuse: Excuse) -> Iterator[Violation]:
    """Deletes behind the API: per document between the acknowledged and the possible ones.

    Those of drops and the like are counted by the oplog alone.
    """
    least: Counter[Key] = Counter()
    most: Counter[Key] = Counter()
    dropped = {effect.key[0] for write in evidence.history.writes for effect in write.effects if effect.key[1] == ALL}
    for write in evidence.history.writes:
        for effect in write.effects:
            if identity(write, effect) is None and write.outcome != "failed":
                most[effect.key] += 1
                least[effect.key] += write.outcome == "ok"
    events: Counter[Key] = Counter(row.key for row in evidence.changes if row.identity is None)
    for key in (most.keys() | events.keys()) - excuse.deleted:
        if events[key] < least[key] and key[1] != ALL:
            said = f"{'/'.join(key)}: {least[key]} deletes were acknowledged, {events[key]} are in the log"
            yield Violation("survival", said)
        if events[key] > most[key] and key[0] not in dropped:
            said = f"{'/'.join(key)}: {most[key]} deletes were made, {events[key]} are in the log"
            yield Violation("bijection", said)


def check_real_time(evidence: Evidence, excuse: Excuse) -> Iterator[Violation]:
    """A write that had ended before another one was invoked stands before it."""
    owners = dict(identified(write for write in evidence.history.writes if write.outcome == "ok"))
    earliest, holder = math.inf, None
    for row in reversed(evidence.changes):
        write = owners.get(row.identity or "")
        if write is None or (row.log, row.seq) in excuse.told:
            continue
        if holder is not None and earliest < write.invoked:
            later_row, later = holder
            message = f"{write.operation} was invoked after {later.operation} had ended, and stands before it"
            yield Violation("order", message, (str(row), str(later_row), str(write), str(later)))
        if write.ended < earliest:
            earliest, holder = write.ended, (row, write)


Found = tuple[int, Any] | None
"""Version and content of a document, or None."""


def check_answers(evidence: Evidence, excuse: Excuse) -> Iterator[Violation]:
    """Each event of a write through the API has its operation id, its condition, and what the answer said."""
    writes = [write for write in evidence.history.writes if write.via == "api"]
    owners, told = dict(identified(writes)), dict(_told(writes))
    carried: dict[str, Write] = {}
    state: State = {}
    for row in evidence.changes:
        before = state.get(row.key)
        with suppress(*UNFIT):
            step(state, row.key, row.body)
        write = owners.get(name := row.identity or "")
        if write is None or excuse.everything or (row.log, row.seq) in excuse.told:
            continue
        faults = list(_stamp(row, write, carried))
        if write.outcome == "ok":
            faults += _answer(row, told.get(name), before, state.get(row.key))
        for fault in faults:
            yield Violation(
                "answers", f"{write.operation} {fault}", (f"answer: {told.get(name)}", str(write), str(row))
            )


def _told(writes: list[Write]) -> Iterator[tuple[str, Answer]]:
    """Yield the name of each effect, and its answer."""
    for write in writes:
        for effect, answer in zip(write.effects, write.answers, strict=False):
            if (name := identity(write, effect)) is not None:
                yield name, answer


def _stamp(row: LogRow, write: Write, carried: dict[str, Write]) -> Iterator[str]:
    """Yield what is wrong with the operation id and the state before; `carried`: operation id → its write."""
    carries = row.body.get("op_id")
    if carries is None or (write.keyed and carries != write.operation):
        yield f"has an event with the operation id {carries}"
    elif (other := carried.setdefault(carries, write)) is not write:
        yield f"has an event with the operation id of {other.operation}"
    base = 0 if row.body["op"] == "create" else row.body["base"]
    if write.required is not None and (base != write.required or (not base and row.body["op"] != "create")):
        yield f"required version {write.required}, and replaced {base}"


def _answer(row: LogRow, answer: Answer | None, before: Found, after: Found) -> Iterator[str]:
    if answer is None:
        yield "was acknowledged without an answer"
        return
    if answer.id != row.key[1]:
        yield f"was answered about {answer.id}"
    if answer.version != row.body["version"]:
        yield f"was answered with version {answer.version}, and made {row.body['version']}"
    if after is None:
        return
    if answer.doc is not None and shortened(answer.doc) != after[1]:
        yield "was answered with another document than it made"
    if before is not None and answer.patch is not None and _patched(before[1], answer.patch) != after[1]:
        yield "was answered with another difference than it made"
    if answer.etag != entity_tag(after[0], digest_of(from_tree(after[1]))):
        yield f"was answered with the tag {answer.etag}, which is of another state"


def _patched(document: Any, patch: Any) -> Any:
    try:
        return apply_patch(document, shortened(patch))
    except UNFIT:
        return None
