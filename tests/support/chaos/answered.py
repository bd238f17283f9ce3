"""Answers against events: each writer got the outcome of its own operation, and of no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from eventsync.domain.entity_tag import digest_of, entity_tag
from eventsync.domain.values.extended_json import from_tree
from support.chaos.evidence import Evidence, LogRow
from support.chaos.history import Answer, Write, identified, identity
from support.chaos.long_text import shortened
from support.chaos.repairs import Excuse
from support.chaos.replaying import UNFIT, State, step
from support.chaos.violation import Violation
from support.replay import apply_patch

Found = tuple[int, Any] | None
"""Version and content of a document, or None."""


def check(evidence: Evidence, excuse: Excuse) -> Iterator[Violation]:
    """Each event of a write through the API has its operation id, its condition, and what the answer said."""
    writes = [write for write in evidence.history.writes if write.via == "api"]
    owners, told = dict(identified(writes)), dict(_told(writes))
    carried: dict[str, Write] = {}
    state: State = {}
    for row in evidence.rows:
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
        return apply_patch(shortened(patch), dict(document))
    except UNFIT:
        return None
