"""The registry of declared shapes: the collection `shapes`.

`eventsync rules apply` *declares* shapes. The sequencer *activates* each of them behind an event: from there on, events
carry the keys of the shape's routes. Clients can subscribe to a shape only after that.

The registry is one document with a revision, and each write compares the revision. So whatever is read is one state,
and of two concurrent writes one is repeated on the result of the other.

The revision also fences. A worker that was deposed without noticing may append one more event without the keys of a
shape that its successor has activated. So the first event that a worker appends after it has read the registry names
the revision that it has read, as `r`. An activation holds if the event right behind it names the activation's revision
or a later one; otherwise it is void, and the shape is activated again. As soon as that event exists, no worker that has
not read the activation can append any more: its next event would have a number that is taken.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from bson.int64 import Int64
from bson.timestamp import Timestamp
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import DuplicateKeyError

from eventsync.domain.access.rules import AccessRules
from eventsync.domain.access.rules import read_spec as read_access_spec
from eventsync.domain.positions import START, LogId, Seq
from eventsync.domain.predicates.declarations import read_spec, spec_of
from eventsync.domain.predicates.definitions import Definition
from eventsync.domain.predicates.routed_shape import is_shape_name
from eventsync.errors import Conflict, Malformed, Unavailable, UnknownShape
from eventsync.mongodb.errors import translated
from eventsync.stores.log.stored_event import UNREADABLE

logger = logging.getLogger(__name__)

_REGISTRY: Final = "definitions"
"""The `_id` of the registry's one document."""

_RULES: Final = "access:rules"
"""The name of the rules among the shapes of the stored registry. No shape can have it, nor a part of a rule.

Workers of a version without rules store all shapes as they have read them. So they keep the rules, and activate what
the rules are made of.
"""

_ATTEMPTS: Final = 20
"""Writes of the registry that may lose against others in a row."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A shape to declare. `spec` is a text of its definition, and `digest` that of all that decides its keys."""

    name: str
    collection: str
    spec: str
    digest: str

    @classmethod
    def of(cls, definition: Definition) -> Declaration:
        """Return the declaration of a definition."""
        return cls(definition.name, definition.collection, spec_of(definition), definition.digest.hex())


@dataclass(frozen=True, slots=True)
class DeclaredShape:
    """A shape of the registry, declared by the `number`-th apply.

    Once active, it has a log, whose events after `base` carry the shape's keys. `time` is the cluster time of the
    checkpoint at `base`, and `revision` that of the registry at the activation. `refused` is the sequencer's reason for
    not activating it.
    """

    name: str
    collection: str
    spec: str
    digest: str
    number: int
    log: LogId | None = None
    base: Seq = START
    time: Timestamp | None = None
    revision: int = 0
    refused: str | None = None

    def definition(self) -> Definition:
        """Compile the definition. Raises `UnknownShape` for one that this version reads otherwise, or not at all."""
        try:
            definition = read_spec(self.name, self.spec)
        except Malformed as error:
            raise UnknownShape(f"the shape {self.name!r} can't be read by this version: {error.message}") from error
        # Keys of another digest would be compared with those in the log.
        if definition.digest.hex() != self.digest:
            raise UnknownShape(f"the shape {self.name!r} has other keys in this version; apply the rules again")
        return definition

    def inactive(self) -> DeclaredShape:
        """Return this shape as it was declared, not activated and not refused."""
        return DeclaredShape(self.name, self.collection, self.spec, self.digest, self.number)


@dataclass(frozen=True, slots=True)
class StoredRules:
    """`[auth]`, `[roles]` and `[collections]` as a text, as the `number`-th apply has left them."""

    spec: str
    number: int

    def compiled(self) -> AccessRules:
        """Return the rules. Those that this version can't read allow nothing: it logs why."""
        try:
            return read_access_spec(self.spec)
        except Malformed as error:
            text = "the rules %d can't be read by this version, which allows nothing: %s"
            logger.log(logging.ERROR, text, self.number, error.message)
            return AccessRules.of_nothing()


@dataclass(frozen=True, slots=True)
class Registry:
    """One state of the registry. `number` counts the applies that have changed it, `revision` all writes.

    `rules` is None if there is no `[auth]`. The definitions of the read rules are among the `shapes`.
    """

    revision: int = 0
    number: int = 0
    shapes: tuple[DeclaredShape, ...] = ()
    rules: StoredRules | None = None

    def active(self, log: LogId) -> list[DeclaredShape]:
        """Return the shapes that are active in `log`, by name."""
        return [shape for shape in self.shapes if shape.log == log]


@dataclass(frozen=True, slots=True)
class Applied:
    """The names of the shapes that an apply has found to be new, changed, removed and unchanged, each sorted.

    `access` says the same of `[auth]` and the rules, or nothing if there are none. Their definitions are not named.
    """

    number: int
    new: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    access: Literal["", "new", "changed", "removed", "unchanged"] = ""


class DefinitionStore:
    """The registry. Anyone may `apply`; the sequencer does all else."""

    def __init__(self, database: AsyncDatabase[Any]) -> None:
        self._registry: AsyncCollection[Any] = database["shapes"]

    async def read(self) -> Registry:
        """Return the registry; an empty one if nothing was ever declared."""
        with translated("the declared shapes can't be read"):
            row = await self._registry.find_one({"_id": _REGISTRY})
        try:
            return Registry() if row is None else _registry(row)
        except UNREADABLE as error:
            raise Unavailable("the declared shapes can't be read: their registry was edited by hand") from error

    async def active(self, log: LogId) -> list[DeclaredShape]:
        """Return the shapes that are active in `log`, by name."""
        return (await self.read()).active(log)

    async def apply(self, declarations: Iterable[Declaration], rules: str | None = None) -> Applied:
        """Declare these shapes and no others, and put `rules` in force. Unchanged ones keep their number.

        The definitions of the rules are among the declarations. Unchanged shapes stay active.

        One is unchanged if it has the same keys for the same values, however it is spelled. If it was refused, the
        sequencer checks it again.
        """
        wanted = {item.name: item for item in declarations}
        applied = Applied(0, (), (), (), ())

        def edit(registry: Registry) -> Registry:
            # Called again after a lost race. What is returned is of the last call.
            nonlocal applied
            known = {shape.name: shape for shape in registry.shapes}
            kept = {name for name in wanted.keys() & known.keys() if wanted[name].digest == known[name].digest}
            new, removed = wanted.keys() - known.keys(), known.keys() - wanted.keys()
            changed = (wanted.keys() & known.keys()) - kept
            access = _change_of(registry.rules, rules)
            number = registry.number + bool(new or changed or removed or access not in {"", "unchanged"})
            listed = [tuple(sorted(filter(is_shape_name, names))) for names in (new, changed, removed, kept)]
            applied = Applied(number, listed[0], listed[1], listed[2], listed[3], access)
            shapes = (
                replace(known[name], spec=item.spec, refused=None)
                if name in kept
                else DeclaredShape(name, item.collection, item.spec, item.digest, number)
                for name, item in sorted(wanted.items())
            )
            stored = registry.rules if access == "unchanged" else None if rules is None else StoredRules(rules, number)
            return replace(registry, number=number, shapes=tuple(shapes), rules=stored)

        await self._change("the shapes can't be declared", edit)
        return applied

    async def activate(self, shapes: Iterable[DeclaredShape], log: LogId, seq: Seq, time: Timestamp) -> Registry:
        """Declare that events of `log` after `seq`, which is cluster time `time`, carry the keys of these shapes.

        Return the registry as it is then. A shape that was changed or removed meanwhile is not active in it.
        """
        digests = {shape.name: shape.digest for shape in shapes}

        def edit(registry: Registry) -> Registry:
            return _edited(
                registry,
                lambda shape: (
                    replace(shape.inactive(), log=log, base=seq, time=time, revision=_next_revision(registry.revision))
                    if digests.get(shape.name) == shape.digest
                    else shape
                ),
            )

        return await self._change("the shapes can't be activated", edit)

    async def refuse(self, reasons: Iterable[tuple[DeclaredShape, str]]) -> None:
        """Record the reasons for not activating shapes, unless they were changed meanwhile."""
        refused = {(shape.name, shape.digest): reason for shape, reason in reasons}

        def edit(shape: DeclaredShape) -> DeclaredShape:
            reason = refused.get((shape.name, shape.digest))
            return shape if reason is None else replace(shape.inactive(), refused=reason)

        await self._change("the refused shapes can't be recorded", lambda registry: _edited(registry, edit))

    async def _change(self, doing: str, edit: Callable[[Registry], Registry]) -> Registry:
        """Replace the registry by what `edit` makes of it. Return it as it is then; write nothing if it is the same."""
        for _ in range(_ATTEMPTS):
            known = await self.read()
            wanted = edit(known)
            if wanted == known:
                return known
            wanted = replace(wanted, revision=_next_revision(known.revision))
            with translated(doing):
                try:
                    # With a revision that is gone, this inserts a second document under the same `_id`: an error.
                    query = {"_id": _REGISTRY, "revision": Int64(known.revision)}
                    await self._registry.replace_one(query, _row(wanted), upsert=True)
                except DuplicateKeyError:
                    continue
            return wanted
        raise Conflict(f"{doing}: others change them all the time")


def _next_revision(revision: int) -> int:
    """Return the revision after this one. A registry that is made again after a drop has later revisions than before:
    else events of before could vouch for its activations.
    """
    return max(revision + 1, int(time.time() * 1000)) if not revision else revision + 1


def _change_of(known: StoredRules | None, wanted: str | None) -> Literal["", "new", "changed", "removed", "unchanged"]:
    if known is None:
        return "" if wanted is None else "new"
    if wanted is None:
        return "removed"
    return "unchanged" if known.spec == wanted else "changed"


def _edited(registry: Registry, edit: Callable[[DeclaredShape], DeclaredShape]) -> Registry:
    return replace(registry, shapes=tuple(edit(shape) for shape in registry.shapes))


def _row(registry: Registry) -> dict[str, Any]:
    return {
        "_id": _REGISTRY,
        "revision": Int64(registry.revision),
        "number": Int64(registry.number),
        "shapes": [_shape_row(shape) for shape in (*registry.shapes, *_rules_rows(registry.rules))],
    }


def _rules_rows(rules: StoredRules | None) -> list[DeclaredShape]:
    return [] if rules is None else [DeclaredShape(_RULES, "", rules.spec, "", rules.number)]


def _shape_row(shape: DeclaredShape) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": shape.name,
        "collection": shape.collection,
        "spec": shape.spec,
        "digest": shape.digest,
        "number": Int64(shape.number),
    }
    if shape.log is not None:
        row |= {"log": shape.log, "base": Int64(shape.base), "time": shape.time, "revision": Int64(shape.revision)}
    return row | ({"refused": shape.refused} if shape.refused is not None else {})


def _registry(row: Mapping[str, Any]) -> Registry:
    shapes = [
        DeclaredShape(
            item["name"],
            item["collection"],
            item["spec"],
            item["digest"],
            item["number"],
            item.get("log"),
            Seq(item.get("base", 0)),
            item.get("time"),
            item.get("revision", 0),
            item.get("refused"),
        )
        for item in row["shapes"]
    ]
    rules = next((StoredRules(shape.spec, shape.number) for shape in shapes if shape.name == _RULES), None)
    return Registry(row["revision"], row["number"], tuple(shape for shape in shapes if shape.name != _RULES), rules)
