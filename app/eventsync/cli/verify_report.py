"""The report of `eventsync verify`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from bson import json_util
from bson.binary import UuidRepresentation

from eventsync.cli.console import OUT, printable
from eventsync.domain.bson_scan.opaque import Opaque
from eventsync.domain.patches.diff import diff
from eventsync.domain.positions import LogId, Position, Seq
from eventsync.stores.history.comparison import Difference

_EXACT: Final = json_util.CANONICAL_JSON_OPTIONS.with_options(uuid_representation=UuidRepresentation.STANDARD)
"""Values are shown with their types, because a difference may be in the type alone."""

_SHOWN: Final = 2000


@dataclass(frozen=True, slots=True)
class Wrong:
    """The first fault. If a document differs: its shape, and the patch from the log's state."""

    text: str
    shape: str | None = None
    patch: Any = None

    @classmethod
    def of(cls, collection: str, difference: Difference) -> Wrong:
        """Describe a document that differs between the log and the collection."""
        shape = f"{collection}/{difference.id}"
        log, there = difference.in_log, difference.in_collection
        if log is None or there is None:
            where, (_, document) = ("the log", log) if log else ("the collection", there or (0, {}))
            return cls(f"{shape} is only in {where}: {_short(_exact(document))}", shape)
        versions = f": the log has version {log[0]}, the collection version {there[0]}" if log[0] != there[0] else ""
        patch = _exact(diff(log[1], there[1]))
        changes = f"; from the log to the collection: {_short(patch)}" if patch else ""
        return cls(f"{shape} differs{versions}{changes}", shape, patch)

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

    def show(self) -> None:
        """Print it for a person."""
        there = f"events 1 to {self.head} are complete, and transactions whole" if self.head else "it has no events yet"
        _line(f"log {self.log}", self.wrong, there)
        for proof in self.proofs:
            _line(proof.name, proof.wrong, f"snapshot and events are exactly the collection, at {proof.position}")


def _line(what: str, wrong: Wrong | None, well: str) -> None:
    mark, style = ("ok", "green") if wrong is None else ("WRONG", "red")
    OUT.print(f"{mark:<6}", style=style, end="")
    OUT.print(printable(f"{what}: {well if wrong is None else wrong.text}"), markup=False, soft_wrap=True)


def _exact(value: Any) -> Any:
    return json.loads(json_util.dumps(value, json_options=_EXACT, default=Opaque.spelled))


def _short(tree: Any) -> str:
    # A name that is not UTF-8 has lone surrogates, which can't be printed.
    text = json.dumps(tree, ensure_ascii=False).encode("utf-8", "replace").decode()
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"
