"""Cutting documents into the parts of one message, each of bounded size."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """The `number`-th part, counted from 0; the `last` one may be empty. A row may be several, joined by commas."""

    number: int
    rows: list[bytes]
    last: bool


async def parts_of(batches: AsyncIterable[Iterable[bytes]], limit_bytes: int) -> AsyncGenerator[Part]:
    """All rows, in parts of at most `limit_bytes` (or of one larger row); holds one batch and one part at a time."""
    number, rows, size = 0, list[bytes](), 0
    async for batch in batches:
        for row in batch:
            if rows and size + len(row) > limit_bytes:
                yield Part(number, rows, last=False)
                number, rows, size = number + 1, [], 0
            rows.append(row)
            size += len(row)
    yield Part(number, rows, last=True)
