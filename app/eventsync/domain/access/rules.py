"""`[auth]`, `[roles]` and `[collections]` of a rules file, compiled: what every principal may read and write.

    [auth]
    issuers = […]

    [roles]
    operator = { roles = "ops" }
    user     = true

    [collections.orders.user]
    read   = { owner = "$claims.sub" }
    create = { owner = "$claims.sub" }
    update = { owner = "$claims.sub", status = { "$ne" = "closed" } }
    delete = false
    hide   = ["margin", "lines.*.cost"]
    fixed  = ["owner"]

    [collections."*".operator]
    read = true

A role is a predicate over the claims, and `true` is everybody. What no rule allows is not allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from eventsync.domain.access.auth import AuthSettings, read_auth
from eventsync.domain.access.claims import UnusableClaim, bound, claims_in, nested, sampled, usable
from eventsync.domain.access.grants import Claims, ReadGrant, RoutedRule, routed
from eventsync.domain.access.guards import Rule, WriteGuard, WriteRules
from eventsync.domain.access.principal import OPERATOR, Principal
from eventsync.domain.access.redaction import MAX_PATHS, Paths, Redaction, check_redacted
from eventsync.domain.names import check_collection
from eventsync.domain.predicates.declarations import filter_of_tree
from eventsync.domain.predicates.definitions import Definition
from eventsync.domain.predicates.parsing import parse_all
from eventsync.domain.predicates.predicate import Predicate, compile_filter
from eventsync.domain.predicates.routed_shape import is_shape_name
from eventsync.domain.values.extended_json import parse_json, to_json
from eventsync.errors import InvalidPredicate, Malformed

TABLES: Final = ("auth", "roles", "collections")
"""The tables of a rules file that are read here."""

EVERY: Final = "*"
"""Stands for every collection that has no table of the role."""

MAX_ROLES: Final = 64
MAX_COLLECTIONS: Final = 1_000

_RULES: Final = ("read", "create", "update", "after", "delete")
_FIELDS: Final = (*_RULES, "hide", "fields", "fixed")


@dataclass(frozen=True, slots=True)
class RoleRules:
    """The rules of one role for one collection. `tree` is what they were made of."""

    role: str
    read: bool | RoutedRule
    redaction: Redaction
    writes: WriteRules
    tree: Mapping[str, Any]

    @property
    def definitions(self) -> Iterable[Definition]:
        """The definitions that the read rule is made of."""
        return () if isinstance(self.read, bool) else (definition for definition, _ in self.read.templates)


class CollectionRules:
    """The rules of all roles for one collection, those for every collection among them."""

    __slots__ = ("_claims", "_spec", "collection", "roles")

    def __init__(self, collection: str, roles: Mapping[str, RoleRules]) -> None:
        self.collection = collection
        self.roles = roles
        self._spec: str | None = None
        self._claims = frozenset(claim for rules in roles.values() for claim in claims_in(rules.tree))

    @property
    def spec(self) -> str:
        """A text from which a helper process makes these rules again."""
        if self._spec is None:
            self._spec = to_json({name: rules.tree for name, rules in self.roles.items()}).decode()
        return self._spec

    def of(self, roles: Iterable[str]) -> list[RoleRules]:
        """Return the rules of these roles, by name."""
        return [self.roles[name] for name in sorted(roles) if name in self.roles]

    def grant(self, roles: Iterable[str], claims: Claims) -> ReadGrant | None:
        """Return what these roles and claims allow to read, or None for nothing.

        What one role shows of the whole collection makes roles that show less of it superfluous. Of the others, each
        hides what it hides for all of them.
        """
        readable = [(rules, parts) for rules in self.of(roles) if (parts := _parts(rules, claims)) != ()]
        whole = [rules for rules, parts in readable if parts is None]
        kept = [(rules, parts) for rules, parts in readable if not any(_outdoes(other, rules) for other in whole)]
        if not kept:
            return None
        redaction = Redaction.union(rules.redaction for rules, _ in kept)
        found = None if whole else [part for _, parts in kept for part in parts or ()]
        return ReadGrant.of(self.collection, found, redaction or None)

    def guard(self, roles: Iterable[str], claims: Claims) -> WriteGuard:
        """Return what these roles and claims allow to write."""
        names = tuple(sorted(roles))
        # Of the claims, a helper process gets those that the rules name: others may nest deeper than can be sent.
        sent = usable(claims, self._claims)
        remake: tuple[Callable[..., WriteGuard], Any] = (_guard, (self.collection, self.spec, names, sent))
        return WriteGuard(self.grant(names, claims), [each.writes for each in self.of(names)], claims, remake)


def _parts(rules: RoleRules, claims: Claims) -> Sequence[Any] | None:
    """Return what a read rule allows: None for everything, nothing for what its claims don't allow."""
    if isinstance(rules.read, bool):
        return None if rules.read else ()
    try:
        return rules.read.parts(claims)
    except UnusableClaim:
        return ()


def _outdoes(whole: RoleRules, rules: RoleRules) -> bool:
    """Return True if a role that reads everything hides less than another, or the same and is the first of the two."""
    if whole is rules or not whole.redaction.is_within(rules.redaction):
        return False
    return rules.read is not True or not rules.redaction.is_within(whole.redaction) or whole.role < rules.role


def _guard(collection: str, spec: str, roles: tuple[str, ...], claims: Claims) -> WriteGuard:
    return _compiled(collection, spec).guard(roles, claims)


@lru_cache(maxsize=64)
def _compiled(collection: str, spec: str) -> CollectionRules:
    found = _Reader()
    tables: Any = parse_json(spec.encode())
    return CollectionRules(collection, {role: found.table(collection, role, table) for role, table in tables.items()})


@dataclass(slots=True)
class AccessRules:
    """The rules that are in force. `spec` is a text from which `read_spec` makes them again."""

    auth: AuthSettings
    roles: Mapping[str, bool | Predicate]
    tables: Mapping[str, Mapping[str, RoleRules]]
    """The rules of each role for each collection, and for `*`."""
    spec: str
    definitions: Mapping[str, Definition] = field(init=False)
    """The definitions that the read rules are made of, by name."""
    _of: dict[str, CollectionRules] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        found = (each for table in self.tables.values() for rules in table.values() for each in rules.definitions)
        self.definitions = {definition.name: definition for definition in found}
        every = self.tables.get(EVERY, {})
        for collection, table in self.tables.items():
            self._of[collection] = CollectionRules(collection, {**every, **table})

    @property
    def role_names(self) -> frozenset[str]:
        """The names of all roles that mean something here."""
        return frozenset({OPERATOR, *self.roles, *(role for table in self.tables.values() for role in table)})

    @classmethod
    def of_nothing(cls) -> AccessRules:
        """Return rules that authenticate nobody by a token, and allow nothing."""
        return cls(AuthSettings(), {}, {}, "")

    def of(self, collection: str) -> CollectionRules:
        """Return the rules for a collection."""
        known = self._of.get(collection)
        # Collections without rules of their own are not kept: clients may name any number of them.
        return known if known is not None else CollectionRules(collection, self.tables.get(EVERY, {}))

    def share(self, others: AccessRules) -> None:
        """Take the rules for a collection from `others` where they say the same: what was made of those stays good."""
        for name, rules in self._of.items():
            known = others._of.get(name)
            # By their texts, because Python takes 1 and true for the same.
            if known is not None and known.spec == rules.spec:
                self._of[name] = known

    def shares(self, others: AccessRules, collection: str) -> bool:
        """Return True if the rules for a collection are those that `others` have, and not only equal ones."""
        rules = self._of.get(collection)
        return rules is not None and rules is others._of.get(collection)

    def roles_of(self, principal: Principal) -> frozenset[str]:
        """Return the roles of a principal: those given directly, and those whose predicate its claims match."""
        claims = nested(principal.claims)
        found = (name for name, rule in self.roles.items() if rule is True or (rule and rule.matches(claims)))
        return principal.roles.union(found)

    def grant(self, principal: Principal, collection: str) -> ReadGrant | None:
        """Return what a principal may read of a collection, or None for nothing."""
        return self.of(collection).grant(self.roles_of(principal), principal.rule_claims)

    def guard(self, principal: Principal, collection: str) -> WriteGuard:
        """Return what a principal may write of a collection."""
        return self.of(collection).guard(self.roles_of(principal), principal.rule_claims)


# --- reading ------------------------------------------------------------------------------------------------------


def read_access(tree: Mapping[str, Any]) -> tuple[AccessRules | None, list[InvalidPredicate]]:
    """Read the tables `[auth]`, `[roles]` and `[collections]` of a rules file, parsed from TOML. Never raises.

    Return also all that is wrong. The rules are None without `[auth]`, and if there is a problem.
    """
    if "auth" not in tree:
        reason = "needs [auth]: without it nobody is authenticated, and everything is allowed"
        return None, [InvalidPredicate(name, reason) for name in TABLES if name in tree]
    reader = _Reader()
    auth, problems = read_auth(tree["auth"])
    reader.problems += [problem.within("auth") for problem in problems]
    roles = reader.roles(tree.get("roles", {}))
    tables = reader.collections(tree.get("collections", {}))
    if reader.problems:
        return None, reader.problems
    spec = {
        "auth": tree["auth"],
        "roles": reader.role_trees,
        "collections": {
            collection: {role: rules.tree for role, rules in table.items()} for collection, table in tables.items()
        },
    }
    return AccessRules(auth, roles, tables, to_json(spec).decode()), []


def read_spec(spec: str) -> AccessRules:
    """Return the rules of a spec. Raises `InvalidPredicate` or `Malformed` for one that this version can't read."""
    tree = parse_json(spec.encode())
    if not isinstance(tree, dict) or tree.keys() != set(TABLES):
        raise Malformed("rules have auth, roles and collections")
    rules, problems = read_access(tree)
    if rules is None:
        raise problems[0]
    return rules


class _Reader:
    """Reads tables, and collects all that is wrong in them."""

    def __init__(self) -> None:
        self.problems: list[InvalidPredicate] = []
        self.role_trees: dict[str, Any] = {}

    def _refuse(self, place: str, reason: str) -> None:
        self.problems.append(InvalidPredicate(place, reason))

    def roles(self, tree: Any) -> dict[str, bool | Predicate]:
        if not isinstance(tree, Mapping) or len(tree) > MAX_ROLES:
            self._refuse(
                "roles", f"is a table of at most {MAX_ROLES} roles: NAME = true, or a predicate over the claims"
            )
            return {}
        found: dict[str, bool | Predicate] = {}
        for name, rule in tree.items():
            place = f"roles.{name}"
            if not is_shape_name(name):
                self._refuse(place, "a name has up to 64 of A-Z a-z 0-9 _ . - and begins with a letter or _")
            elif isinstance(rule, bool):
                found[name] = self.role_trees[name] = rule
            elif (where := self._filter(rule, place)) is not None:
                self._role(name, where, place, found)
        return found

    def _role(self, name: str, where: dict[str, Any], place: str, found: dict[str, bool | Predicate]) -> None:
        _, problems = parse_all(where, ())
        self.problems += [problem.within(place) for problem in problems]
        if not problems:
            found[name] = compile_filter(bound(where, {}))
            self.role_trees[name] = where

    def collections(self, tree: Any) -> dict[str, dict[str, RoleRules]]:
        if not isinstance(tree, Mapping) or len(tree) > MAX_COLLECTIONS:
            self._refuse("collections", f"is a table of at most {MAX_COLLECTIONS}: [collections.NAME.ROLE]")
            return {}
        return {str(name): self._collection(name, table) for name, table in tree.items()}

    def _collection(self, name: Any, tree: Any) -> dict[str, RoleRules]:
        place = f"collections.{name}"
        try:
            _ = name if name == EVERY else check_collection(name)
        except Malformed as error:
            self._refuse(place, error.message)
        if not isinstance(tree, Mapping) or len(tree) > MAX_ROLES:
            self._refuse(place, f"is a table of at most {MAX_ROLES} roles: [collections.NAME.ROLE]")
            return {}
        found = {}
        for role, table in tree.items():
            if not is_shape_name(role):
                self._refuse(f"{place}.{role}", "is no name of a role")
            elif not isinstance(table, Mapping):
                self._refuse(f"{place}.{role}", f"is a table with {', '.join(_FIELDS)}")
            elif name == EVERY and not all(isinstance(item, bool) for item in table.values()):
                self._refuse(f"{place}.{role}", "has only true and false: fields and values differ between collections")
            else:
                found[role] = self.table(str(name), role, table, f"{place}.{role}")
        return found

    def table(self, collection: str, role: str, table: Mapping[str, Any], place: str = "") -> RoleRules:
        """Return the rules of one role for one collection."""
        for name in table.keys() - set(_FIELDS):
            self._refuse(f"{place}.{name}", f"is unknown; there are {', '.join(_FIELDS)}")
        rules = {name: self._rule(table[name], f"{place}.{name}") for name in _RULES if name in table}
        hide, fixed = self._paths(table, "hide", place), self._paths(table, "fixed", place)
        fields = self._names(table, place)
        if "after" in rules and "update" not in rules:
            self._refuse(f"{place}.after", "is for the document after an update, and there is no update")
        redaction = Redaction(hide, fields)
        read = self._read(collection, rules.get("read", False), f"{place}.read")
        for name in rules.keys() - {"read"}:
            self._checked(rules[name], f"{place}.{name}")
        writes = WriteRules(
            role,
            rules.get("create", False),
            rules.get("update", False),
            rules.get("after"),
            rules.get("delete", False),
            redaction,
            Paths(fixed),
        )
        listed = {name: table[name] for name in ("hide", "fields", "fixed") if name in table}
        return RoleRules(role, read, redaction, writes, rules | listed)

    def _rule(self, tree: Any, place: str) -> Rule:
        """Return a rule, False for one with a problem."""
        if isinstance(tree, bool):
            return tree
        return self._filter(tree, place) or False

    def _filter(self, tree: Any, place: str) -> dict[str, Any] | None:
        if not isinstance(tree, Mapping):
            self._refuse(place, "is true, false or a filter")
            return None
        try:
            where = filter_of_tree(tree)
        except InvalidPredicate as problem:
            self.problems.append(problem.within(place))
            return None
        if not isinstance(where, dict):
            self._refuse(place, "is true, false or a filter")
            return None
        if not where:
            self._refuse(place, "is an empty filter; everything is true")
            return None
        return where

    def _read(self, collection: str, rule: Rule, place: str) -> bool | RoutedRule:
        if isinstance(rule, bool):
            return rule
        found, problems = routed(collection, rule)
        self.problems += [problem.within(place) for problem in problems]
        return found if found is not None else False

    def _checked(self, rule: Rule, place: str) -> None:
        if isinstance(rule, bool):
            return
        try:
            _, problems = parse_all(sampled(rule))
        except InvalidPredicate as problem:
            problems = [problem]
        self.problems += [problem.within(place) for problem in problems]

    def _paths(self, table: Mapping[str, Any], name: str, place: str) -> Iterator[tuple[str, ...]]:
        return iter(list(self._checked_paths(table.get(name, []), f"{place}.{name}")))

    def _checked_paths(self, paths: Any, place: str) -> Iterator[tuple[str, ...]]:
        if not isinstance(paths, list) or len(paths) > MAX_PATHS:
            self._refuse(place, f"is a list of at most {MAX_PATHS} paths")
            return
        for number, path in enumerate(paths):
            try:
                yield check_redacted(path, f"{place}[{number}]")
            except InvalidPredicate as problem:
                self.problems.append(problem)

    def _names(self, table: Mapping[str, Any], place: str) -> frozenset[str] | None:
        names = table.get("fields")
        if names is None:
            return None
        if not isinstance(names, list) or len(names) > MAX_PATHS:
            self._refuse(f"{place}.fields", f"is a list of at most {MAX_PATHS} names of top-level fields")
            return frozenset()
        found = set()
        for number, name in enumerate(names):
            if not isinstance(name, str) or not name or "." in name or "\0" in name or name.startswith(("$", "_sync")):
                self._refuse(f"{place}.fields[{number}]", "is the name of a top-level field, without dots")
            else:
                found.add(name)
        return frozenset(found)
