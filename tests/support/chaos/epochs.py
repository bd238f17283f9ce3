"""Collections that were tracked at some times only: while they are, nothing is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from support.chaos.evidence import Commit, Evidence, LogRow
from support.chaos.repairs import names
from support.chaos.violation import Violation


def check(evidence: Evidence, *, repaired: bool = False) -> Iterator[Violation]:
    """The commits that have events are as many unbroken runs as tracking was asked for, at most."""
    for name, asked in evidence.sometimes.items():
        rows = [row for row in evidence.rows if row.key[0] == name]
        commits = [commit for commit in evidence.commits or () if commit.key[0] == name]
        yield from _runs(name, rows, commits, asked + (evidence.repairs if repaired else 0))
        if not repaired:
            made = set(names(commits))
            for found, row in zip(names(rows), rows, strict=True):
                if found not in made:
                    yield Violation("bijection", "an event has no committed change of its own", (str(row),))


def _runs(name: str, rows: Sequence[LogRow], commits: Sequence[Commit], most: int) -> Iterator[Violation]:
    there = set(names(rows))
    pairs = list(zip(names(commits), commits, strict=True))
    runs = [(has, [pair[1] for pair in found]) for has, found in groupby(pairs, lambda pair: pair[0] in there)]
    tracked = [index for index, (has, _) in enumerate(runs) if has]
    if len(tracked) > most:
        # The shortest hole is the likeliest not to be a time without tracking.
        shortest = min((hole for has, hole in runs[tracked[0] : tracked[-1]] if not has), key=_length)
        message = f"{name} was tracked {most} times, and its events are {len(tracked)} runs of its commits"
        yield Violation("bijection", message, tuple(map(str, shortest)))


def _length(hole: Sequence[Commit]) -> int:
    return len(hole)
