"""Guards: a principal's write rights in one collection.

A write is allowed if one role allows all of it: its rule, its fixed fields, and its hidden fields. An edit is applied
to what the principal sees. So what is hidden stays as it is, and decides nothing about the edit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eventsync.domain.access.claims import UnusableClaim, bound
from eventsync.domain.access.grants import Claims, ReadGrant
from eventsync.domain.access.redaction import Paths, Redaction
from eventsync.domain.bson_scan.ambiguous import like
from eventsync.domain.patches.diff import Operation, diff
from eventsync.domain.patches.json_pointer import unescape
from eventsync.domain.predicates.predicate import compile_filter
from eventsync.domain.replay import patched
from eventsync.domain.values.extended_json import Document, copied
from eventsync.errors import Forbidden, InvalidPredicate, NotFound

Rule = bool | Mapping[str, Any]
"""True, False, or a filter with claims."""

Edit = Callable[[Document], Document]
"""Returns the edited document, and leaves its argument as it is."""

BY_RULE: Final = "rule"
BY_HIDDEN: Final = "hidden"
BY_FIXED: Final = "fixed"

_REFUSALS: Final[Mapping[str, str]] = {
    BY_RULE: "no rule allows you to {what} this document",
    BY_HIDDEN: "the write touches a field that is hidden from you",
    BY_FIXED: "the write changes a field that is fixed for you",
}


@dataclass(frozen=True, slots=True)
class WriteRules:
    """The write rules of one role. `after` is None if `update` holds for the document afterwards, too."""

    role: str
    create: Rule
    update: Rule
    after: Rule | None
    delete: Rule
    redaction: Redaction
    fixed: Paths


def bound_rule(rule: Rule, claims: Claims) -> Callable[[Mapping[str, Any]], bool]:
    """Return a rule as a function of a document, for these claims. False if one of them is unusable."""
    if isinstance(rule, bool):
        return lambda _: rule
    try:
        return compile_filter(bound(rule, claims)).matches
    except (UnusableClaim, InvalidPredicate):  # a list of claims can make a filter too large
        return lambda _: False


class WriteGuard:
    """A principal's write rights in one collection.

    `remake` is a function and arguments that make the guard again elsewhere.
    """

    __slots__ = ("_bound", "_claims", "_grant", "_remake", "_roles")

    def __init__(
        self,
        grant: ReadGrant | None,
        roles: Sequence[WriteRules],
        claims: Claims,
        remake: tuple[Callable[..., WriteGuard], tuple[Any, ...]],
    ) -> None:
        self._grant = grant
        self._roles = roles
        self._claims = claims
        self._remake = remake
        self._bound: dict[int, Callable[[Mapping[str, Any]], bool]] = {}
        """The rules that were needed, by their identity, with the values of claims."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Compiled rules can't be sent to a helper process, so it compiles them, once.
        return self._remake

    # --- writes

    def create(self, after: Document) -> None:
        """Check a new document. Raises `Forbidden`."""
        self._require(lambda role: self._refuses_create(role, after), "create")

    def _refuses_create(self, role: WriteRules, after: Document) -> str | None:
        if not self._holds(role.create, after):
            return BY_RULE
        # Refused and not dropped: its author would believe that the field is stored.
        added = diff({}, after) if role.redaction else []
        return BY_HIDDEN if any(role.redaction.is_touched(operation, None) for operation in added) else None

    def edit(self, before: Document, edit: Edit) -> Document:
        """Return the whole document after `edit` has been applied to what the principal sees of `before`.

        Raises `NotFound` for a document that it may not read, `Forbidden`, and what `edit` raises.
        """
        grant = self._readable(before)
        seen = grant.show(before)
        # Not of the whole document: the `test` of a patch would tell a hidden value.
        seen_after = edit(seen)
        change = _Change(before, seen, seen_after, grant.redaction)
        self._require(lambda role: self._refuses_update(role, change), "change")
        return change.after

    def _refuses_update(self, role: WriteRules, change: _Change) -> str | None:
        afterwards = role.update if role.after is None else role.after
        if not self._holds(role.update, change.before) or not self._holds(afterwards, change.after):
            return BY_RULE
        if role.redaction and change.touches(role.redaction):
            return BY_HIDDEN
        if role.fixed.names and diff(role.fixed.only(change.seen), role.fixed.only(change.seen_after)):
            return BY_FIXED
        return None

    def delete(self, before: Document) -> None:
        """Check the deletion of a document. Raises `NotFound` and `Forbidden`."""
        self._readable(before)
        self._require(lambda role: None if self._holds(role.delete, before) else BY_RULE, "delete")

    # --- answers

    def shown(self, document: Document) -> Document | None:
        """Return what the principal sees of a document, or None if it may not read it."""
        return self._grant.show(document) if self._grant is not None and self._grant.allows(document) else None

    def redacted(self, patch: Sequence[Operation]) -> list[Operation]:
        """Return a patch without what is hidden."""
        redaction = self._grant.redaction if self._grant is not None else None
        return list(patch) if redaction is None else redaction.redact(patch)

    def hides(self, path: str) -> bool:
        """Return True if a field, or a part of it, is hidden from the principal."""
        redaction = self._grant.redaction if self._grant is not None else None
        return redaction is not None and redaction.hides(path)

    # ---

    def _readable(self, before: Document) -> ReadGrant:
        if self._grant is None or not self._grant.allows(before):
            raise NotFound("the document does not exist")
        return self._grant

    def _holds(self, rule: Rule, document: Mapping[str, Any]) -> bool:
        if (check := self._bound.get(id(rule))) is None:
            check = self._bound[id(rule)] = bound_rule(rule, self._claims)
        return check(document)

    def _require(self, refuses: Callable[[WriteRules], str | None], what: str) -> None:
        """Raise `Forbidden` unless one role allows a write, with the reason of the role that came closest."""
        closest = BY_RULE
        for role in self._roles:
            if (reason := refuses(role)) is None:
                return
            # The other reasons come from a role whose rule holds, so they tell the way to an allowed write.
            closest = reason if reason != BY_RULE else closest
        raise _forbidden(closest, what)


class _Change:
    """An edit of what is seen of a document, as a change of the whole document. Raises `Forbidden` if that can't be."""

    __slots__ = ("_steps", "after", "before", "seen", "seen_after")

    def __init__(self, before: Document, seen: Document, seen_after: Document, redaction: Redaction | None) -> None:
        self.before, self.seen, self.seen_after = before, seen, seen_after
        self._steps: list[tuple[Operation, Any]] | None = None
        if redaction is None:
            self.after = seen_after
        else:
            self.after, self._steps = _applied(before, diff(seen, seen_after))
            if self.touches(redaction):
                raise _forbidden(BY_HIDDEN)

    def touches(self, redaction: Redaction) -> bool:
        """Return True if the edit adds, removes or replaces something that the redaction hides."""
        if self._steps is None:
            _, self._steps = _applied(self.before, diff(self.seen, self.seen_after))
        return any(redaction.is_touched(operation, old) for operation, old in self._steps)


def _forbidden(reason: str, what: str = "change") -> Forbidden:
    return Forbidden(_REFUSALS[reason].format(what=what), reason=reason)


def _applied(before: Document, difference: Sequence[Operation]) -> tuple[Document, list[tuple[Operation, Any]]]:
    """Apply the difference of what is seen of a document to the whole document.

    Return the document afterwards, and each operation with the value that it removes or replaces.
    """
    if not difference:
        return before, []
    touched = {unescape(operation["path"].split("/", 2)[1]) for operation in difference}
    document = {name: copied(value) if name in touched else value for name, value in before.items()}
    steps = []
    try:
        for operation in difference:
            steps.append((operation, None if operation["op"] == "add" else _value_at(document, operation["path"])))
            patched(document, [operation])
    except (LookupError, TypeError, ValueError):
        # It leads into a value that is shown as something else, such as a reference without its hidden fields.
        raise _forbidden(BY_HIDDEN) from None
    return like(before, document), steps


def _value_at(document: Any, pointer: str) -> Any:
    for name in map(unescape, pointer.split("/")[1:]):
        document = document[int(name) if isinstance(document, list) else name]
    return document
