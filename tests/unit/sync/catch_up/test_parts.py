from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventsync.sync.catch_up.parts import Part, parts_of


async def batches(*given: list[bytes]) -> AsyncIterator[list[bytes]]:
    for batch in given:
        yield batch


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], [[]]),
        ([[]], [[]]),
        ([[b"aa", b"bb"], [b"cc"]], [[b"aa", b"bb"], [b"cc"]]),
        ([[b"aa"], [b"bb"]], [[b"aa", b"bb"]]),
        ([[b"a", b"far too large", b"b"]], [[b"a"], [b"far too large"], [b"b"]]),
    ],
)
async def test_rows_are_cut_into_parts_of_bounded_size(given: list[list[bytes]], expected: list[list[bytes]]) -> None:
    found = [part async for part in parts_of(batches(*given), 4)]
    assert found == [Part(number, rows, number == len(expected) - 1) for number, rows in enumerate(expected)]
