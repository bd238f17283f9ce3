"""Judges a run: pure, from what clients saw and what is stored in the end. No violation: every promise was kept.

Each promise is checked in more than one way, so that no single source of truth is trusted: the history of writes, the
order in real time, MongoDB's oplog, the collections, and the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from support.chaos import clients, commits, groups, numbering, replaying, writes
from support.chaos.evidence import Evidence
from support.chaos.violation import Violation

_EACH = 5
"""At most so many violations of one check: the first ones are the witness, the others their consequence."""


def check(evidence: Evidence, *, repaired: bool = False) -> list[Violation]:
    """All that is wrong, the most elementary first.

    `repaired`: history was lost on purpose and the log was repaired from the collections. Then one event may stand for
    several changes of a document, and in real time it stands behind what it says; everything else still holds.
    """
    found: list[Violation] = []
    for one in _checks(evidence, repaired=repaired):
        found.extend(islice(one, _EACH))
    return found


def _checks(evidence: Evidence, *, repaired: bool) -> Iterator[Iterator[Violation]]:
    yield numbering.check(evidence.rows)
    yield writes.check_bijection(evidence, repaired=repaired)
    if evidence.commits is not None:
        yield commits.check_order(evidence.rows, evidence.commits)
    if not repaired:
        yield writes.check_real_time(evidence)
        if evidence.commits is not None:
            yield commits.check_bijection(evidence.rows, evidence.commits)
            yield commits.check_groups(evidence.rows, evidence.commits)
    yield replaying.check(evidence)
    yield groups.check(evidence.rows)
    yield clients.check(evidence)
