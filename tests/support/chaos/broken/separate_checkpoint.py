"""Broken: where to read on is stored apart from the events, so a crash can fall between the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from support.chaos.broken.sequencer import LOG, Change, Reader, groups, row


class CrashedError(Exception):
    """It was killed here."""


class SeparateCheckpointSequencer:
    """Stores its token `before` or `after` the events; `run(crash=True)` dies between the two."""

    def __init__(self, reader: Reader, order: Literal["before", "after"]) -> None:
        self._reader = reader
        self._order = order
        self._log = reader.stores.log

    async def run(self, *, crash: bool = False) -> None:
        """Sequence all that is committed by now. Raises `CrashedError`."""
        found = await self._log["checkpoints"].find_one({"_id": LOG})
        if found is not None:
            self._reader.token = found["token"]
        changes = await self._reader.read()
        if not changes:
            return
        steps = [self._checkpoint, self._insert] if self._order == "before" else [self._insert, self._checkpoint]
        await steps[0](changes)
        if crash:
            raise CrashedError
        await steps[1](changes)

    async def _checkpoint(self, changes: Sequence[Change]) -> None:
        token = changes[-1].raw["_id"]["_data"]
        await self._log["checkpoints"].replace_one({"_id": LOG}, {"token": token}, upsert=True)

    async def _insert(self, changes: Sequence[Change]) -> None:
        last = await self._log["events"].find_one({"_id.l": LOG}, sort=[("_id", -1)])
        first = last["_id"]["n"] + 1 if last else 1
        await self._log["events"].insert_many(
            [row(change, seq, mark) for seq, (change, mark) in enumerate(groups(changes), start=first)]
        )
