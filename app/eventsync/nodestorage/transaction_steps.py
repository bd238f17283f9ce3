"""The operations of one attempt of a transaction: carried out in their order, with few commands.

One `find` for each collection reads all documents. Each operation is decided on what was read. The writes wait, and are
sent in their order: those of one kind that follow each other in a collection are one command. An operation on a
document that an earlier one has written sends what waits, and reads the document again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError

from eventsync.concurrency.held_bytes import DOCUMENT_WEIGHT, need
from eventsync.concurrency.slices import SLICE
from eventsync.domain.ids import PLAIN_IDS, IdText, format_id
from eventsync.domain.values.extended_json import JsonText
from eventsync.errors import Conflict, EventsyncError, TooLarge
from eventsync.mongodb.errors import duplicate_fields, refusal
from eventsync.nodestorage.author import Author
from eventsync.nodestorage.deciding import Decider, Decision
from eventsync.nodestorage.documents import Collections, Documents, FoundDocument
from eventsync.nodestorage.grouped_write import statement_error
from eventsync.nodestorage.intent import Insert, Intent, PlannedWrite, Remove
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult
from eventsync.nodestorage.retry import Lost, is_transient
from eventsync.nodestorage.transactions import Session

_READ_AHEAD: Final = 4 * 1024 * 1024
"""Bytes of documents that are read at once. If they have more, each is read when its operation is decided."""

_WAITING: Final = 1024 * 1024
"""Bytes of writes that wait. Then they are sent."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A write that waits: its number in the transaction, and the stored document that it was decided on."""

    number: int | None
    intent: Intent
    change: PlannedWrite
    raw: RawBSONDocument | None

    @property
    def kind(self) -> tuple[str, bool]:
        """Writes of the same kind that follow each other are sent together."""
        return self.intent.collection, isinstance(self.change.write, Remove)


class TransactionSteps:
    """The operations of one attempt, in the transaction of `session`."""

    def __init__(
        self, collections: Collections, decider: Decider, policy: WritePolicy, session: Session, author: Author
    ) -> None:
        self._author = author
        self._collections = collections
        self._decider = decider
        self._session = session
        self._budget = _Budget(policy.transaction_bytes)
        self._read: dict[tuple[str, IdText], RawBSONDocument | None] = {}
        """Documents as they are stored, those that do not exist too. Written ones leave."""
        self._waiting: list[_Step] = []
        self._bytes = 0

    async def run(self, decisions: Sequence[Decision], *, numbered: bool) -> list[WriteResult]:
        """Carry out all operations. An error of one names its number if they are `numbered`."""
        if len(decisions) > 1:
            await self._read_ahead([decision.intent for decision in decisions if decision.intent.reads])
        results = []
        for index, decision in enumerate(decisions):
            number = index if numbered else None
            # A document that was written and is read again must be read with the write.
            if self._bytes > _WAITING or (decision.intent.reads and _place(decision.intent) not in self._read):
                await self._send()
            try:
                with numbered_error(number):
                    results.append(await self._step(number, decision))
            except EventsyncError:
                await self._send()  # an earlier operation may fail too, and is named first
                raise
        await self._send()
        return results

    # --- reading --------------------------------------------------------------------------------------------------

    async def _read_ahead(self, intents: Sequence[Intent]) -> None:
        left = _READ_AHEAD
        for collection, ids in _ids_of(intents).items():
            documents = self._collections.of(collection)
            found = await documents.find_within(list(ids.values()), left, self._session)
            if found is None:
                return
            left -= sum(len(raw.raw) for raw in found.values())
            need(DOCUMENT_WEIGHT * (_READ_AHEAD - left))
            # Any other document found is MongoDB's equal of one that does not exist: `find` tells which.
            are_exact = found.keys() <= ids.keys()
            for key in ids:
                if key in found or are_exact:
                    self._read[collection, key] = found.get(key)

    async def _found(self, documents: Documents, intent: Intent) -> FoundDocument:
        """Return the document as it is now, in the transaction."""
        if not intent.reads:
            return FoundDocument(None)
        if (place := _place(intent)) in self._read:
            return FoundDocument(self._read[place])
        return await documents.find(intent.id, self._session)

    # --- deciding -------------------------------------------------------------------------------------------------

    async def _step(self, number: int | None, decision: Decision) -> WriteResult:
        intent = decision.intent
        documents = self._collections.of(intent.collection)
        raw, twin = await self._found(documents, intent)
        before = 0 if raw is None else len(raw.raw)
        self._budget.take(before)
        change = await self._decider.decide(decision, raw, self._author)
        check_twin(intent, change, twin, self._author)
        # A growing document counts with its new size. A large document that is written as a whole counts once more.
        after = change.result.document
        self._budget.take(max(change.size, len(after.text) - before if isinstance(after, JsonText) else 0))
        if change.write is not None:
            self._read.pop(_place(intent), None)
            self._waiting.append(_Step(number, intent, change, raw))
            self._bytes += before + change.size
        return change.result

    # --- writing --------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Send the writes that wait."""
        steps, self._waiting, self._bytes = self._waiting, [], 0
        for (collection, _), some in groupby(steps, key=lambda step: step.kind):
            run = list(some)
            documents = self._collections.of(collection)
            if len(run) == 1 or any(step.raw is not None and len(step.raw.raw) > SLICE for step in run):
                for step in run:
                    with step_errors(step.number, step.intent, self._author):
                        await documents.write(step.change, step.raw, self._session)
            else:
                await self._send_run(documents, run)

    async def _send_run(self, documents: Documents, run: Sequence[_Step]) -> None:
        try:
            await documents.write_all([(step.change, step.raw) for step in run], self._session)
        except BulkWriteError as error:
            refused = error.details["writeErrors"]
            if is_transient(error) or not refused:
                raise
            # Deletes are stamped first, and deleted afterwards, in the same order.
            step = run[refused[0]["index"] % len(run)]
            with step_errors(step.number, step.intent, self._author):
                raise statement_error(refused[0]) from error


def _place(intent: Intent) -> tuple[str, IdText]:
    return intent.collection, format_id(intent.id)


def _ids_of(intents: Sequence[Intent]) -> dict[str, dict[IdText, object]]:
    """Return the ids that one `find` of each collection can find, by their text."""
    found: dict[str, dict[IdText, object]] = {}
    for intent in intents:
        if type(intent.id) in PLAIN_IDS:
            found.setdefault(intent.collection, {})[format_id(intent.id)] = intent.id
    return found


class _Budget:
    """A limit on the documents of one transaction, because MongoDB keeps them in its cache until the end.

    If the cache is too small, the transaction fails repeatedly, as if it were losing races.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left = max_bytes

    def take(self, size: int) -> None:
        """Take `size` bytes. Raises `TooLarge`, except for the first document, and `Unavailable` as `need` does."""
        if size > self._left < self._max_bytes:
            raise TooLarge(
                f"the documents of the transaction have more than {self._max_bytes} bytes in all; split it up"
            )
        self._left -= max(0, size)
        need(DOCUMENT_WEIGHT * (self._max_bytes - self._left))


def name_of(intent: Intent) -> str:
    """Return the name of the intent's document in messages and among locks."""
    return f"{intent.collection}/{format_id(intent.id)}"


def check_twin(intent: Intent, change: PlannedWrite, twin: IdText | None, author: Author) -> None:
    """Raise `Conflict` if another document prevents the insert of this one."""
    if twin is not None and isinstance(change.write, Insert):
        if author.guards is not None:
            # The other document may be one that the author may not read.
            raise Conflict(f"{doing(intent)}: it exists already", lasting=True)
        raise Conflict(
            f"{name_of(intent)} can't be made: MongoDB takes its id for the same as {twin}, which exists", existing=twin
        )


def doing(intent: Intent) -> str:
    """Return what failed, for the messages of errors."""
    return f"{name_of(intent)} can't be written"


@contextmanager
def numbered_error(index: int | None) -> Iterator[None]:
    """Add the number of the operation to the message of an `EventsyncError`."""
    try:
        yield
    except EventsyncError as error:
        if index is not None:
            error.args = (f"operation {index}: {error.message}", *error.args[1:])
        raise


@contextmanager
def _refused(intent: Intent, author: Author) -> Iterator[None]:
    """Translate a refusal by MongoDB here, where the operation that caused it is known."""
    try:
        yield
    except (PyMongoError, BSONError) as error:
        if not is_transient(error) and (refused := refusal(doing(intent), error, author.hides)):
            raise refused from error
        raise


@contextmanager
def lost_if_taken(intent: Intent) -> Iterator[None]:
    """Raise `Lost` if the id was free when it was read and is taken now."""
    try:
        yield
    except DuplicateKeyError as error:
        if intent.reads and duplicate_fields(error) == ["_id"]:
            raise Lost from error
        raise


@contextmanager
def step_errors(number: int | None, intent: Intent, author: Author) -> Iterator[None]:
    """Translate the errors of one operation of a transaction."""
    with numbered_error(number), _refused(intent, author), lost_if_taken(intent):
        yield
