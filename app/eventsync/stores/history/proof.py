"""The proof that the log gives exactly the collections, for `eventsync verify` and for a server's task.

Its checks run one after another, while everything runs. Each finds the first fault, so that a report has at most one of
the log and one of each collection.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from bson import json_util
from bson.binary import UuidRepresentation

from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.names import not_tracked
from eventsync.domain.patches.diff import diff
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.domain.replay import Damaged
from eventsync.errors import Unavailable
from eventsync.mongodb.clocks import cluster_time, wall_time
from eventsync.mongodb.errors import translated
from eventsync.stores.history.comparison import Difference
from eventsync.stores.history.route_verification import RouteVerification
from eventsync.stores.history.verification import MAX_CHAINS, Progress, Verification, VerifiedPoint
from eventsync.stores.log.logs import Log
from eventsync.stores.log.tracking import TrackedCollection
from eventsync.stores.stores import Stores

_EXACT: Final = json_util.CANONICAL_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)
"""Values are shown with their types, because a difference may be in the type alone."""

_SHOWN: Final = 2000
_STALE: Final = 60.0
"""Age of the newest checkpoint, in seconds, beyond which no worker runs: MongoDB can't be read as of much earlier."""

_FINDINGS: Final = 10
"""Most faults in a summary, with `_FINDING` characters each and as many paths."""

_FINDING: Final = 400


class Steps(Protocol):
    """Follows a proof. An error that `advance` raises ends it."""

    def begin_step(self, name: str, total: int | None) -> None:
        """Begin the next step, with an estimate of its events and documents."""

    def advance(self, count: int) -> None:
        """Count checked events or documents of the step."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """The first fault. If a document differs: its shape, and the patch from the log's state.

    `outline` says it without content of documents and without the place of the archive; None if `text` has neither.
    """

    text: str
    shape: str | None = None
    patch: Any = None
    outline: str | None = None

    @classmethod
    def of(cls, collection: str, difference: Difference) -> Wrong:
        """Describe a document that differs between the log and the collection."""
        shape = f"{collection}/{difference.id}"
        log, there = difference.in_log, difference.in_collection
        if log is None or there is None:
            where, (_, document) = ("the log", log) if log else ("the collection", there or (0, {}))
            outline = f"{shape} is only in {where}"
            return cls(f"{outline}: {_short(_exact(document))}", shape, outline=outline)
        versions = f": the log has version {log[0]}, the collection version {there[0]}" if log[0] != there[0] else ""
        # An empty one if the versions alone differ.
        patch = _exact(diff(log[1], there[1]))
        changes = f"; from the log to the collection: {_short(patch)}" if patch else ""
        paths = ", ".join(operation["path"] or "/" for operation in patch[:_FINDINGS])
        outline = f"{shape} differs{versions}{f' at {paths}' if paths else ''}"
        return cls(f"{shape} differs{versions}{changes}", shape, patch, outline)

    def tree(self) -> dict[str, Any]:
        """Return it as JSON; BSON values are canonical Extended JSON."""
        return {"text": self.text, "shape": self.shape, "patch": self.patch}


@dataclass(frozen=True, slots=True)
class Proof:
    """The comparison of a collection at `position`; `wrong` is None if log and collection are the same."""

    name: str
    position: Position
    wrong: Wrong | None


@dataclass(slots=True)
class Report:
    """The result for the log's numbers up to `head`, and for each collection."""

    log: LogId
    head: Seq
    wrong: Wrong | None = None
    proofs: list[Proof] = field(default_factory=list)
    note: str | None = None
    """The reason why the collections were compared as they are now, if they were."""

    @property
    def whole(self) -> bool:
        """True if no fault was found."""
        return self.wrong is None and not any(proof.wrong for proof in self.proofs)

    def tree(self) -> dict[str, Any]:
        """Return it as JSON."""
        proofs = [
            {"name": proof.name, "position": str(proof.position), "wrong": proof.wrong and proof.wrong.tree()}
            for proof in self.proofs
        ]
        head = str(Position(self.log, self.head))
        return {"whole": self.whole, "head": head, "wrong": self.wrong and self.wrong.tree(), "collections": proofs}

    def summary(self) -> dict[str, Any]:
        """Return it as JSON of a few KiB, without content of documents: observers read it."""
        # The log's own fault first: the others may be its consequences.
        faults = [(None, self.wrong), *((proof.name, proof.wrong) for proof in self.proofs)]
        found = [(name, wrong) for name, wrong in faults if wrong is not None]
        return {
            "whole": self.whole,
            "head": str(Position(self.log, self.head)),
            "collections": len(self.proofs),
            "findings": [_finding(name, wrong) for name, wrong in found[:_FINDINGS]],
            "more": max(0, len(found) - _FINDINGS),
            "note": self.note,
        }


def _finding(collection: str | None, wrong: Wrong) -> dict[str, Any]:
    text = _printable(wrong.outline or wrong.text)
    # A part of a shape would be another one.
    shape = wrong.shape if wrong.shape is not None and len(wrong.shape) <= _FINDING else None
    return {"collection": collection, "text": _cut(text, _FINDING), "shape": shape and _printable(shape)}


async def collections_to_prove(stores: Stores, log: Log, asked: Sequence[str]) -> list[TrackedCollection]:
    """Return the active collections of these names, or all. Raises `NotTracked` and `Unavailable`."""
    active = {item.name: item for item in await stores.tracking.active(log.id)}
    for name in asked:
        if name not in active:
            raise not_tracked(name)
    return [active[name] for name in asked or active]


async def prove(stores: Stores, asked: Sequence[str], steps: Steps, *, max_chains: int = MAX_CHAINS) -> Report:
    """Check the log and the named collections, or all. Raises `NotTracked`, `NoBase` and `Unavailable`, also if a new
    log begins meanwhile.

    `max_chains` bounds the memory: see `Verification`.
    """
    log = await stores.logs.require()
    return await _Checks(stores, log, steps, max_chains).run(await collections_to_prove(stores, log, asked))


class _Checks:
    """All checks, one after another."""

    def __init__(self, stores: Stores, log: Log, steps: Steps, max_chains: int) -> None:
        self._stores = stores
        self._log = log
        self._steps = steps
        self._note: str | None = None
        history = stores.history
        self._verification = Verification(history.reader, history.comparison, max_chains=max_chains)
        self._routes = RouteVerification(history.state, stores.snapshots.live, stores.definitions, stores.tracking)

    async def run(self, collections: Sequence[TrackedCollection]) -> Report:
        point = await self._point()
        report = Report(point.log, point.head)
        check = self._verification.numbers
        report.wrong = await self._run_text("numbers", lambda advance: check(point, advance), total=point.head)
        for item in collections:
            report.proofs.append(await self._prove(point, item.name, item.tracked_from))
        report.note = self._note
        return report

    async def _prove(self, point: VerifiedPoint, name: str, tracked_from: Seq) -> Proof:
        chains, content = self._verification.chains, self._verification.content
        wrong = await self._run_text(
            f"{name}: versions", lambda advance: chains(point, name, advance, tracked_from=tracked_from)
        )
        if wrong is not None:
            # Without its versions, the content would differ only by what is said already.
            return Proof(name, Position(point.log, point.seq), wrong)
        # A new point: MongoDB can be read at a cluster time for minutes, and the checks before may take as long.
        at = await self._point()

        async def compared(advance: Progress) -> Wrong | None:
            difference = await content(at, name, advance)
            return Wrong.of(name, difference) if difference else None

        with translated(f"{name} can't be counted"):
            count = await self._stores.data[name].estimated_document_count()
        wrong = await self._run(f"{name}: documents", compared, total=2 * count)
        if wrong is None:
            # Behind the documents: a route is made of what the log says of them.
            check, at = self._routes.check, await self._point()
            wrong = await self._run_text(f"{name}: routes", lambda advance: check(at, name, advance), total=count)
            if wrong is not None:
                # A route's name has values of its documents.
                outline = f"{name} has other routes than its events say; `eventsync verify` names one"
                wrong = replace(wrong, outline=outline)
        return Proof(name, Position(at.log, at.seq), wrong)

    async def _run_text(
        self, name: str, check: Callable[[Progress], Awaitable[str | None]], *, total: int | None = None
    ) -> Wrong | None:
        async def said(advance: Progress) -> Wrong | None:
            text = await check(advance)
            return Wrong(text) if text else None

        return await self._run(name, said, total=total)

    async def _run(
        self, name: str, check: Callable[[Progress], Awaitable[Wrong | None]], *, total: int | None = None
    ) -> Wrong | None:
        self._steps.begin_step(name, total)
        try:
            wrong = await check(self._steps.advance)
        except Damaged as error:
            wrong = Wrong(error.diagnosis, outline=error.message)
        except Unavailable:
            await self._require_current()
            raise
        if wrong is not None:
            await self._require_current()
        return wrong

    async def _require_current(self) -> None:
        """Raise `Unavailable` if a new log has begun: workers remove what belongs to the former one."""
        if (await self._stores.logs.require()).id != self._log.id:
            raise Unavailable("a new log has begun meanwhile: verify again")

    async def _point(self) -> VerifiedPoint:
        """Return the newest checkpoint, or the present if no worker has made a checkpoint recently."""
        stores, log = self._stores, self._log.id
        async with stores.log.client.start_session() as session:
            checkpoint = await stores.logs.read_checkpoint(log, session)
            # After the checkpoint: the head is never behind it.
            head = await stores.events.head(log, session)
        if checkpoint is None:
            await self._require_current()
            raise Unavailable("the log has no checkpoint yet: is a worker running?")
        if (age := (await wall_time(stores.data) - checkpoint.at).total_seconds()) < _STALE:
            return VerifiedPoint(log, checkpoint.seq, checkpoint.time, head, settled=head == checkpoint.seq)
        self._note = self._note or (
            f"no worker has read the changes for {age:.0f} s: compared with the collections as they are now"
        )
        return VerifiedPoint(log, head, await cluster_time(stores.data), head, settled=True)


def _exact(value: Any) -> Any:
    return json.loads(json_util.dumps(value, json_options=_EXACT, default=Opaque.spelled))


def _short(tree: Any) -> str:
    return _cut(_printable(json.dumps(tree, ensure_ascii=False)), _SHOWN)


def _printable(text: str) -> str:
    # A name that is not UTF-8 has lone surrogates, which can't be printed.
    return text.encode("utf-8", "replace").decode()


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most] + " …"
