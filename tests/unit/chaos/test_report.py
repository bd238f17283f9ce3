from __future__ import annotations

from collections import Counter

from support.chaos.evidence import Violation
from support.chaos.report import Report
from support.chaos.run import Plan
from support.chaos.sample import Sample


def test_a_failure_says_how_to_run_it_again_and_what_was_not_there() -> None:
    plan = Plan(seed=7, seconds=5.0, nodes=3, workers=2, servers=1, nemeses=("kill_worker",), shapes=("drop",))
    report = Report(
        command=plan.command,
        seconds=6.0,
        evidence=Sample().evidence(),
        faults=Counter({"kill_worker": 3}),
        statuses=Counter({200: 4}),
        violations=[Violation("order", "swapped", ("one", "two"))],
        absent={"fill_disk": "no tmpfs"},
    )
    lines = str(report).splitlines()
    assert lines[0].startswith("scripts/chaos --seed 7 --seconds 5 --nodes 3 --workers 2 --servers 1 ")
    assert "--nemesis kill_worker --shapes drop" in lines[0]
    assert "UNAVAILABLE fill_disk: no tmpfs" in lines
    assert lines[-3:] == ["  order: swapped", "    one", "    two"]


def test_a_witness_is_cut_to_what_can_be_read() -> None:
    text = str(Violation("groups", "many", tuple(f"event {n} " + "x" * 2000 for n in range(1000))))
    assert len(text) < 10_000
    assert text.endswith("… and 990 more")
