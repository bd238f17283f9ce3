"""Declared shapes: filters with parameters, the routes that their values make, and the keys of documents.

A filter with parameters is one or more *branches*: the parts of an `$or` that have parameters. Each branch is a
*partition*, every parameter once as the value at a path, and a *residual*, everything else, which is constant. A
document then belongs to the routes for all values at the partition's paths if the residual matches it. So the routes of
a document are computed from the document alone, and not by asking each route.

The invariant: one of a route's keys is among the keys of a document exactly if MongoDB finds the document by the
route's filter. Two exceptions are closed: a document with too many keys, and one that can't be read as far as it takes,
which one with a field name twice can't.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import product
from math import prod
from typing import Any, Final

from eventsync.domain.bson_scan.ambiguous import is_decidable
from eventsync.domain.predicates.keys import (
    KEY_BYTES,
    MAX_KEYS,
    Branch,
    Find,
    KeyMaker,
    Unrouted,
    finder,
)
from eventsync.domain.predicates.matching import matcher, values_at
from eventsync.domain.predicates.nodes import All, AnyOf, At, Equal, Node, OneOf, Parameter, canonical, parameters_of
from eventsync.domain.predicates.ordering import MISSING, Undecidable, value_bytes
from eventsync.domain.predicates.parameter_types import checked, ranks_of
from eventsync.domain.predicates.parsing import MAX_LIST, bound_filter, parse_all
from eventsync.domain.predicates.routed_shape import RoutedShape
from eventsync.errors import InvalidPredicate, Malformed

MAX_BRANCHES: Final = 16
MAX_PARAMETERS: Final = 8

_VERSION: Final = b"eventsync definition 1"
"""Part of everything that is hashed: keys are stored, so another way to make them needs another version."""


@dataclass(frozen=True, slots=True)
class Route:
    """A definition with its parameters bound.

    `filter` is for `find`, with the collation `{"locale": "simple"}`. `keys`, 16 bytes each, has several if a parameter
    stands for a list. `key` names the route: it is the only one of `keys`, or made of all of them.

    The route of an active definition has its activation: events after `since` carry its keys, and the registry's
    revision was `revision`.
    """

    shape: RoutedShape
    definition: Definition
    key: bytes
    keys: frozenset[bytes]
    since: int = 0
    revision: int = 0

    @property
    def collection(self) -> str:
        """The collection that the route is a part of."""
        return self.definition.collection

    @property
    def clauses(self) -> tuple[frozenset[bytes], ...]:
        """The sets of keys of which documents in it have one each: a single one, as a view has several."""
        return (self.keys,)

    @property
    def activations(self) -> tuple[tuple[str, int], ...]:
        """The definition, and the revision of its activation."""
        return ((self.definition.name, self.revision),)

    @property
    def redaction(self) -> None:
        """Nothing is hidden, as in some views."""
        return None

    @property
    def filter(self) -> Mapping[str, Any]:
        """The filter, made each time: thousands of clients follow routes, and few read the collection."""
        return bound_filter(self.definition.where, self.definition.values_of(self.shape))

    @property
    def scope(self) -> str:
        """The part of a position that names the route: 8 hex digits of everything that decides what is in it."""
        return self.key.hex()[:8]

    def admits(self, document: Mapping[str, Any]) -> bool:
        """Return True if a document has one of the keys. The filter also finds those that have too many keys."""
        return not self.keys.isdisjoint(self.definition.keys(document))


@dataclass(slots=True, eq=False)
class Definition:
    """A declared shape: a filter over a collection, with typed parameters. `define` makes it.

    `types` has the names of each parameter's types, and `lists` the parameters that stand for the list of an `$in`.
    `claims` has the claims that some take their values from. They decide who may bind which values, and no keys.
    `canonical` is equal for definitions that differ only in spelling and in their names. `digest` stands for it. The
    keys are of the name, too: a key belongs to the text of one shape.
    """

    name: str
    collection: str
    where: Mapping[str, Any]
    types: Mapping[str, frozenset[str]]
    lists: frozenset[str]
    canonical: bytes
    branches: tuple[Branch, ...]
    claims: Mapping[str, str] = field(default_factory=dict)
    digest: bytes = field(init=False)
    fields: frozenset[str] = field(init=False, repr=False)
    """The names of the fields that the keys of a document depend on."""
    find: Find = field(init=False, repr=False)
    """Finds the keys of a document that can be read, faster than `keys`. Raises `Undecidable` for one that can't."""
    _maker: KeyMaker = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.digest = _hash(self.canonical)
        self.fields = frozenset(_fields(self.where))
        self._maker = KeyMaker(_hash(self.digest, self.name.encode()))
        self.find = finder(self.branches, self._maker)

    def keys(self, document: Mapping[str, Any]) -> frozenset[bytes]:
        """Return the keys of the routes that a document belongs to; `Unrouted` if they can't be known or are too many.

        `Unrouted` is an empty set: the document belongs to no route.
        """
        if type(document) is not dict and not is_decidable(document, self.fields):
            return Unrouted("unreadable")
        try:
            return self.find(document)
        except Undecidable:
            return Unrouted("unreadable")

    def bind(self, values: Mapping[str, Any]) -> Route:
        """Return the route for values of all parameters; those of `lists` take a list. Raises `InvalidPredicate`."""
        bound = self._bound(values)
        try:
            shape = RoutedShape.of(self.name, bound)
        except Malformed as error:
            raise InvalidPredicate(self.name, error.message) from error
        return self._route(shape, bound)

    def _route(self, shape: RoutedShape, bound: Mapping[str, list[Any]], since: int = 0, revision: int = 0) -> Route:
        keys = self._keys_of_values(bound)
        return Route(shape, self, self.key_of(keys), keys, since, revision)

    def keys_of(self, values: Mapping[str, Any]) -> frozenset[bytes]:
        """Return the keys of the route for values of all parameters. Raises `InvalidPredicate`."""
        return self._keys_of_values(self._bound(values))

    def key_of(self, keys: frozenset[bytes]) -> bytes:
        """Return the key that names the route of these keys."""
        return next(iter(keys)) if len(keys) == 1 else self._maker.key(b"".join((b"any of", *sorted(keys))))

    def _keys_of_values(self, bound: Mapping[str, list[Any]]) -> frozenset[bytes]:
        found = [{value_bytes(value) for value in items} for items in bound.values()]
        if prod(map(len, found)) > MAX_KEYS:
            raise InvalidPredicate(self.name, f"these lists make more than {MAX_KEYS} combinations; ask for fewer")
        return frozenset(self._maker.key(b"".join(tokens)) for tokens in product(*found))

    def bind_shape(self, shape: RoutedShape, since: int = 0, revision: int = 0) -> Route:
        """Return the route for a shape of this name, with its activation. Raises `InvalidPredicate`."""
        return self._route(shape, self._bound(self.values_of(shape)), since, revision)

    def values_of(self, shape: RoutedShape) -> dict[str, Any]:
        """Return the values of a shape's parameters, a list for each of `lists`. Raises `InvalidPredicate`."""
        values: dict[str, Any] = shape.parameters()
        for name, items in values.items():
            if name not in self.lists:
                if len(items) != 1:
                    raise InvalidPredicate(f"{self.name}.{name}", "takes one value; a list is for a parameter of $in")
                values[name] = items[0]
        return values

    def _bound(self, values: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the values of each parameter, sorted by name. Raises `InvalidPredicate` for those that can't be."""
        if values.keys() != self.types.keys():
            wanted = ", ".join(sorted(self.types)) or "no parameters"
            given = f"takes {wanted}, and not {', '.join(sorted(values))}" if values else f"needs a value for {wanted}"
            raise InvalidPredicate(self.name, given)
        return {name: self._checked(name, values[name]) for name in sorted(values)}

    def routes_of(self, document: Mapping[str, Any]) -> Iterable[Route]:
        """Yield some routes that a document may be in: at most one for each branch."""
        for branch in self.branches:
            values: dict[str, Any] = {}
            for name, found in zip(self.types, branch.values, strict=True):
                value = next((None if value is MISSING else value for value in found(document)), None)
                values[name] = [value] if name in self.lists else value
            with suppress(InvalidPredicate):
                yield self.bind(values)

    def _checked(self, name: str, value: Any) -> list[Any]:
        place = f"{self.name}.{name}"
        if name not in self.lists:
            return [checked(value, place, self.types[name])]
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_LIST:
            raise InvalidPredicate(place, f"takes a list of 1 to {MAX_LIST} values")
        return [checked(item, place, self.types[name]) for item in value]


def define(
    name: str,
    collection: str,
    where: Any,
    parameters: Mapping[str, Iterable[str]],
    claims: Mapping[str, str] | None = None,
) -> Definition:
    """Return the definition of a shape. Raises the first of its problems; see `define_all`."""
    definition, problems = define_all(name, collection, where, parameters, claims)
    if definition is None:
        raise problems[0]
    return definition


def define_all(
    name: str,
    collection: str,
    where: Any,
    parameters: Mapping[str, Iterable[str]],
    claims: Mapping[str, str] | None = None,
) -> tuple[Definition | None, list[InvalidPredicate]]:
    """Return the definition of a shape, or all that is wrong with it. `parameters` has the types of each."""
    node, problems = parse_all(where, parameters.keys())
    if len(parameters) > MAX_PARAMETERS:
        problems.append(InvalidPredicate("", f"a shape has at most {MAX_PARAMETERS} parameters"))
    if problems:
        return None, problems
    types = {each: frozenset(kinds) for each, kinds in sorted(parameters.items())}
    try:
        lists = _check_uses(node, types)
        places = {each.name: each.place for each in parameters_of(node)}
        branches = tuple(_branch(parts, types, places) for parts in _conjunctions(node))
    except InvalidPredicate as problem:
        return None, [problem]
    spelled = b"".join(b"%d:%b" % (len(part), part) for part in _spelled(collection, types, node))
    return Definition(name, collection, where, types, lists, spelled, branches, dict(claims or {})), []


def _spelled(collection: str, types: Mapping[str, frozenset[str]], node: Node) -> Iterable[bytes]:
    """Yield all that decides which values can be bound, and what they find."""
    yield from (_VERSION, collection.encode(), canonical(node))
    for name, kinds in types.items():
        yield from (name.encode(), ",".join(sorted(kinds)).encode())


def _fields(where: Mapping[str, Any]) -> Iterable[str]:
    for name, condition in where.items():
        if name.startswith("$"):
            for part in condition:
                yield from _fields(part)
        else:
            yield name.partition(".")[0]


def _conjunctions(node: Node) -> list[tuple[Node, ...]]:
    """Return the conjunctions of which one has to match. Only an `$or` with parameters makes several.

    Raises `InvalidPredicate` for a parameter that is not the value of an equality in each of them.
    """
    inside = list(parameters_of(node))
    if not inside:
        return [(node,)]
    match node:
        case At(_, Equal() | OneOf()):
            return [(node,)]
        case All(parts):
            found: list[tuple[Node, ...]] = [()]
            for part in parts:
                found = [before + after for before in found for after in _conjunctions(part)]
                _check_count(found, inside[0])
            return found
        case AnyOf(parts):
            found = [branch for part in parts for branch in _conjunctions(part)]
            _check_count(found, inside[0])
            return found
    raise InvalidPredicate(
        inside[0].place,
        "a parameter can't stand under $not, $nor or $elemMatch, because no value of a document names the route then;"
        " make it an equality on a path, and the rest a condition beside it",
    )


def _check_count(found: list[tuple[Node, ...]], parameter: Parameter) -> None:
    if len(found) > MAX_BRANCHES:
        raise InvalidPredicate(
            parameter.place, f"the $or with parameters make more than {MAX_BRANCHES} combinations; declare two shapes"
        )


def _branch(parts: Iterable[Node], types: Mapping[str, frozenset[str]], places: Mapping[str, str]) -> Branch:
    """Return the branch of a conjunction. Raises `InvalidPredicate` if it has not each parameter once.

    `places` has a place of each parameter in the whole filter.
    """
    found: dict[str, str] = {}
    rest: list[Node] = []
    for part in parts:
        match part:
            case At(path, Equal(Parameter() as parameter) | OneOf(Parameter() as parameter)):
                if parameter.name in found:
                    raise InvalidPredicate(
                        parameter.place,
                        f"the parameter {parameter.name} stands twice where both must match;"
                        " declare a second one, and bind both to the same value",
                    )
                found[parameter.name] = path
            case other if other != All(()):
                rest.append(other)
    for name in sorted(types.keys() - found.keys()):
        raise InvalidPredicate(
            places[name],
            f"the parameter {name} is not in every branch of $or: a branch without it belongs to all its values;"
            " declare the branch as a shape of its own",
        )
    paths = tuple(found[name] for name in types)
    ranks = tuple(map(ranks_of, types.values()))
    return Branch(matcher(All(tuple(rest))) if rest else None, paths, ranks, tuple(map(values_at, paths)))


def _check_uses(node: Node, types: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Return the parameters that stand for lists. Raises `InvalidPredicate` for one that is used in no place or two."""
    uses: dict[str, set[bool]] = {name: set() for name in types}
    for parameter, is_list in _uses(node):
        uses[parameter.name].add(is_list)
        if len(uses[parameter.name]) == 2:
            raise InvalidPredicate(
                parameter.place,
                f"the parameter {parameter.name} is a value in one place and a list in another; use $in",
            )
    for name, found in uses.items():
        if not found:
            raise InvalidPredicate("", f"the parameter {name} stands nowhere in the filter; leave it out")
    return frozenset(name for name, found in uses.items() if found == {True})


def _uses(node: Node) -> Iterable[tuple[Parameter, bool]]:
    match node:
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from _uses(part)
        case At(_, Equal(Parameter() as parameter)):
            yield parameter, False
        case At(_, OneOf(Parameter() as parameter)):
            yield parameter, True
        case _:
            # Other places are refused with their reason by `_conjunctions`.
            yield from ((parameter, False) for parameter in parameters_of(node))


def _hash(*parts: bytes) -> bytes:
    return blake2b(b"".join(parts), digest_size=KEY_BYTES).digest()
