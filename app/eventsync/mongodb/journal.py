"""MongoDB's journal, and the delay of changes whose writers do not wait for it.

A change reaches a change stream once a majority of the members has it in the journal. A member flushes its journal at
once for a write with `j: true` or, by default, `w: "majority"`, and else every `--journalCommitInterval` (100 ms). So a
change written with `w: 1` is seen after 50 ms in the median, where the primary belongs to the majority that counts: on
a set of one, or with an arbiter.

Source: https://www.mongodb.com/docs/manual/core/journaling/
"""

from __future__ import annotations

from typing import Any, Final

from pymongo.asynchronous.collection import AsyncCollection

from eventsync.mongodb.connections import PinnedConnection

_NOTHING: Final = {"q": {"_id": "no document"}, "u": {"$set": {"flushed": True}}}
_JOURNALED: Final = {"w": 1, "j": True}

_PERIOD: Final = 300.0
"""Seconds for which, at least, the least difference of the clocks is kept. They drift, and are set."""


async def flush_journal(collection: AsyncCollection[Any], over: PinnedConnection) -> None:
    """Have the primary flush its journal: by a write with `j: true` that changes nothing, so it is in no oplog.

    Raises `PyMongoError`.
    """
    command = {"update": collection.name, "updates": [_NOTHING], "writeConcern": _JOURNALED}
    await over.command(collection.database.name, command)


class CommitDelay:
    """The time that changes wait between their commit and a read that waits for them. Times are wall times, in seconds.

    The clocks of this process and of MongoDB differ. The least difference between a commit and the end of its read, in
    the last 5 to 10 minutes, stands for no delay.
    """

    def __init__(self) -> None:
        self._least = self._least_before = float("inf")
        self._until = 0.0

    def observe(self, committed: float, asked: float, read: float) -> float:
        """Return the delay of a change that was read at `read`, in a read that began at `asked`."""
        if read > self._until:
            self._least_before, self._least, self._until = self._least, float("inf"), read + _PERIOD
        self._least = min(self._least, read - committed)
        # A change that was visible before the read began has waited for its reader, not for the journal.
        visible = committed + min(self._least, self._least_before)
        return read - max(visible, asked)
