"""The report of a verification."""

from __future__ import annotations

import json

import pytest

from eventsync.domain.ids import format_id
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.values.extended_json import decode
from eventsync.stores.history.comparison import Difference
from eventsync.stores.history.proof import Proof, Report, Wrong
from support.mutants import ODD, framed

KEY = b"\x10_id\0\1\0\0\0"


@pytest.mark.parametrize("name", sorted(ODD))
def test_a_difference_is_printed_for_any_value(name: str) -> None:
    document = decode(framed(KEY, ODD[name]))
    for difference in (
        Difference(format_id(1), (0, document), None),
        Difference(format_id(1), None, (0, document)),
        Difference(format_id(1), (0, {"_id": 1}), (0, document)),
    ):
        wrong = Wrong.of("docs", difference)
        assert "docs/int:1" in wrong.text
        wrong.text.encode()


def test_summary_is_bounded_and_without_content() -> None:
    log, content = LogId("k3f9ab2c"), "canary" * 10_000
    report = Report(log, Seq(7))
    for number in range(30):
        before, after = {"_id": number, "a": content}, {"_id": number, "x" * 1000: content}
        differences = (
            Difference(format_id(number), (1, before), (1, after)),
            Difference(format_id("y" * 900), (1, before), None),
            Difference(format_id("\udcff"), None, (1, after)),
        )
        wrong = Wrong.of("docs", differences[number % 3])
        report.proofs.append(Proof(f"docs{number}", Position(log, Seq(7)), wrong))
    summary = report.summary()
    assert (summary["whole"], len(summary["findings"]), summary["more"]) == (False, 10, 20)
    text = json.dumps(summary)
    assert len(text) < 10_000
    assert summary["findings"][1]["shape"] is None
    assert "canary" not in text
    assert summary["findings"][0]["text"].startswith("docs/int:0 differs at /")
