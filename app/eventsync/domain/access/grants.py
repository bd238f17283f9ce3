"""Read rules, and grants: the part of a collection that a principal may read.

A read rule becomes definitions whose parameters are claims, which the sequencer routes like declared shapes. So whoever
is allowed a part of a collection follows a few routes, and everybody with the same claims follows the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

from eventsync.domain.access.claims import UnusableClaim, claim_of, has_claims, list_of, sampled, scalar_of
from eventsync.domain.access.redaction import Redaction
from eventsync.domain.predicates.definitions import MAX_BRANCHES, Definition, define_all
from eventsync.domain.predicates.parsing import bound_filter, is_operators, parse_all
from eventsync.domain.values.extended_json import Document
from eventsync.domain.views import Clause
from eventsync.errors import InvalidPredicate

PREFIX: Final = "rule:"
"""Begins the name of a definition that a rule is made of. No client can name it: no shape's name has a colon."""

_TYPES: Final = ("bool", "number", "text")
"""The types of claims in a rule."""

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,30}", re.ASCII)
_UNROUTED: Final = (
    "a claim can't stand here in a read rule: no value of a document would name the route then. It is the value of an"
    " equality, an item of an $in, or its whole list, in $and and $or. A write rule may have it anywhere"
)

Claims = Mapping[str, Any]


# --- what a principal may read ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RulePart:
    """The route of a definition for the values of a principal's claims."""

    definition: Definition
    values: Mapping[str, Any]
    keys: frozenset[bytes]

    @property
    def name(self) -> str:
        """The name of the definition in the registry."""
        return self.definition.name

    @property
    def filter(self) -> Mapping[str, Any]:
        """The filter that finds the documents, with the collation `{"locale": "simple"}`."""
        return bound_filter(self.definition.where, self.values)

    def admits(self, document: Mapping[str, Any]) -> bool:
        """Return True if a document has one of the keys. The filter also finds those that have too many keys."""
        return not self.keys.isdisjoint(self.definition.keys(document))


@dataclass(frozen=True, slots=True, eq=False)
class ReadGrant:
    """The part of a collection that a principal may read: `everything`, or the union of the `parts`.

    `digest` stands for all that decides what is seen. Principals whose grants have the same one see the same.
    """

    collection: str
    everything: bool
    parts: tuple[RulePart, ...]
    redaction: Redaction | None
    digest: bytes

    @classmethod
    def of(cls, collection: str, parts: Iterable[RulePart] | None, redaction: Redaction | None = None) -> ReadGrant:
        """Return the grant of these parts; of everything if they are None."""
        # Equal parts of several roles count once, so that their principals share subscribers and snapshots.
        listed = () if parts is None else tuple({(part.name, part.keys): part for part in parts}.values())
        digest = blake2b(f"{collection} {parts is None}".encode("utf-8", "surrogatepass"), digest_size=16)
        for key in sorted(frozenset[bytes]().union(*(part.keys for part in listed))):
            digest.update(key)
        digest.update(redaction.digest if redaction else b"")
        return cls(collection, parts is None, listed, redaction, digest.digest())

    @property
    def filter(self) -> Mapping[str, Any] | None:
        """The filter that finds the documents; None if that is everything."""
        return None if self.everything else Clause.of(self.parts).filter

    def allows(self, document: Mapping[str, Any]) -> bool:
        """Return True if the principal may read a document in this state."""
        return self.everything or any(part.admits(document) for part in self.parts)

    def show(self, document: Document) -> Document:
        """Return a document without its hidden fields."""
        return document if self.redaction is None else self.redaction.strip(document)


EVERYTHING: Final = ReadGrant.of("", None)
"""The grant for any collection while no `[auth]` has been applied."""


# --- read rules ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoutedRule:
    """A read rule, as definitions, each with the claim of each of its parameters."""

    templates: tuple[tuple[Definition, Mapping[str, str]], ...]

    def parts(self, claims: Claims) -> tuple[RulePart, ...]:
        """Return what the rule allows with these claims, which may be nothing. Raises `UnusableClaim`."""
        found = (self._part(definition, names, claims) for definition, names in self.templates)
        return tuple(part for part in found if part is not None)

    def _part(self, definition: Definition, names: Mapping[str, str], claims: Claims) -> RulePart | None:
        values = {
            name: list_of(claims, path) if name in definition.lists else scalar_of(claims, path)
            for name, path in names.items()
        }
        # With an empty list nothing equals one of its items.
        if any(values[name] == [] for name in definition.lists):
            return None
        try:
            return RulePart(definition, values, definition.keys_of(values))
        except InvalidPredicate as error:
            raise UnusableClaim(", ".join(sorted(set(names.values()))), error.reason) from error


def routed(collection: str, where: Mapping[str, Any]) -> tuple[RoutedRule | None, list[InvalidPredicate]]:
    """Return a read rule, or the problems with it."""
    try:
        if problems := parse_all(sampled(where))[1]:
            return None, problems
        return _routed(collection, _branches(where, ""))
    except InvalidPredicate as problem:
        return None, [problem]


def _routed(
    collection: str, branches: Sequence[Sequence[_Condition]]
) -> tuple[RoutedRule | None, list[InvalidPredicate]]:
    groups: dict[frozenset[tuple[str, str]], list[dict[str, Any]]] = {}
    for branch in branches:
        names: dict[str, str] = {}
        conditions = [each.with_parameter(names) for each in branch]
        # Branches with the same claims are one definition, which costs an event fewer keys.
        groups.setdefault(frozenset(names.items()), []).append(_joined("$and", conditions))
    templates: list[tuple[Definition, Mapping[str, str]]] = []
    for named, filters in groups.items():
        parameters = dict(sorted(named))
        where = _joined("$or", filters)
        definition, problems = define_all("rule", collection, where, dict.fromkeys(parameters, _TYPES))
        if definition is None:
            reason = f"brought into branches, the rule is refused: {problems[0].reason}"
            return None, [InvalidPredicate("", reason)]
        templates.append((replace(definition, name=f"{PREFIX}{definition.digest.hex()[:16]}"), parameters))
    return RoutedRule(tuple(templates)), []


def _joined(operator: str, filters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(filters) == 1:
        return filters[0]
    names = [name for each in filters for name in each]
    if operator == "$and" and len(set(names)) == len(names):
        return {name: value for each in filters for name, value in each.items()}
    return {operator: list(filters)}


@dataclass(frozen=True, slots=True)
class _Condition:
    """A filter of one condition. With `claim`, it is an equality or an `$in` at `path`."""

    filter: dict[str, Any]
    path: str = ""
    claim: str = ""
    is_list: bool = False

    def with_parameter(self, names: dict[str, str]) -> dict[str, Any]:
        """Return the filter with a parameter for the claim, and add the parameter with its claim to `names`."""
        if not self.claim:
            return self.filter
        stem = _parameter_name(self.claim) + ("_list" if self.is_list else "")
        # Each use is a parameter of its own, because a definition has each of its parameters once.
        name = next(name for number in range(1, 99) if (name := f"{stem}_{number}") not in names)
        names[name] = self.claim
        return {self.path: {"$in": f"${name}"} if self.is_list else f"${name}"}


def _parameter_name(claim: str) -> str:
    if _PLAIN.fullmatch(claim):
        return claim
    digest = blake2b(claim.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"claim_{re.sub('[^A-Za-z0-9_]', '_', claim)[:24]}_{digest}"


def _branches(where: Mapping[str, Any], place: str) -> list[list[_Condition]]:
    """Return the conjunctions of which one has to match. Raises `InvalidPredicate` where a claim can't be routed."""
    found: list[list[_Condition]] = [[]]
    for name, value in where.items():
        for alternatives in _alternatives(name, value, f"{place}.{name}" if place else name):
            found = [before + after for before in found for after in alternatives]
            _check_count(found, place)
    return found


def _alternatives(name: str, value: Any, place: str) -> Iterator[list[list[_Condition]]]:
    """Yield the conditions that all have to match, each as alternatives."""
    if not has_claims(value):
        yield [[_Condition({name: value})]]
    elif name == "$and":
        for number, part in enumerate(value):
            yield _branches(part, f"{place}[{number}]")
    elif name == "$or":
        found = [branch for number, part in enumerate(value) for branch in _branches(part, f"{place}[{number}]")]
        _check_count(found, place)
        yield found
    elif name.startswith("$"):
        raise InvalidPredicate(place, _UNROUTED)
    elif not is_operators(value):
        yield [[_equality(name, value, place)]]
    else:
        for operator, argument in value.items():
            yield _operator(name, operator, argument, f"{place}.{operator}")


def _operator(path: str, operator: str, argument: Any, place: str) -> list[list[_Condition]]:
    if not has_claims(argument):
        return [[_Condition({path: {operator: argument}})]]
    if operator == "$eq":
        return [[_equality(path, argument, place)]]
    if operator == "$in" and (claim := claim_of(argument)) is not None:
        return [[_Condition({}, path, claim, is_list=True)]]
    if operator == "$in" and isinstance(argument, list):
        constant = [item for item in argument if not has_claims(item)]
        claims = [item for item in argument if has_claims(item)]
        rest = [[_Condition({path: {"$in": constant}})]] if constant else []
        return rest + [[_equality(path, item, place)] for item in claims]
    raise InvalidPredicate(place, _UNROUTED)


def _equality(path: str, value: Any, place: str) -> _Condition:
    if (claim := claim_of(value)) is None:
        raise InvalidPredicate(place, _UNROUTED)
    return _Condition({}, path, claim)


def _check_count(branches: Sequence[Any], place: str) -> None:
    if len(branches) > MAX_BRANCHES:
        reason = f"the $or with claims make more than {MAX_BRANCHES} combinations; make two roles of it"
        raise InvalidPredicate(place, reason)
