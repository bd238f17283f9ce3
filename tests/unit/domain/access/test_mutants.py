"""Mutants of the access rules: the cases must say of each that it is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from eventsync.domain.access import rules
from eventsync.domain.access.principal import Principal
from eventsync.errors import EventsyncError
from support.mutated import Copies

COPIES = Copies("eventsync.domain.access", ("redaction", "claims", "grants", "guards", "rules"))

RULES = """
[auth]
[roles]
user = { sub = { "$exists" = true } }
clerk = { clerk = true }
auditor = { audit = true }
root = { root = true }
guest = { guest = true }
[collections.c.user]
read."$or" = [
    { owner = "$claims.sub" },
    { readers = "$claims.sub" },
    { public = true, team = { "$in" = "$claims.teams" } },
]
create = { owner = "$claims.sub" }
update = { owner = "$claims.sub", state = { "$ne" = "closed" } }
delete = { owner = { "$nin" = ["$claims.rival", "x"] }, state = "new" }
hide = ["margin", "lines.cost", "m.*.x"]
fixed = ["owner", "lines.sku"]
[collections.c.clerk]
read = { shop = "$claims.shop" }
update = { shop = "$claims.shop" }
hide = ["note"]
[collections.c.auditor]
read = true
hide = ["note"]
[collections.c.root]
read = true
[collections."*".clerk]
read = true
[collections.d.user]
read = { a = { "$in" = "$claims.teams" } }
fields = ["a", "b"]
update = true
after = { a = { "$gt" = "$claims.least" } }
delete = { c = { "$in" = "$claims.kinds" } }
[collections.d.guest]
read = { zone = "$claims.zone" }
hide = ["b"]
"""

ADA: dict[str, Any] = {"sub": "ada", "teams": ["x", "y"], "rival": "eve", "least": 5}
CLERK = ADA | {"clerk": True, "shop": 1}

Case = tuple[dict[str, Any], str, str, dict[str, Any], Any]

_OWN = {"_id": 1, "owner": "ada", "state": "new", "margin": 5, "lines": [{"sku": "s", "cost": 1, "n": 1}]}

CASES: list[Case] = [
    # claims, action, collection, document, what comes of it (for "edit": the fields to set, and the outcome)
    (ADA, "read", "c", _OWN, {"_id": 1, "owner": "ada", "state": "new", "lines": [{"sku": "s", "n": 1}]}),
    (ADA, "read", "c", {"owner": "eve"}, None),
    (ADA, "read", "c", {"readers": ["ada"]}, {"readers": ["ada"]}),
    (ADA, "read", "c", {"public": True, "team": "y"}, {"public": True, "team": "y"}),
    (ADA, "read", "c", {"public": True, "team": "z"}, None),
    (ADA, "read", "c", {"public": False, "team": "y"}, None),
    (ADA | {"teams": []}, "read", "c", {"owner": "ada"}, {"owner": "ada"}),
    (ADA | {"teams": []}, "read", "c", {"public": True}, None),
    (ADA | {"teams": None}, "read", "c", {"owner": "ada"}, None),
    (ADA | {"teams": [None]}, "read", "c", {"public": True}, None),
    (ADA | {"teams": {"$gt": ""}}, "read", "c", {"owner": "ada"}, None),
    (ADA | {"teams": "x"}, "read", "c", {"public": True, "team": "x"}, {"public": True, "team": "x"}),
    ({"sub": "ada"}, "read", "c", {"owner": "ada"}, None),
    ({}, "read", "c", {"public": True}, None),
    (ADA, "read", "c", {"owner": "ada", "m": {"k": {"x": 1, "y": 2}}}, {"owner": "ada", "m": {"k": {"y": 2}}}),
    (ADA, "read", "c", {"owner": "ada", "lines": [[{"cost": 1}]]}, {"owner": "ada", "lines": [[{}]]}),
    (ADA, "read", "d", {"_id": 1, "a": "x", "b": 2, "c": 3}, {"_id": 1, "a": "x", "b": 2}),
    (ADA | {"guest": True, "zone": 1}, "read", "d", {"_id": 1, "a": "x", "b": 2, "c": 3}, {"_id": 1, "a": "x"}),
    (ADA, "read", "e", {"a": 1}, None),
    (ADA | {"teams": {"a": 1}}, "read", "c", {"owner": "ada"}, None),
    # several roles
    (CLERK, "read", "d", {"a": "z", "c": 1}, {"a": "z", "c": 1}),
    (CLERK, "read", "c", {"shop": 1, "note": 1, "margin": 2, "z": 3}, {"shop": 1, "z": 3}),
    (CLERK, "read", "c", {"owner": "ada", "note": 1, "margin": 2}, {"owner": "ada"}),
    (CLERK, "read", "e", {"a": 1}, {"a": 1}),
    (ADA | {"audit": True}, "read", "c", {"shop": 2, "note": 1, "margin": 3}, {"shop": 2}),
    (CLERK | {"audit": True, "sub": None, "shop": 9}, "read", "c", {"note": 1, "margin": 3}, {"margin": 3}),
    # writes
    (ADA, "create", "c", {"owner": "ada"}, "done"),
    (ADA, "create", "c", {"owner": "eve"}, "rule"),
    (ADA, "create", "c", {"owner": "ada", "margin": 1}, "hidden"),
    (ADA, "create", "c", {"owner": "ada", "lines": [{"cost": 1}]}, "hidden"),
    (ADA, "delete", "c", {"owner": "ada", "state": "new"}, "done"),
    (ADA, "delete", "c", {"owner": "ada", "state": "old"}, "rule"),
    (ADA, "delete", "c", {"owner": "eve", "readers": "ada", "state": "new"}, "rule"),
    (ADA, "delete", "c", {"owner": "eve", "state": "new"}, "not_found"),
    (ADA | {"rival": None}, "delete", "c", {"owner": "ada", "state": "new"}, "rule"),
    (ADA | {"rival": {"$gt": ""}}, "delete", "c", {"owner": "ada", "state": "new"}, "rule"),
    (CLERK, "delete", "c", {"owner": "eve", "shop": 1, "state": "new"}, "rule"),
    (ADA | {"kinds": [1]}, "delete", "d", {"a": "x", "c": 1}, "done"),
    (ADA | {"kinds": [{"k": 1}]}, "delete", "d", {"a": "x", "c": {"k": 1}}, "rule"),
    (ADA | {"kinds": [None, 1]}, "delete", "d", {"a": "x"}, "rule"),
    (ADA, "edit", "c", _OWN, ({"state": "old"}, {**_OWN, "state": "old"})),
    (ADA, "edit", "c", _OWN, ({"state": "closed"}, "rule")),
    (ADA, "edit", "c", _OWN | {"state": "closed"}, ({"state": "new"}, "rule")),
    (ADA, "edit", "c", _OWN, ({"owner": "eve"}, "rule")),
    (ADA, "edit", "c", _OWN | {"owner": ["ada", "eve"]}, ({"owner": ["ada"]}, "fixed")),
    (ADA, "edit", "c", _OWN, ({"margin": 5}, "hidden")),
    (ADA, "edit", "c", _OWN, ({"lines": []}, "hidden")),
    (ADA, "edit", "c", _OWN, ({"lines": [{"sku": "s", "n": 2}]}, {**_OWN, "lines": [{"sku": "s", "cost": 1, "n": 2}]})),
    (ADA, "edit", "c", _OWN, ({"lines": [{"sku": "t", "n": 1}]}, "fixed")),
    (ADA, "edit", "c", _OWN, ({"lines": [{"sku": "s", "n": 1}, {"n": 3}]},
                              {**_OWN, "lines": [{"sku": "s", "cost": 1, "n": 1}, {"n": 3}]})),
    (ADA, "edit", "c", {"owner": "eve"}, ({"a": 1}, "not_found")),
    (ADA, "edit", "d", {"a": ["x", 9], "c": 1}, ({"b": 1}, {"a": ["x", 9], "c": 1, "b": 1})),
    (ADA, "edit", "d", {"a": ["x", 9]}, ({"a": ["x", 4]}, "rule")),
    (ADA, "edit", "d", {"a": ["x", 4]}, ({"a": ["x", 9]}, {"a": ["x", 9]})),
    (ADA, "edit", "d", {"a": ["x", 9], "c": 1}, ({"c": 2}, "hidden")),
    (CLERK, "edit", "c", {"owner": "ada", "shop": 2, "note": 1}, ({"note": 2}, "hidden")),
    (CLERK, "edit", "c", {"owner": "eve", "shop": 1, "lines": []}, ({"owner": "bob"},
                                                                   {"owner": "bob", "shop": 1, "lines": []})),
    (ADA | {"root": True}, "edit", "c", {"owner": "ada", "margin": 1}, ({"margin": 2}, "hidden")),
    (ADA | {"root": True}, "read", "c", {"margin": 1, "note": 2}, {"margin": 1, "note": 2}),
    (CLERK | {"audit": True, "sub": None}, "edit", "c", {"shop": 1, "note": 1, "margin": 1},
     ({"margin": 2}, {"shop": 1, "note": 1, "margin": 2})),
]  # fmt: skip

MUTANTS: list[tuple[str, str, str]] = [
    # module, what stands there, what the mutant has
    ("guards", "not self._holds(role.update, change.before) or ", ""),
    ("guards", " or not self._holds(afterwards, change.after)", ""),
    ("guards", "afterwards = role.update if role.after is None else role.after", "afterwards = role.update"),
    ("guards", "grant = self._readable(before)\n        seen = ", "grant = self._grant\n        seen = "),
    ("guards", "        self._readable(before)\n        self._require", "        self._require"),
    ("guards", "if self.touches(redaction):\n                raise", "if False:\n                raise"),
    ("guards", "if role.redaction and change.touches(role.redaction):", "if False:"),
    ("guards", "if role.fixed.names and diff(", "if False and diff("),
    ("guards", "seen = grant.show(before)", "seen = before"),
    ("guards", "return BY_HIDDEN if any(role", "return None if any(role"),
    ("guards", "        return lambda _: False\n", "        return lambda _: True\n"),
    (
        "guards",
        "self.after, self._steps = _applied(before, diff(seen, seen_after))",
        "self.after, self._steps = seen_after, []",
    ),
    ("claims", 'raise UnusableClaim(path, "is missing")', 'return ""'),
    ("claims", "_SCALARS: Final = (str, bool, int, float)", "_SCALARS: Final = (str, bool, int, float, type(None))"),
    ("claims", "if not isinstance(value, _SCALARS) or value != value:", "if isinstance(value, dict):"),
    ("claims", "if not isinstance(value, _SCALARS) or value != value:", "if value is None:"),
    ("claims", 'return replaced if replaced is value else {"$eq": replaced}', "return value"),
    ("claims", "return [_scalar(item, path) for item in found]", "return found"),
    ("grants", "any(part.admits(document) for part", "all(part.admits(document) for part"),
    ("grants", "any(part.admits(document) for part in self.parts)", "self.parts[0].admits(document)"),
    ("grants", "return self.everything or any(", "return bool(self.parts) or any("),
    ("grants", "found = [before + after for before in found for", "found = [after for before in found for"),
    ("grants", "groups.setdefault(frozenset(names.items()), [])", "groups.setdefault(frozenset(), [])"),
    ("rules", "redaction = Redaction.union(rules.redaction for rules, _ in kept)", "redaction = kept[0][0].redaction"),
    ("rules", "redaction = Redaction.union(rules.redaction for rules, _ in kept)", "redaction = kept[-1][0].redaction"),
    ("rules", "ReadGrant.of(self.collection, found, redaction or None)", "ReadGrant.of(self.collection, found)"),
    ("rules", "found = None if whole else", "found = None if False else"),
    ("rules", "except UnusableClaim:\n        return ()", "except UnusableClaim:\n        return None"),
    ("rules", "if whole is rules or not whole.redaction.is_within(rules.redaction):", "if whole is rules:"),
    ("rules", 'rules.get("delete", False)', 'rules.get("delete", True)'),
    ("rules", "CollectionRules(collection, {**every, **table})", "CollectionRules(collection, table or every)"),
    ("redaction", "return _HIDDEN\n        if is_index(name):\n            found |= self._rests", "return _HIDDEN"),
    ("redaction", "if rest[0] in (name, ANY)}\n        if () in found", "if rest[0] == name}\n        if () in found"),
    ("redaction", "elif isinstance(state, _State):\n                shown", "else:\n                shown"),
    ("redaction", "return next(iter(found)) if len(found) == 1 else _united(found)", "return next(iter(found))"),
    ("redaction", "named = [each.fields for each in redactions if each.fields is not None]", "named = []"),
    ("redaction", 'if operation["op"] != "add" and _is_container(old):', "if False:"),
]  # fmt: skip


def faults(module: Any) -> Iterator[tuple[Case, Any]]:
    """The cases that come out otherwise, with their outcomes."""
    compiled, problems = module.read_access(tomllib.loads(RULES))
    assert compiled is not None, problems
    for case in CASES:
        claims, action, collection, document, wanted = case
        principal = Principal("nobody" if claims else "", claims or {"sub": None})
        fields, expected = wanted if action == "edit" else (None, wanted)
        outcome = _outcome(compiled, principal, action, collection, document, fields)
        if outcome != expected:
            yield case, outcome


def _outcome(compiled: Any, principal: Principal, action: str, collection: str, document: Any, fields: Any) -> Any:
    guard = compiled.guard(principal, collection)
    try:
        if action == "read":
            grant = compiled.grant(principal, collection)
            shown = grant.show(document) if grant is not None and grant.allows(document) else None
            return shown if shown == guard.shown(document) else "the guard shows something else"
        if action == "edit":
            return guard.edit(document, lambda seen: {**seen, **fields})
        getattr(guard, action)(document)
    except EventsyncError as error:
        return getattr(error, "reason", "") or error.code
    return "done"


def test_the_cases_find_no_fault_in_the_rules() -> None:
    assert list(faults(rules)) == []


def test_the_cases_find_no_fault_in_a_copy() -> None:
    with COPIES.changed("rules", "A role is a predicate over the claims", "A role") as modules:
        assert list(faults(modules["rules"])) == []


@pytest.mark.parametrize(("module", "old", "new"), MUTANTS)
def test_the_cases_find_each_mutant(module: str, old: str, new: str) -> None:
    with COPIES.changed(module, old, new) as modules:
        assert _is_wrong(modules["rules"])


def _is_wrong(module: ModuleType) -> bool:
    try:
        return next(faults(module), None) is not None
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, EventsyncError):
        # A mutant may as well fail.
        return True
