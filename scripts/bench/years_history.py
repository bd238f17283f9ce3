"""A long history that is known: which document each write was about, and so what every state was.

Write `n` becomes event `n`: one writer, one batch after the other, each write a change. Within a batch no document
comes twice, so that the state between two batches does not depend on the order within them.
"""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from pymongo import UpdateOne

from scripts.bench.load import Collection

BATCH = 1000
_HOT = 100
"""Half of the updates are about one document in this many."""

_STATUS = ("new", "paid", "packed", "sent", "back", "lost", "found", "done")
_WORDS = ("alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india", "juliett")

Document = dict[str, Any]


class History:
    """Inserts of `documents` documents of about 400 bytes, then small updates of them, hot-spotted."""

    def __init__(self, documents: int) -> None:
        self.documents = documents
        self._choose = random.Random(1)
        self._about = array("i")
        self._notes = [" ".join(self._choose.choices(_WORDS, k=40)) for _ in range(documents)]

    @property
    def head(self) -> int:
        """How many writes there were."""
        return len(self._about)

    async def write(
        self, collection: Collection, count: int, deadline: float, allowed: Callable[[int], Awaitable[None]]
    ) -> None:
        """Write up to `count` times, in whole batches, until `deadline`; `allowed` is awaited before each batch."""
        while self.head + BATCH <= count and time.monotonic() < deadline:
            await allowed(self.head)
            chosen = self._next()
            numbered = zip(chosen, range(self.head + 1, self.head + BATCH + 1), strict=True)
            if self.head < self.documents:
                await collection.insert_many([self.document(*pair) for pair in numbered], ordered=False)
            else:
                updates = [UpdateOne({"_id": one}, {"$set": _change(write)}) for one, write in numbered]
                result = await collection.bulk_write(updates, ordered=False)
                if result.modified_count != BATCH:
                    raise RuntimeError(f"{result.modified_count} of {BATCH} writes changed a document")
            self._about.extend(chosen)

    def _next(self) -> list[int]:
        """The documents of the next batch."""
        if self.head < self.documents:
            return list(range(self.head, self.head + BATCH))
        hot = self.documents // _HOT
        busy = self._choose.sample(range(hot), min(hot, BATCH // 2))
        chosen = busy + self._choose.sample(range(hot, self.documents), BATCH - len(busy))
        self._choose.shuffle(chosen)
        return chosen

    def document(self, number: int, write: int) -> Document:
        """Document `number` as `write`, the last one about it, has left it."""
        status, place = _STATUS[write % len(_STATUS)], {"x": write + 0.5, "y": number}
        tags, note = ["a", "b"], self._notes[number]
        return {"_id": number, "n": write, "status": status, "at": place, "tags": tags, "note": note}

    def about(self, write: int) -> int:
        """The document that a write was about."""
        return self._about[write - 1]

    def states(self, positions: Iterable[int]) -> Iterator[tuple[int, array[int]]]:
        """For each position, in order: of each document the last write about it; 0 where there was none."""
        last, passed = array("i", bytes(4 * self.documents)), 0
        for position in sorted(positions):
            for write in range(passed + 1, position + 1):
                last[self._about[write - 1]] = write
            passed = position
            yield position, last[:]

    def rows(self, last: array[int]) -> dict[str, Document]:
        """Such a state as a client has it: id text → document."""
        return {f"int:{number}": self.document(number, write) for number, write in enumerate(last) if write}


def _change(write: int) -> Document:
    return {"n": write, "status": _STATUS[write % len(_STATUS)], "at.x": write + 0.5}
