"""Broken: the lease is judged by each one's own clock, and the numbers come from a counter.

A leader that was frozen while it held the lease wakes up and continues, and every number that it takes is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pymongo import ReturnDocument

from support.chaos.broken.sequencer import LOG, Change, Reader, groups, row


class ClockLeaseSequencer:
    """`clock` gives seconds. The steps are separate, so that a test can freeze it between any two."""

    def __init__(self, name: str, reader: Reader, clock: Callable[[], float]) -> None:
        self._name = name
        self._reader = reader
        self._clock = clock
        self._log = reader.stores.log

    async def take_lease(self, seconds: float = 5.0) -> bool:
        """Try to take the lease; return True if this worker leads now."""
        held = await self._log["leases"].find_one({"_id": "broken"})
        if held is not None and held["owner"] != self._name and held["until"] > self._clock():
            return False
        lease = {"owner": self._name, "until": self._clock() + seconds}
        await self._log["leases"].replace_one({"_id": "broken"}, lease, upsert=True)
        return True

    async def read(self) -> list[Change]:
        return await self._reader.read()

    async def number(self, changes: Sequence[Change]) -> int:
        """Take as many numbers; returns the first."""
        counter = await self._log["counters"].find_one_and_update(
            {"_id": "seq"}, {"$inc": {"n": len(changes)}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        assert counter is not None
        return int(counter["n"]) - len(changes) + 1

    async def insert(self, changes: Sequence[Change], first: int) -> None:
        """Store the changes under the numbers from `first` on."""
        rows = [row(change, seq, mark) for seq, (change, mark) in enumerate(groups(changes), start=first)]
        assert rows[0]["_id"]["l"] == LOG
        await self._log["events"].insert_many(rows)
