"""Checks of MongoDB's oplog against the log: the same changes, each once, in one order; and of repairs of the log.

A log whose history was lost is repaired by comparison. Between the last change that was read and the repair's own time,
commits have no events of their own: a gap. In its place stand the events that turn what the log said into what the
collections then were, and no others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

from support.chaos.evidence import Commit, Evidence, LogRow, Violation
from support.chaos.history import Key

Name = tuple[Any, ...]
Item = TypeVar("Item", LogRow, Commit)
Marks = Mapping[Key, str | None]
"""Document → the mark that it carries, which no other write gives. Not in it: it does not exist."""


@dataclass(slots=True)
class Gap:
    """Commits without an event of their own, events without a commit of their own, and what was before and is after."""

    commits: list[Commit] = field(default_factory=list)
    rows: list[LogRow] = field(default_factory=list)
    before: Marks | None = None
    said: Marks = field(default_factory=dict)
    true: Marks = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.commits or self.rows)

    @property
    def items(self) -> list[LogRow | Commit]:
        return [*self.commits, *self.rows]

    def of(self, key: Key) -> tuple[str, ...]:
        """Return the state of one document before the gap and its items in the gap: the witness."""
        items = [item for item in self.items if item.key == key]
        return (f"before: {(self.before or {}).get(key, 'nothing')}", *map(str, items))


def names(items: Iterable[LogRow | Commit]) -> list[Name]:
    """A name for each, the same for an event and its commit; what comes twice has another name the second time."""
    seen: Counter[Name] = Counter()
    found: list[Name] = []
    for item in items:
        # What a repair has found may look like the last commit, whose time it may have.
        name = (item.time, item.key, item.kind, item.mark, isinstance(item, LogRow) and item.found)
        seen[name] += 1
        found.append((*name, seen[name]))
    return found


def _named(items: Sequence[Item]) -> list[tuple[Name, Item]]:
    return list(zip(names(items), items, strict=True))


def ranks(commits: Sequence[Commit]) -> list[int]:
    """The place of each commit; the same for those that have no order among themselves."""
    found: list[int] = []
    for index, commit in enumerate(commits):
        together = index > 0 and commit.whole and commits[index - 1].whole and commits[index - 1].time == commit.time
        found.append(found[-1] if together else index)
    return found


def steady(evidence: Evidence) -> tuple[list[LogRow], list[Commit]]:
    """Events and commits of the collections that were tracked all the time."""
    rows = [row for row in evidence.changes if row.key[0] not in evidence.sometimes]
    return rows, [commit for commit in evidence.commits or () if commit.key[0] not in evidence.sometimes]


def gaps(rows: Sequence[LogRow], commits: Sequence[Commit]) -> Iterator[Gap]:
    """All gaps, in order."""
    events, changes, rank = names(rows), names(commits), ranks(commits)
    place = {name: index for index, name in enumerate(changes)}
    shared = place.keys() & set(events)
    said: dict[Key, str | None] = {}
    true: dict[Key, str | None] = {}
    gap, done = Gap(), 0
    for name, row in zip(events, rows, strict=True):
        if name not in shared:
            gap.before = dict(said) if gap.before is None else gap.before
            gap.rows.append(row)
        else:
            up_to = max(done, rank[place[name]])
            gap.commits += _alone(changes[done:up_to], commits[done:up_to], shared)
            for commit in commits[done:up_to]:
                _follow(true, commit)
            if gap:
                yield _closed(gap, said, true)
            gap, done = Gap(), up_to
        _follow(said, row)
    gap.commits += _alone(changes[done:], commits[done:], shared)
    for commit in commits[done:]:
        _follow(true, commit)
    if gap:
        yield _closed(gap, said, true)


def _closed(gap: Gap, said: Marks, true: Marks) -> Gap:
    gap.before = dict(said) if gap.before is None else gap.before
    gap.said, gap.true = dict(said), dict(true)
    return gap


def _alone(found: Sequence[Name], commits: Sequence[Commit], shared: set[Name]) -> list[Commit]:
    return [commit for name, commit in zip(found, commits, strict=True) if name not in shared]


def _follow(state: dict[Key, str | None], item: LogRow | Commit) -> None:
    if item.kind == "delete":
        state.pop(item.key, None)
    else:
        state[item.key] = item.mark if item.mark is not None else state.get(item.key)


def check_repairs(evidence: Evidence) -> Iterator[Violation]:
    """Each gap is a repair that the worker knows of, and after it the log is right again.

    Each collection by itself: where one is repaired alone, the events of the others stand in between.
    """
    rows, commits = steady(evidence)
    for name in sorted({row.key[0] for row in rows} | {commit.key[0] for commit in commits}):
        own = [row for row in rows if row.key[0] == name], [commit for commit in commits if commit.key[0] == name]
        yield from _check_gaps(name, evidence.repairs, list(gaps(*own)))


def _check_gaps(name: str, repairs: int, found: Sequence[Gap]) -> Iterator[Violation]:
    if len(found) > repairs:
        said = f"{name}: {len(found)} times commits have no events, and {repairs} repairs are recorded"
        yield Violation("bijection", said, tuple(map(str, found[repairs].items)))
    for gap in found:
        yield from _difference_events(gap)
        yield from _outcome(gap)


def _outcome(gap: Gap) -> Iterator[Violation]:
    """Yield a violation where log and collections differ in a document of the gap when it is over."""
    for key in sorted({item.key for item in gap.items}):
        if gap.said.get(key, _NOTHING) != gap.true.get(key, _NOTHING):
            is_, was = gap.said.get(key, "nothing"), gap.true.get(key, "nothing")
            message = f"after a repair {'/'.join(key)} is {was}, the log says {is_}"
            yield Violation("bijection", message, gap.of(key))


_NOTHING = object()


def _difference_events(gap: Gap) -> Iterator[Violation]:
    """They say what a document is, once in a repair, and only where that is something else than before."""
    state = dict(gap.before or {})
    told: dict[str, set[Key]] = defaultdict(set)
    for row in gap.rows:
        was = state.get(row.key, _NOTHING)
        _follow(state, row)
        if row.body["op"] == "update" or row.group is not None or not row.body.get("external"):
            yield Violation("bijection", "an event has no committed change of its own", (str(row), *gap.of(row.key)))
        elif row.key in told[row.token] or state.get(row.key, _NOTHING) == was:
            yield Violation("bijection", "a repair says what is known already", (str(row), *gap.of(row.key)))
        told[row.token].add(row.key)


def _of_all(evidence: Evidence) -> Iterator[Gap]:
    """The gaps of all collections together, but for what is no more than a time without tracking."""
    return (gap for gap in gaps(evidence.changes, evidence.commits or ()) if gap.rows)


@dataclass(frozen=True, slots=True)
class Excuse:
    """Changes that need no event of their own in the log, because a repair stands for them."""

    everything: bool = False
    marks: frozenset[str] = frozenset()
    deleted: frozenset[Key] = frozenset()
    told: frozenset[tuple[str, int]] = frozenset()
    """(log, seq) of the events that are the repairs' own."""

    @classmethod
    def of(cls, evidence: Evidence) -> Excuse:
        """Return the excuse of a run with repairs. Without the oplog their places are unknown: it covers all."""
        if evidence.commits is None:
            return cls(everything=True)
        found = [*gaps(*steady(evidence)), *_of_all(evidence)]
        commits = [commit for gap in found for commit in gap.commits]
        return cls(
            marks=frozenset(commit.mark for commit in commits if commit.mark is not None),
            deleted=frozenset(commit.key for commit in commits if commit.kind == "delete"),
            told=frozenset((row.log, row.seq) for gap in found for row in gap.rows),
        )


def check_bijection(rows: Sequence[LogRow], commits: Sequence[Commit]) -> Iterator[Violation]:
    """Each commit has one event, each event one commit."""
    there, made = set(names(rows)), set(names(commits))
    for name, commit in _named(commits):
        if name not in there:
            yield Violation("bijection", "a committed change has no event", (str(commit),))
    for name, row in _named(rows):
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
    for name, row in _named(rows):
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
    transaction = {name: commit.transaction for name, commit in _named(commits)}
    members: dict[str, list[LogRow]] = defaultdict(list)
    for name, row in _named(rows):
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


def check_epochs(evidence: Evidence, *, repaired: bool = False) -> Iterator[Violation]:
    """The commits that have events are as many unbroken runs as tracking was asked for, at most."""
    for name, asked in evidence.sometimes.items():
        rows = [row for row in evidence.changes if row.key[0] == name]
        commits = [commit for commit in evidence.commits or () if commit.key[0] == name]
        yield from _runs(name, rows, commits, asked + (evidence.repairs if repaired else 0))
        if not repaired:
            made = set(names(commits))
            for found, row in _named(rows):
                if found not in made:
                    yield Violation("bijection", "an event has no committed change of its own", (str(row),))


def _runs(name: str, rows: Sequence[LogRow], commits: Sequence[Commit], most: int) -> Iterator[Violation]:
    there = set(names(rows))
    pairs = _named(commits)
    runs = [(has, [pair[1] for pair in found]) for has, found in groupby(pairs, lambda pair: pair[0] in there)]
    tracked = [index for index, (has, _) in enumerate(runs) if has]
    if len(tracked) > most:
        # The shortest hole is the likeliest not to be a time without tracking.
        shortest = min((hole for has, hole in runs[tracked[0] : tracked[-1]] if not has), key=_length)
        message = f"{name} was tracked {most} times, and its events are {len(tracked)} runs of its commits"
        yield Violation("bijection", message, tuple(map(str, shortest)))


def _length(hole: Sequence[Commit]) -> int:
    return len(hole)
