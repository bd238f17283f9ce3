"""Mutants of the evaluator: the tables must say of each that it is wrong."""

from __future__ import annotations

from types import ModuleType

import pytest
from unit.domain.predicates.tables import faults

from eventsync.domain.predicates import definitions, predicate
from eventsync.errors import EventsyncError
from support.mutated import Copies

COPIES = Copies(
    "eventsync.domain.predicates",
    (
        "ordering",
        "nodes",
        "parsing",
        "matching",
        "predicate",
        "routed_shape",
        "parameter_types",
        "keys",
        "definitions",
    ),
)

MUTANTS: list[tuple[str, str, str]] = [
    # module, what stands there, what the mutant has
    ("ordering", "DECIMAL: 10, STRING: 15", "DECIMAL: 11, STRING: 15"),
    ("ordering", "bool: BOOL,", "bool: INT,"),
    ("ordering", "OBJECT: 20,", "OBJECT: 25,"),
    ("ordering", "uuid.UUID: BINARY", "uuid.UUID: OBJECT_ID"),
    ("ordering", "if number == number else (False, 0)", "if number == number else (True, 0)"),
    ("ordering", 'str(value).encode("utf-8", "surrogatepass")', 'str(value).encode("utf-16-be", "surrogatepass")'),
    ("ordering", "found.append((rank, name.encode(", "found.append((0, name.encode("),
    ("ordering", "return tuple(found)", "return tuple(sorted(found))"),
    ("ordering", "return tuple(map(key_of, value))", "return tuple(sorted(map(key_of, value)))"),
    ("ordering", "return len(data), subtype, data", "return len(data), 0, data"),
    ("ordering", "return len(data), subtype, data", "return 0, subtype, data"),
    ("ordering", "return 16, UUID_SUBTYPE, value.bytes", "return 16, 0, value.bytes"),
    ("ordering", "(value.time, value.inc)", "(value.inc, value.time)"),
    ("ordering", "40: bool,", "40: lambda _: True,"),
    ("ordering", "return INT if INT32_MIN <= value", "return LONG if INT32_MIN <= value"),
    ("ordering", "return _datetime_to_millis(value)", "return _datetime_to_millis(value) // 1000"),
    ("parsing", "return leaf(Exists()) if value else Not(leaf(Exists()))", "return leaf(Exists())"),
    ("parsing", 'if name == "$ne":', 'if name == "$eq":'),
    ("parsing", 'return leaf(test) if name == "$in" else Not(leaf(test))', "return leaf(test)"),
    ("parsing", "else Not(AnyOf(parts))", "else Not(All(parts))"),
    ("parsing", 'AnyOf(parts) if name == "$or"', 'All(parts) if name == "$or"'),
    ("parsing", "return All(tuple(parts)) if parts else AnyOf(())", "return All(tuple(parts))"),
    ("parsing", "return All(tuple(parts)) if parts else AnyOf(())", "return AnyOf(tuple(parts))"),
    (
        "parsing",
        "return Not(self._operators(value, place, level + 1, leaf))",
        "return self._operators(value, place, 1, leaf)",
    ),
    ("parsing", "_NUMBERS: Final = frozenset({1, 16, 18, 19})", "_NUMBERS: Final = frozenset({1, 16, 18})"),
    ("parsing", "return leaf(SomeObject(self.filter(", "return leaf(SomeItem(self.filter("),
    ("parsing", "if level > MAX_LEVELS:", "if level >= MAX_LEVELS:"),
    ("parsing", "if level > MAX_LEVELS:", "if level > MAX_LEVELS + 1:"),
    ("parsing", "if self._left == -1:", "if self._left == 0:"),
    ("parsing", "if self._left == -1:", "if self._left == -2:"),
    ("parsing", "if len(value) > MAX_LIST:", "if len(value) >= MAX_LIST:"),
    ("parsing", "if len(value) > MAX_LIST:", "if len(value) > MAX_LIST + 1:"),
    ("parsing", "if len(names) > MAX_PATH:", "if len(names) > MAX_PATH + 1:"),
    ("parsing", 'first.startswith("$") and first != LITERAL', "False and first != LITERAL"),
    (
        "parsing",
        'value.startswith("$")\n    return values[value[1:]] if is_parameter else value',
        "False\n    return value",
    ),
    ("parsing", '    if name == "$in" and (parameter', "    if (parameter"),
    ("matching", "first(value) and second(value)", "first(value) or second(value)"),
    (
        "matching",
        "            if not each(value):\n                return False",
        "            if each(value):\n                return True",
    ),
    ("matching", "lambda value: not check(value)", "lambda value: check(value)"),
    ("matching", "return wanted in value", "return False"),
    ("matching", "return any(map(check, value)) or check(value)", "return any(map(check, value))"),
    ("matching", "return any(map(check, value)) or check(value)", "return check(value)"),
    ("matching", "(isinstance(value, list) and any(map(visit, value))) or end(value)", "end(value)"),
    ("matching", "OfSize | SomeItem | SomeObject)  #", "SomeItem | SomeObject)  #"),
    ("matching", "OfSize | SomeItem | SomeObject)  #", "OfSize)  #"),
    ("matching", "return item(MISSING) if inner is None else", "return None if inner is None else"),
    ("matching", "if number == offset and at_offset(", "if number == offset + 1 and at_offset("),
    ("matching", "if number == offset and at_offset(", "if False and at_offset("),
    (
        "matching",
        "if inner is not None and in_document(inner, end, item):\n                return True",
        "if False:\n                return True",
    ),
    ("matching", "return lambda value, _, item: item(value)", "return lambda value, end, _: end(value)"),
    ("matching", 're.compile(r"0|[1-9][0-9]*"', 're.compile(r"[0-9]+"'),
    (
        "matching",
        "return in_array(value, end, item)\n        inner = as_mapping(value)\n        return inner",
        "pass\n        inner = as_mapping(value)\n        return inner",
    ),
    (
        "matching",
        "return lambda value: value is not MISSING",
        "return lambda value: value is not MISSING and value is not None",
    ),
    ("matching", "return lambda value: value is None or value is MISSING", "return lambda value: value is None"),
    ("matching", "return lambda value: value is None or value is MISSING", "return lambda value: value is MISSING"),
    ("matching", "and len(value) == size", "and len(value) >= size"),
    (
        "matching",
        "{str(n): each for n, each in enumerate(item)} if isinstance(item, list) else",
        "None if isinstance(item, list) else",
    ),
    (
        "matching",
        "return lambda value: type(value) is kind and value == wanted",
        "return lambda value: value == wanted",
    ),
    ("matching", "return not math.isnan(number) and compare(number, wanted)", "return compare(number, wanted)"),
    ("matching", "if key[0] else _is_nan", "if True else _is_nan"),
    ("matching", "plain = not isinstance(wanted, Decimal)", "plain = True\n    wanted = float(wanted)"),
    ("matching", 'if name in {"$gte", "$lte"} else lambda _: False', 'if name == "$gte" else lambda _: False'),
    ("matching", 'if name in {"$gte", "$lte"} else lambda _: False', 'if name in {"$gte", "$lte"} else _equal(wanted)'),
    ("matching", '"$gt": operator.gt', '"$gt": operator.ge'),
    ("matching", '"$lte": operator.le', '"$lte": operator.lt'),
    ("matching", "else rank_of(value) == rank and compare(text_key(value), encoded)", "else False"),
    (
        "matching",
        "return lambda value: rank_of(value) == rank and compare(key_of(value)[1], key)",
        "return lambda value: key_of(value) >= (rank, key)",
    ),
    ("matching", "        keys.add(key_of(MISSING))", "        pass"),
    ("matching", "return (-left if whole < 0 else left) == remainder", "return left == remainder"),
    (
        "matching",
        "if not (math.isfinite(number) and INT64_MIN - 1 < number < INT64_MAX + 1):",
        "if not math.isfinite(number):",
    ),
    ("matching", "return [*value, value]", "return value"),
    ("matching", "return [*value, value]", "return [value]"),
    ("keys", "value_bytes(None if value is MISSING else value)))", "value_bytes(value)))"),
    ("keys", "{value_bytes(None if value is MISSING else value) for", "{value_bytes(value) for"),
    ("keys", "        if residual is not None and not residual(document):", "        if False:"),
    ("keys", "        if self.residual is not None and not self.residual(document):", "        if False:"),
    ("keys", "if residual is None or residual(document):", "if True:"),
    ("keys", "union = union | found if union else found", "union = union or found"),
    ("keys", "elif rank_of(value) in ranks:", "elif False:"),
    ("keys", "len(value) == 1 and not takes_arrays", "len(value) == 1"),
    ("keys", "len(value) == 1 and not takes_arrays", "value and not takes_arrays"),
    ("keys", "if value is None and not takes_null else", "if value is None else"),
    ("keys", "    if not NULLISH.isdisjoint(ranks):\n        return find_all", "    pass"),
    ("keys", "if name in document else NO_KEYS", "if path in document else NO_KEYS"),
    ("keys", "for branch in branches:\n            tokens", "for branch in branches[:1]:\n            tokens"),
    ("keys", "if tuple(map(type, values)) in fast:", "if None not in values:"),
    ("keys", "(kept.get(values) or keep(*values)) if residual is None or residual(document)", "keep(*values) if True"),
    (
        "keys",
        'frozenset((self.key(b"".join(map(value_bytes, values))),))',
        "frozenset((self.key(value_bytes(values[0])),))",
    ),
    ("keys", "str: 15, int: 10, Int64: 10", "str: 15, int: 10, bool: 10, Int64: 10"),
    ("keys", "str: 15, int: 10, Int64: 10", "str: 15, int: 10, bool: 40, Int64: 10"),
    (
        "definitions",
        "found = [before + after for before in found for after in _conjunctions(part)]",
        "found = [before + _conjunctions(part)[0] for before in found]",
    ),
]


def test_the_tables_find_no_fault_in_the_evaluator() -> None:
    assert list(faults(predicate, definitions)) == []


@pytest.mark.parametrize(("module", "old", "new"), MUTANTS)
def test_the_tables_find_each_mutant(module: str, old: str, new: str) -> None:
    with COPIES.changed(module, old, new) as modules:
        assert _is_wrong(modules)


def test_the_tables_find_no_fault_in_a_copy() -> None:
    with COPIES.changed("nodes", "Matches if all parts do", "Matches") as modules:
        assert not _is_wrong(modules)


def _is_wrong(modules: dict[str, ModuleType]) -> bool:
    try:
        return next(faults(modules["predicate"], modules["definitions"]), None) is not None
    except (TypeError, ValueError, ArithmeticError, LookupError, EventsyncError):
        # A mutant may as well fail.
        return True
