"""The access of one principal: what it may do, under the rules that were in force when it was made."""

from __future__ import annotations

from dataclasses import dataclass

from eventsync.access.authenticator import Authenticated
from eventsync.domain.access.principal import Principal


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """What a principal may do. `number` is that of the rules."""

    authenticated: Authenticated
    number: int
    is_open: bool
    """True if everything is allowed, because no `[auth]` has been applied."""
    is_operator: bool
    """True if the principal may use operators' doors."""

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self.authenticated.principal

    @property
    def expires(self) -> float | None:
        """The end of the credential, in Unix seconds; None if it has none."""
        return self.authenticated.principal.expires
