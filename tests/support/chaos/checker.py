"""Judges a run: pure, from what clients saw and what is stored in the end. No violation: every promise was kept.

Each promise is checked in more than one way, so that no single source of truth is trusted: the history of writes, the
order in real time, MongoDB's oplog, the collections, and the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from support.chaos import answered, clients, commits, epochs, groups, numbering, renewals, repairs, replaying, writes
from support.chaos.evidence import Evidence
from support.chaos.repairs import Excuse
from support.chaos.violation import Violation

_EACH = 5
"""At most so many violations of one check: the first ones are the witness, the others their consequence."""


def check(evidence: Evidence, *, repaired: bool = False, renewed: bool = False) -> list[Violation]:
    """All that is wrong, the most elementary first.

    `repaired`: history was lost on purpose and the log was repaired from the collections. Where the oplog says which
    changes a repair stands for, all others are held to the same promises as ever, and the repair to its own. Where it
    does not, one event may stand for several changes of a document; everything else still holds.
    `renewed`: the log was destroyed or turned back on purpose; see `support.chaos.renewals`.
    """
    found: list[Violation] = []
    for one in [renewals.check(evidence)] if renewed else _checks(evidence, repaired=repaired):
        found.extend(islice(one, _EACH))
    return found


def _checks(evidence: Evidence, *, repaired: bool) -> Iterator[Iterator[Violation]]:
    excuse = Excuse.of(evidence) if repaired else Excuse()
    yield numbering.check(evidence.rows)
    yield writes.check_bijection(evidence, excuse)
    yield answered.check(evidence, excuse)
    if not excuse.everything:
        yield writes.check_real_time(evidence, excuse)
    if evidence.commits is not None:
        rows, changes = repairs.steady(evidence)
        yield commits.check_order(evidence.rows, evidence.commits)
        yield repairs.check(evidence) if repaired else commits.check_bijection(rows, changes)
        yield commits.check_groups(evidence.rows, evidence.commits)
        yield epochs.check(evidence, repaired=repaired)
    yield replaying.check(evidence)
    yield groups.check(evidence.rows)
    yield clients.check(evidence)
