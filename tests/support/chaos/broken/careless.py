"""Broken: sequencers that leave an event out, swap two, or cut a transaction where a batch ends."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from support.chaos.broken.sequencer import Change, Reader, groups, row

Carelessness = Callable[[Sequence[Change], random.Random], list[list[Change]]]
"""Turns what was read into the batches that are appended."""


async def sequence(reader: Reader, careless: Carelessness, *, seed: int) -> None:
    """Append all that is committed by now, in the way of `careless`. Each batch is marked by itself."""
    batches = careless(await reader.read(), random.Random(seed))
    first = 1
    for batch in batches:
        rows = [row(change, seq, mark) for seq, (change, mark) in enumerate(groups(batch), start=first)]
        await reader.stores.log["events"].insert_many(rows)
        first += len(rows)


def right(changes: Sequence[Change], _random: random.Random) -> list[list[Change]]:
    """Not careless at all: what shows that it is the carelessness that the checker finds."""
    return [list(changes)]


def dropped(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """One event that is no part of a transaction is forgotten."""
    gone = choose.choice([index for index, change in enumerate(changes) if change.transaction is None])
    return [[change for index, change in enumerate(changes) if index != gone]]


def swapped(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """Two neighbours that are no part of a transaction, and of different documents, change places."""
    neighbours = [index for index in range(len(changes) - 1) if _independent(changes[index], changes[index + 1])]
    at = choose.choice(neighbours)
    return [[*changes[:at], changes[at + 1], changes[at], *changes[at + 2 :]]]


def _independent(one: Change, other: Change) -> bool:
    alone = one.transaction is None and other.transaction is None
    return alone and (one.raw["ns"], one.raw["documentKey"]) != (other.raw["ns"], other.raw["documentKey"])


def split(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """A batch ends in the middle of a transaction, and the rest of it is the next batch."""
    middles = [
        index
        for index in range(1, len(changes))
        if changes[index].transaction is not None and changes[index].transaction == changes[index - 1].transaction
    ]
    at = choose.choice(middles)
    return [list(changes[:at]), list(changes[at:])]


def half_dropped(changes: Sequence[Change], choose: random.Random) -> list[list[Change]]:
    """A collection is dropped, and one of its documents stays."""
    gone = choose.choice([index for index, change in enumerate(changes) if change.dropped])
    return [[change for index, change in enumerate(changes) if index != gone]]
