"""MongoDB's oplog against the log: the same changes, each once, in the same order, in the same transactions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from support.chaos.evidence import Commit, LogRow
from support.chaos.repairs import names, ranks
from support.chaos.violation import Violation


def check_bijection(rows: Sequence[LogRow], commits: Sequence[Commit]) -> Iterator[Violation]:
    """Each commit has one event, each event one commit."""
    events, changes = names(rows), names(commits)
    there, made = set(events), set(changes)
    for name, commit in zip(changes, commits, strict=True):
        if name not in there:
            yield Violation("bijection", "a committed change has no event", (str(commit),))
    for name, row in zip(events, rows, strict=True):
        if name not in made:
            yield Violation("bijection", "an event has no committed change of its own", _around(row, rows, commits))


def _around(row: LogRow, rows: Sequence[LogRow], commits: Sequence[Commit]) -> tuple[str, ...]:
    """The event, any other of the same change, and that change."""
    twins = [str(other) for other in rows if (other.time, other.key) == (row.time, row.key)]
    return (*twins, *(str(commit) for commit in commits if (commit.time, commit.key) == (row.time, row.key)))


def check_order(rows: Sequence[LogRow], commits: Sequence[Commit]) -> Iterator[Violation]:
    """Yield a violation where events and their commits are in different orders."""
    places = dict(zip(names(commits), ranks(commits), strict=True))
    previous: tuple[int, LogRow] | None = None
    for name, row in zip(names(rows), rows, strict=True):
        place = places.get(name)
        if place is None:
            continue
        if previous is not None and place < previous[0]:
            first, second = commits[place], commits[previous[0]]
            witness = (str(previous[1]), str(row), str(first), str(second))
            yield Violation("order", f"events {previous[1].seq} and {row.seq} stand against their commits", witness)
        previous = place, row


def check_groups(rows: Sequence[LogRow], commits: Sequence[Commit]) -> Iterator[Violation]:
    """The events of one transaction carry one mark, `of` is their number; all others carry none."""
    transaction = {name: commit.transaction for name, commit in zip(names(commits), commits, strict=True)}
    members: dict[str, list[LogRow]] = defaultdict(list)
    for name, row in zip(names(rows), rows, strict=True):
        committed_with = transaction.get(name)
        if committed_with is not None:
            members[committed_with].append(row)
        elif row.group is not None and name in transaction:
            yield Violation("groups", "an event has the mark of a transaction that it is no part of", (str(row),))
    for found in members.values():
        marks = {row.group and (row.group.id, row.group.of) for row in found}
        alone = len(found) == 1 and marks == {None}
        if not alone and (len(marks) > 1 or None in marks or found[0].group is None or found[0].group.of != len(found)):
            message = f"the {len(found)} events of one transaction are not marked as one"
            yield Violation("groups", message, tuple(map(str, found)))
