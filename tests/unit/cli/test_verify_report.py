from __future__ import annotations

import pytest

from eventsync.cli.verify_report import Wrong
from eventsync.domain.ids import format_id
from eventsync.domain.values.extended_json import decode
from eventsync.stores.history.comparison import Difference
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
