"""Density: one log, numbered 1, 2, 3 …, each row saying the same inside and outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from support.chaos.evidence import LogRow
from support.chaos.violation import Violation


def check(rows: Sequence[LogRow]) -> Iterator[Violation]:
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
