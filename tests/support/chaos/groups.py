"""Transactions in the log: their events stand together, 1 to n, and never twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from support.chaos.evidence import LogRow
from support.chaos.violation import Violation


def check(rows: Sequence[LogRow]) -> Iterator[Violation]:
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
