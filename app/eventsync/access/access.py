"""The access of one principal: what it may do, under the rules that were in force when it was made."""

from __future__ import annotations

from typing import Final

from eventsync.access.authenticator import Authenticated
from eventsync.domain.access.grants import EVERYTHING, ReadGrant
from eventsync.domain.access.guards import WriteGuard
from eventsync.domain.access.principal import ANONYMOUS, OBSERVER, OPERATOR, Principal, scope_of
from eventsync.domain.access.rules import AccessRules

_KEPT: Final = 64
"""Collections whose grants and guards are kept. Clients may name any number of them."""


class Access:
    """The rights of a principal. Without `rules`, all; `number` is that of the rules."""

    __slots__ = ("_grants", "_guards", "_rules", "authenticated", "is_operator", "number", "roles")

    def __init__(
        self, authenticated: Authenticated, rules: AccessRules | None, number: int, before: Access | None = None
    ) -> None:
        """`before` is an access by the same credential: what it was granted by rules that stay is granted still."""
        self.authenticated = authenticated
        self.number = number
        self.roles = frozenset[str]() if rules is None else rules.roles_of(authenticated.principal)
        self.is_operator = rules is None or OPERATOR in self.roles
        """True if the principal may use operators' doors."""
        self._rules = rules
        self._grants: dict[str, ReadGrant | None] = {}
        self._guards: dict[str, WriteGuard] = {}
        if before is not None:
            self._keep(before)

    def _keep(self, before: Access) -> None:
        """Keep what was made by rules that stay, if the principal has the same claims and roles as before."""
        rules, others = self._rules, before._rules
        if rules is None or others is None:
            return
        if before.authenticated is self.authenticated and before.roles == self.roles:
            self._grants = {name: grant for name, grant in before._grants.items() if rules.shares(others, name)}
            self._guards = {name: guard for name, guard in before._guards.items() if rules.shares(others, name)}

    @property
    def is_observer(self) -> bool:
        """True if the principal may look at what operators see, besides the content of documents."""
        return self.is_operator or OBSERVER in self.roles

    @property
    def is_open(self) -> bool:
        """True if everything is allowed, because no `[auth]` has been applied."""
        return self._rules is None

    @property
    def principal(self) -> Principal:
        """The principal that asks."""
        return self.authenticated.principal

    @property
    def scope(self) -> str:
        """Prefix of the stored form of names that the principal chooses; empty while everything is allowed."""
        return "" if self._rules is None else scope_of(self.principal.sub)

    @property
    def expires(self) -> float | None:
        """The end of the credential, in Unix seconds; None if it has none."""
        return self.authenticated.principal.expires

    def grant(self, collection: str) -> ReadGrant | None:
        """Return what the principal may read of a collection, or None for nothing."""
        if self._rules is None:
            return EVERYTHING
        if collection not in self._grants:
            _make_room(self._grants)
            self._grants[collection] = self._rules.of(collection).grant(self.roles, self.principal.rule_claims)
        return self._grants[collection]

    def has_grant_of(self, other: Access, collection: str) -> bool:
        """Return True if what the principal may read of a collection is what `other` was granted, and is known."""
        grant = self._grants.get(collection)
        return (
            grant is not None and grant is other._grants.get(collection) and self.authenticated is other.authenticated
        )

    def guard(self, collection: str) -> WriteGuard | None:
        """Return what the principal may write of a collection, or None for everything."""
        if self._rules is None:
            return None
        if collection not in self._guards:
            _make_room(self._guards)
            self._guards[collection] = self._rules.of(collection).guard(self.roles, self.principal.rule_claims)
        return self._guards[collection]


UNRESTRICTED: Final = Access(Authenticated(ANONYMOUS), None, 0)
"""The access of an operator's command, which obeys no rules."""


def _make_room(kept: dict[str, ReadGrant | None] | dict[str, WriteGuard]) -> None:
    # Clearing all is enough: hardly any principal uses as many, and each is compiled again in microseconds.
    if len(kept) >= _KEPT:
        kept.clear()
