"""Group commit: the writes that arrive together are read, decided and written together.

A group of a collection takes one `find` for all documents that are not known (`recent`), decides each write as if it
were alone, and sends one `insert` and one `update` (`grouped_write`). Deletes have groups of their own, each in one
transaction. Each writer gets the outcome of its own write. A failed write fails no other one.

Some writes go alone, as they would without groups: those of documents over `GROUPED_BYTES`, those that a helper has to
decide, and those to a collection with a collation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, FREE
from eventsync.domain.ids import PLAIN_IDS, IdText, format_id
from eventsync.domain.stamp import Stamp
from eventsync.domain.values.extended_json import decode
from eventsync.errors import EventsyncError, Unavailable
from eventsync.mongodb.errors import duplicate_fields
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.commits import committing
from eventsync.nodestorage.deciding import Decider, Decision
from eventsync.nodestorage.documents import Collections, Documents
from eventsync.nodestorage.grouped_write import GroupedWrite, state_after, write_group
from eventsync.nodestorage.intent import Insert, Modify, PlannedWrite
from eventsync.nodestorage.lanes import Attempt, Lane, QueuedWrite, Retry
from eventsync.nodestorage.number_types import NumberTypes, number_types
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.recent import RecentDocuments
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.retry import Lost
from eventsync.nodestorage.transactions import Session, Transactions

GROUPED_BYTES: Final = FREE // DOCUMENT_WEIGHT
"""The largest document in a group. Every request may hold that much, and it delays no other write of its group."""


class GroupCommit:
    """Groups of writes, for each collection."""

    def __init__(self, attempt: Attempt, policy: WritePolicy, *, chains: bool) -> None:
        """`attempt` makes a group; with `chains`, also one with several writes of one document."""
        self._attempt = attempt
        self._policy = policy
        self._chains = chains
        self._lanes: dict[str, Lane] = {}

    def write(self, decision: Decision, author: Author) -> asyncio.Future[WriteResult | None] | None:
        """Make a write with others. Return None, or a future with the result None, if it has to go alone.

        The future may have an error of the driver.
        """
        if type(decision.intent.id) not in PLAIN_IDS:
            return None
        collection = decision.intent.collection
        if (lane := self._lanes.get(collection)) is None:
            lane = self._lanes[collection] = Lane(self._attempt, self._policy, chains=self._chains)
        return lane.write(decision, author, format_id(decision.intent.id))


@dataclass(slots=True)
class _State:
    """A document within a group: stored, guessed, or as an earlier write of the group (`made_by`) leaves it."""

    raw: RawBSONDocument | None
    numbers: NumberTypes | None = None
    is_guess: bool = False
    is_known: bool = True
    is_left: bool = False
    """True if its writes go alone: it is large, or an earlier one does, which later ones have to follow."""
    made_by: int | None = None


class _Plan:
    """The decisions about a group, in its order."""

    def __init__(self) -> None:
        self.writes: list[GroupedWrite] = []
        self.writers: list[tuple[QueuedWrite, WriteResult, RawBSONDocument | None]] = []
        """The writer of each write, its result, and the stored document after it if that is certain."""
        self.followers: list[tuple[QueuedWrite, int, WriteResult | Exception]] = []
        """Writes that change nothing, or fail, in the state that a write of the group makes."""
        self.again: list[QueuedWrite] = []
        self.alone: list[QueuedWrite] = []
        self.guessed: set[IdText] = set()
        self.bytes = 0


class WriteGroups:
    """Makes groups of creates, edits and replacements."""

    def __init__(
        self, collections: Collections, decider: Decider, policy: WritePolicy, recent: RecentDocuments
    ) -> None:
        self._collections = collections
        self._decider = decider
        self._policy = policy
        self._recent = recent

    async def attempt(self, group: Sequence[QueuedWrite]) -> Retry:
        """Make a group of one collection. See `lanes.Attempt`."""
        documents = self._collections.of(group[0].decision.intent.collection)
        states = await self._states(documents, group)
        plan = _Plan()
        for queued in group:
            await self._plan(documents, queued, states, plan)
        raced = await self._make(documents, plan)
        for queued in plan.alone:
            queued.settle(None)
        # In the order of the group: writes that were sent and lost may come before ones that were not sent.
        waiting = {id(queued) for queued in plan.again}
        return Retry([queued for queued in group if id(queued) in waiting], raced)

    # --- reading --------------------------------------------------------------------------------------------------

    async def _states(self, documents: Documents, group: Sequence[QueuedWrite]) -> dict[IdText, _State]:
        """Return the states of the documents: guesses where there are some, otherwise as stored."""
        states: dict[IdText, _State] = {}
        unknown: dict[IdText, Any] = {}
        for queued in group:
            intent = queued.decision.intent
            if queued.key in states or queued.key in unknown:
                continue
            # An insert needs no read: MongoDB refuses it where the id is taken.
            if not intent.reads:
                states[queued.key] = _State(None)
            # After a lost race the guess is known to be wrong.
            elif queued.attempts == 0 and (guess := self._guess(intent.collection, queued.key)) is not None:
                states[queued.key] = guess
            else:
                unknown[queued.key] = intent.id
        if unknown:
            found = await documents.find_small(unknown, GROUPED_BYTES)
            states |= {key: _State(found.get(key), is_left=key not in found) for key in unknown}
        return states

    def _guess(self, collection: str, key: IdText) -> _State | None:
        if (raw := self._recent.get(collection, key)) is None:
            return None
        # A guess may be old, so types of numbers may have changed that `$eq` does not compare.
        numbers = number_types(decode(bytes(raw.raw)))
        return None if numbers is None else _State(raw, numbers, is_guess=True)

    # --- deciding -------------------------------------------------------------------------------------------------

    async def _plan(self, documents: Documents, queued: QueuedWrite, states: dict[IdText, _State], plan: _Plan) -> None:
        """Decide one write on the state of its document, and add it to the plan."""
        state = states[queued.key]
        size = 0 if state.raw is None else len(state.raw.raw)
        if state.is_left:
            plan.alone.append(queued)
            return
        # Whatever the size of its document, the first write goes: otherwise it would never go.
        if not state.is_known or (plan.writes and plan.bytes + size > self._policy.group_bytes):
            plan.again.append(queued)
            return
        outcome: PlannedWrite | Exception | None
        try:
            outcome = await self._decider.decide_here(queued.decision, state.raw, queued.author)
        except Exception as error:  # noqa: BLE001 - the edit is the user's function: its error is for that writer
            outcome = error
        if isinstance(outcome, PlannedWrite) and outcome.write is not None:
            await self._add(documents, queued, outcome, states, plan)
        elif outcome is None:
            _leave(queued, states, plan)
        elif state.is_guess:
            # Nothing is decided on a guess that no write has compared.
            plan.again.append(queued)
            state.is_known = False
        else:
            decided = outcome if isinstance(outcome, Exception) else outcome.result
            # What was decided on a state that was read is certain. On one that a write of the group is still to make,
            # it is as certain as that write.
            if state.made_by is None:
                queued.settle(decided)
            else:
                plan.followers.append((queued, state.made_by, decided))

    async def _add(
        self, documents: Documents, queued: QueuedWrite, change: PlannedWrite, states: dict[IdText, _State], plan: _Plan
    ) -> None:
        """Add a write to the plan, or let it go alone."""
        state, write = states[queued.key], change.write
        # Under a collation `$eq` takes different texts for the same: the guard of a group would miss a change.
        if not isinstance(write, Insert | Modify) or (
            isinstance(write, Modify) and (change.size or await documents.is_collated())
        ):
            _leave(queued, states, plan)
            return
        made = state_after(write, state.raw)
        after = None if made is None else made.document
        size = change.size if after is None else len(after.raw)
        if size > GROUPED_BYTES:
            _leave(queued, states, plan)
            return
        stamp = Stamp(change.result.version, queued.author.op_id, queued.author.by)
        in_objects = made is not None and made.in_objects
        grouped = GroupedWrite(
            queued.key, queued.decision.intent.id, write, stamp, state.raw, state.numbers, in_objects
        )
        if state.is_guess:
            plan.guessed.add(queued.key)
        # The next write of the document is decided on this one's result, before that exists.
        states[queued.key] = _State(after, is_known=after is not None, made_by=len(plan.writes))
        plan.writes.append(grouped)
        plan.writers.append((queued, change.result, after))
        plan.bytes += size + (0 if state.raw is None else len(state.raw.raw))

    # --- writing --------------------------------------------------------------------------------------------------

    async def _make(self, documents: Documents, plan: _Plan) -> bool:
        """Send the plan and settle its writers. Return True if another writer was faster than one of them."""
        authors = [queued.author for queued, _, _ in plan.writers]
        with committing(documents.collection, "bulkWrite", authors) as spans:
            outcomes = await write_group(documents, plan.writes) if plan.writes else []
            if spans is not None:
                spans.note(outcomes)
        raced = False
        for (queued, result, after), outcome in zip(plan.writers, outcomes, strict=True):
            intent = queued.decision.intent
            if outcome is None and after is not None:
                self._recent.put(intent.collection, queued.key, after)
            else:
                self._recent.drop(intent.collection, queued.key)
            if isinstance(outcome, Lost):
                plan.again.append(queued)
                # A wrong guess is no race: the retry reads, and has no other writer to wait for.
                if queued.key not in plan.guessed:
                    self._policy.retries.add()
                    raced = True
            elif isinstance(outcome, DuplicateKeyError) and intent.reads and duplicate_fields(outcome) == ["_id"]:
                queued.settle(None)  # alone, it finds which document has taken the id
            else:
                queued.settle(outcome or result)
        for queued, index, decided in plan.followers:
            # Decided on a state that was never made, it is decided again.
            if outcomes[index] is None:
                queued.settle(decided)
            else:
                plan.again.append(queued)
        return raced


def _leave(queued: QueuedWrite, states: dict[IdText, _State], plan: _Plan) -> None:
    """Let a write go alone, and those of its document that follow."""
    plan.alone.append(queued)
    states[queued.key].is_left = True


class DeleteGroups:
    """Makes groups of deletes, each in one transaction. If it fails, each delete goes alone."""

    def __init__(
        self,
        collections: Collections,
        decider: Decider,
        transactions: Transactions,
        alone: Callable[[Decision, Author], Awaitable[WriteResult]],
    ) -> None:
        """`alone` makes one delete."""
        self._collections = collections
        self._decider = decider
        self._transactions = transactions
        self._alone = alone

    async def attempt(self, group: Sequence[QueuedWrite]) -> Retry:
        """Make a group of deletes of different documents. See `lanes.Attempt`."""
        left = list(group)
        if len(group) > 1:
            outcomes = await self._together(group)
            for queued, outcome in zip(group, outcomes, strict=True):
                if outcome is not None:
                    queued.settle(outcome)
            left = [queued for queued, outcome in zip(group, outcomes, strict=True) if outcome is None]
        # Each in the context of its request, which accounts for the memory of a large document.
        tasks = [asyncio.create_task(self._single(queued), context=queued.context) for queued in left]
        if tasks:
            await asyncio.wait(tasks)
        return Retry((), raced=False)

    async def _single(self, queued: QueuedWrite) -> None:
        try:
            queued.settle(await self._alone(queued.decision, queued.author))
        except Exception as error:  # noqa: BLE001 - it is the writer's
            queued.settle(error)

    async def _together(self, group: Sequence[QueuedWrite]) -> Sequence[WriteResult | Exception | None]:
        """Return the outcome of each delete, or None if it has to go alone."""
        try:
            # A single attempt: a transaction that fails does not say for which delete, so the next attempt is made one
            # by one.
            documents = self._collections.of(group[0].decision.intent.collection)
            authors = [queued.author for queued in group]
            with committing(documents.collection, "transaction", authors) as spans:
                outcomes = await self._transactions.once(lambda session: self._delete(group, session))
                if spans is not None:
                    spans.note(outcomes)
                return outcomes
        except Unavailable as error:
            return [error] * len(group)  # nobody knows if it was committed
        except (PyMongoError, BSONError, Lost):
            return [None] * len(group)

    async def _delete(self, group: Sequence[QueuedWrite], session: Session) -> Sequence[WriteResult | Exception | None]:
        documents = self._collections.of(group[0].decision.intent.collection)
        ids = {queued.key: queued.decision.intent.id for queued in group}
        found = await documents.find_small(ids, GROUPED_BYTES, session)
        outcomes: list[WriteResult | Exception | None] = []
        deletes: list[tuple[PlannedWrite, RawBSONDocument | None]] = []
        for queued in group:
            # A large document would delay all others, and its memory is to be counted for its own request.
            if queued.key not in found:
                outcomes.append(None)
                continue
            raw = found[queued.key]
            try:
                change = await self._decider.decide_here(queued.decision, raw, queued.author)
            except EventsyncError as error:
                outcomes.append(error)
                continue
            outcomes.append(None if change is None else change.result)
            if change is not None:
                deletes.append((change, raw))
        if deletes:
            await documents.write_all(deletes, session)
        return outcomes
