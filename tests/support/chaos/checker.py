"""Judge of a run: pure, from what clients saw and what is stored in the end. No violation: every promise was kept.

Each promise is checked in more than one way, so that no single source of truth is trusted: the history of writes, the
order in real time, MongoDB's oplog, the collections, and the frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from support.chaos.client_checks import check_clients, check_renewed
from support.chaos.evidence import Evidence, Violation
from support.chaos.log_checks import check_numbers, check_replay, check_transactions
from support.chaos.oplog_checks import (
    Excuse,
    check_bijection,
    check_epochs,
    check_groups,
    check_order,
    check_repairs,
    steady,
)
from support.chaos.scope_checks import check_scopes
from support.chaos.write_checks import check_answers, check_effects, check_real_time

_EACH = 5
"""Maximum of violations of one check: the first ones are the witness, the others their consequence."""


def check(evidence: Evidence, *, repaired: bool = False, renewed: bool = False) -> list[Violation]:
    """Return all violations, the most elementary first.

    `repaired`: history was lost on purpose and the log was repaired from the collections. Where the oplog says which
    changes a repair stands for, all others are held to the same promises as ever, and the repair to its own. Where it
    does not, one event may stand for several changes of a document; everything else still holds.
    `renewed`: the log was destroyed or turned back on purpose; see `check_renewed`.
    """
    checks = [check_renewed(evidence)] if renewed else _checks(evidence, repaired=repaired)
    return [violation for one in checks for violation in islice(one, _EACH)]


def _checks(evidence: Evidence, *, repaired: bool) -> Iterator[Iterator[Violation]]:
    excuse = Excuse.of(evidence) if repaired else Excuse()
    yield check_numbers(evidence.rows)
    yield check_effects(evidence, excuse)
    yield check_answers(evidence, excuse)
    if not excuse.everything:
        yield check_real_time(evidence, excuse)
    if evidence.commits is not None:
        yield check_order(evidence.changes, evidence.commits)
        yield check_repairs(evidence) if repaired else check_bijection(*steady(evidence))
        yield check_groups(evidence.changes, evidence.commits)
        yield check_epochs(evidence, repaired=repaired)
    yield check_replay(evidence)
    yield check_transactions(evidence.rows)
    yield check_clients(evidence)
    yield check_scopes(evidence)
