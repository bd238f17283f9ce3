"""Claims in rules: `"$claims.sub"` stands for a value of the principal, and never for an operator.

A claim that is missing, null, or no scalar where one is needed is *unusable*. It makes the whole rule false, wherever
it stands: also under `$ne`, `$nin`, `$not` and `$nor`, and in one of several branches of an `$or`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from eventsync.domain.predicates.parsing import (
    LITERAL,
    LOGICAL,
    MAX_LIST,
    checked_value,
    is_literal,
    is_operators,
)
from eventsync.errors import InvalidPredicate

_CLAIM: Final = re.compile(r"\$claims\.([^$\x00-\x1f]{1,256})")
_EMPTY_NAME: Final = re.compile(r"^\.|\.\.|\.$")
_LISTS: Final = frozenset({"$in", "$nin", "$all"})
_SCALARS: Final = (str, bool, int, float)
_MISSING: Final = object()

SAMPLE: Final = "a"
"""A value for all claims, to check a rule before there is a principal."""


class UnusableClaim(Exception):
    """A claim is missing, or is no value that a rule can use. `path` names it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"the claim {path} {reason}")
        self.path = path


def claim_of(value: Any) -> str | None:
    """Return the path of the claim that a value in a rule stands for, or None."""
    named = _CLAIM.fullmatch(value) if isinstance(value, str) else None
    return named[1] if named else None


def is_misspelt(path: str) -> bool:
    """Return True for the path of a claim with an empty name in it, which no claim has: a rule would be false."""
    return _EMPTY_NAME.search(path) is not None


def look_up(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim. `a.b` is the claim of that name, or else `b` in the object `a`. Raises `UnusableClaim`."""
    found = _found(claims, path)
    if found is _MISSING:
        raise UnusableClaim(path, "is missing")
    return found


def _found(claims: Mapping[str, Any], path: str) -> Any:
    if path in claims:
        return claims[path]
    # Names may have dots: those of identity providers are URLs.
    names = path.split(".")
    for count in range(1, len(names)):
        inner = claims.get(".".join(names[:count]))
        if isinstance(inner, Mapping) and (found := _found(inner, ".".join(names[count:]))) is not _MISSING:
            return found
    return _MISSING


def scalar_of(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim that is one value. Raises `UnusableClaim`."""
    return _scalar(look_up(claims, path), path)


def list_of(claims: Mapping[str, Any], path: str) -> list[Any]:
    """Return a claim that is a list of values, or one value as a list. Raises `UnusableClaim`."""
    found = look_up(claims, path)
    if not isinstance(found, list):
        return [_scalar(found, path)]
    if len(found) > MAX_LIST:
        raise UnusableClaim(path, f"has more than {MAX_LIST} items")
    return [_scalar(item, path) for item in found]


def _scalar(value: Any, path: str) -> Any:
    # Null would equal a field that is not there.
    if not isinstance(value, _SCALARS) or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        raise UnusableClaim(path, "is null" if value is None else "is no text, number or boolean")
    try:
        return checked_value(value, "")
    except InvalidPredicate as error:
        raise UnusableClaim(path, f"can't be compared: {error.reason}") from error


def usable(claims: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return those of some claims that a rule can use, by their paths."""
    found = {}
    for path in paths:
        with suppress(UnusableClaim):
            list_of(claims, path)
            found[path] = look_up(claims, path)
    return found


def nested(claims: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the claims as a document for predicates: those with dots in their names also as objects in objects."""
    if not any("." in name for name in claims):
        return claims
    document = dict(claims)
    for name, value in claims.items():
        *way, last = name.split(".")
        container = document
        for part in way:
            inner = container.get(part, {})
            if not isinstance(inner, Mapping):
                break
            container[part] = container = dict(inner)
        else:
            if way:
                container.setdefault(last, value)
    return document


# --- filters with claims ------------------------------------------------------------------------------------------


def has_claims(tree: Any) -> bool:
    """Return True if there is a claim anywhere in a filter."""
    return next(claims_in(tree), None) is not None


def claims_in(tree: Any) -> Iterator[str]:
    """Yield the paths of the claims in a filter."""
    if is_literal(tree):
        return
    if isinstance(tree, Mapping):
        for item in tree.values():
            yield from claims_in(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from claims_in(item)
    elif (path := claim_of(tree)) is not None:
        yield path


def bound(where: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule's filter with the values of its claims. Raises `UnusableClaim`."""
    found: dict[str, Any] = _Binding(lambda path: scalar_of(claims, path), lambda path: list_of(claims, path)).filter(
        where
    )
    return found


def sampled(where: Mapping[str, Any]) -> dict[str, Any]:
    """Return a rule's filter with a sample for each claim. Raises `InvalidPredicate` for text that looks like one."""
    found: dict[str, Any] = _Binding(lambda _: SAMPLE, lambda _: [SAMPLE], strict=True).filter(where)
    return found


class _Binding:
    """Replaces claims by values, in a filter that was not parsed yet, and `$literal` by its text."""

    def __init__(
        self, scalar: Callable[[str], Any], listed: Callable[[str], list[Any]], *, strict: bool = False
    ) -> None:
        self._scalar = scalar
        self._listed = listed
        self._strict = strict

    def filter(self, where: Any, place: str = "", negated: bool = False) -> Any:
        if not isinstance(where, Mapping):
            return where
        return {
            name: self._condition(name, value, f"{place}.{name}" if place else str(name), negated)
            for name, value in where.items()
        }

    def _condition(self, name: Any, value: Any, place: str, negated: bool) -> Any:
        if name in LOGICAL:
            if not isinstance(value, list):
                return value
            return [self.filter(part, f"{place}[{n}]", negated or name == "$nor") for n, part in enumerate(value)]
        if is_operators(value):
            return self._operators(value, place, negated)
        # A claim is a value, also where it would read as an operator.
        replaced = self._value(value, place)
        return replaced if replaced is value else {"$eq": replaced}

    def _operators(self, tree: Mapping[str, Any], place: str, negated: bool) -> dict[str, Any]:
        return {name: self._argument(name, value, f"{place}.{name}", negated) for name, value in tree.items()}

    def _argument(self, operator: str, value: Any, place: str, negated: bool) -> Any:
        if operator == "$not":
            return self._operators(value, place, True) if is_operators(value) else value
        if operator == "$elemMatch":
            if is_operators(value) and next(iter(value)) not in LOGICAL:
                return self._operators(value, place, negated)
            return self.filter(value, place, negated)
        if operator in _LISTS and (path := claim_of(value)) is not None:
            items = self._listed(self._checked(path, place))
            if not items and (negated or operator == "$nin"):
                raise UnusableClaim(path, "is an empty list, of which nothing can be excluded")
            return items
        if operator in _LISTS and isinstance(value, list):
            return [
                self._operators(item, f"{place}[{n}]", negated)
                if is_operators(item)
                else self._value(item, f"{place}[{n}]")
                for n, item in enumerate(value)
            ]
        return self._value(value, place)

    def _checked(self, path: str, place: str) -> str:
        if self._strict and is_misspelt(path):
            raise InvalidPredicate(place, f"the claim {path!r} has an empty name before, after or between its dots")
        return path

    def _value(self, value: Any, place: str) -> Any:
        if is_literal(value):
            return value[LITERAL]
        if isinstance(value, Mapping):
            replaced = {name: self._value(item, f"{place}.{name}") for name, item in value.items()}
            return value if all(replaced[name] is value[name] for name in replaced) else replaced
        if isinstance(value, list):
            items = [self._value(item, f"{place}[{n}]") for n, item in enumerate(value)]
            return value if all(map(lambda one, other: one is other, items, value)) else items
        if (path := claim_of(value)) is not None:
            return self._scalar(self._checked(path, place))
        if self._strict and isinstance(value, str) and value.startswith("$"):
            raise InvalidPredicate(
                place, f"{value[:80]} is no claim, as $claims.sub is; the text is {{{LITERAL!r}: …}}"
            )
        return value
