"""Decisions about writes: small ones on the event loop, large ones in a helper process.

A helper returns encoded values: documents to write as BSON, documents and patches to answer with as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from bson.raw_bson import RawBSONDocument

from eventsync.concurrency.offload import Offload
from eventsync.concurrency.slices import turn
from eventsync.domain.bson_scan.opaque import encode
from eventsync.domain.entity_tag import digest_of
from eventsync.domain.values.extended_json import RAW_CODEC, JsonText, to_json
from eventsync.errors import TooComplex
from eventsync.nodestorage.author import Author, Guard
from eventsync.nodestorage.intent import Insert, Intent, Modify, PlannedWrite, Remove, intent_of, seen
from eventsync.nodestorage.node import Node, node_of
from eventsync.nodestorage.operations import Create, WriteOperation, is_portable, parsed, text_bytes
from eventsync.nodestorage.policy import WritePolicy
from eventsync.nodestorage.result import WriteResult

TEXT_WEIGHT: Final = 8
"""Parsing, checking and converting one byte of JSON costs as much as reading this many bytes of a stored document."""

_LOOP_STEPS: Final = 50_000
"""Most steps of one patch on the event loop, about 5 ms (see `domain.patches.json_patch`). A helper does longer
ones.
"""

_EMPTY: Final = 64
"""The fixed cost of a document, in bytes."""


@dataclass(slots=True)
class Decision:
    """A checked operation to decide. `size` is the work on its own JSON, in bytes."""

    intent: Intent
    operation: WriteOperation
    size: int


class Decider:
    """Prepares and decides operations within `policy`. Raises as `intent_of`, `Intent.decide` and `Offload`."""

    def __init__(self, policy: WritePolicy, offload: Offload) -> None:
        self._policy = policy
        steps = min(policy.patch_steps, _LOOP_STEPS) if offload.helps else policy.patch_steps
        self._short = replace(policy, patch_steps=steps)
        self._offload = offload

    async def prepared(self, operation: WriteOperation, author: Author) -> Decision:
        """Check an operation as far as it does not depend on the stored document. Large JSON is checked later."""
        size = TEXT_WEIGHT * text_bytes(operation)
        if not size:
            return Decision(intent_of(operation, self._short_of(operation)), operation, 0)
        if isinstance(operation, Create):
            # The id may be in the document, and the stored document does not matter.
            new_id, encoded_write = await self._offload.call(
                size, created, operation, self._policy, author.within(operation.collection)
            )
            change = encoded_write.decoded()
            return Decision(Intent(operation.collection, new_id, lambda _, __: change, reads=False), operation, 0)

        def decide(stored: Node | None, author: Author) -> PlannedWrite:
            return intent_of(parsed(operation), self._short).decide(stored, author)

        return Decision(Intent(operation.collection, operation.id, decide), operation, size)

    async def decide(self, decision: Decision, stored: RawBSONDocument | None, author: Author) -> PlannedWrite:
        """Return the write that `decision` makes of the stored document."""
        if (change := await self.decide_here(decision, stored, author)) is not None:
            return change
        raw = None if stored is None else bytes(stored.raw)
        size, author = _work(decision, stored), author.within(decision.intent.collection)
        encoded_write = await self._offload.run(decided, decision.operation, self._policy, raw, author, size=size)
        return encoded_write.decoded()

    async def decide_here(
        self, decision: Decision, stored: RawBSONDocument | None, author: Author
    ) -> PlannedWrite | None:
        """Return the write that `decision` makes of the stored document, or None if a helper has to decide."""
        # A function of the caller can't be sent to another process.
        if not decision.intent.reads or not is_portable(decision.operation):
            return decision.intent.decide(None if stored is None else node_of(stored, tell=True), author)
        if (size := _work(decision, stored)) > self._offload.above:
            return None
        await turn(size)
        try:
            return decision.intent.decide(None if stored is None else node_of(stored, tell=True), author)
        except TooComplex:
            # Too long for the event loop is not too long: a helper has the whole budget.
            if self._short.patch_steps == self._policy.patch_steps:
                raise
            return None

    def _short_of(self, operation: WriteOperation) -> WritePolicy:
        return self._short if is_portable(operation) else self._policy

    async def node(self, raw: RawBSONDocument, guard: Guard | None = None) -> Node | None:
        """Return a stored document as a node; the document of a large one is a `JsonText`.

        With a `guard`, it has what that shows of it. None if it may not be read.
        """
        size = len(raw.raw)
        if size > self._offload.above:
            return await self.encoded(raw, guard, tagged=True)
        await turn(size)
        return seen(node_of(raw, tell=guard is not None), guard)

    async def encoded(self, raw: RawBSONDocument, guard: Guard | None = None, *, tagged: bool = False) -> Node | None:
        """Return a stored document as `node` does, but as a `JsonText` in any case; `tagged` with its digest."""
        return await self._offload.call(len(raw.raw), encoded_node, bytes(raw.raw), tagged, guard)


def _work(decision: Decision, stored: RawBSONDocument | None) -> int:
    """Return the bytes of work that deciding takes."""
    return decision.size + (len(stored.raw) if stored is not None else 0) + _EMPTY


# --- in a helper ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EncodedWrite:
    """A planned write from a helper process. `bson` holds the document or update to write, if there is one."""

    result: WriteResult
    kind: type[Insert | Modify] | None
    bson: bytes
    remove: Remove | None = None

    @classmethod
    def of(cls, change: PlannedWrite) -> EncodedWrite:
        result, write = change.result, change.write
        document = None if result.document is None else JsonText(to_json(result.document))
        patch = JsonText(to_json(result.patch))
        result = replace(result, document=document, patch=patch, known_digest=result.digest)
        if isinstance(write, Insert):
            return cls(result, Insert, bytes(write.document.raw))
        if isinstance(write, Modify):
            return cls(result, Modify, encode({"u": write.update}))
        return cls(result, None, b"", write)

    def decoded(self) -> PlannedWrite:
        """Return the planned write. Its document or update stays encoded."""
        if self.kind is None:
            return PlannedWrite(self.result, self.remove)
        raw: Any = RawBSONDocument(self.bson, RAW_CODEC)
        return PlannedWrite(self.result, Insert(raw) if self.kind is Insert else Modify(raw["u"]), size=len(self.bson))


def created(operation: Create, policy: WritePolicy, author: Author) -> tuple[Any, EncodedWrite]:
    """Return the id of a new document, and the write that creates it."""
    intent = intent_of(parsed(operation), policy)
    return intent.id, EncodedWrite.of(intent.decide(None, author))


def decided(operation: WriteOperation, policy: WritePolicy, stored: bytes | None, author: Author) -> EncodedWrite:
    """Return the write that `operation` makes of the document `stored`, in BSON."""
    node = None if stored is None else node_of(RawBSONDocument(stored, RAW_CODEC), tell=True)
    return EncodedWrite.of(intent_of(parsed(operation), policy).decide(node, author))


def encoded_node(raw: bytes, tagged: bool, guard: Guard | None = None) -> Node | None:
    """Return a stored document as `Decider.encoded` does."""
    node = seen(node_of(RawBSONDocument(raw, RAW_CODEC), tell=guard is not None), guard)
    if node is None:
        return None
    digest = digest_of(node.document) if tagged else ""
    return replace(node, document=JsonText(to_json(node.document)), digest=digest)
