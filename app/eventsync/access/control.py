"""The access control of a server process: principals, and what they may do, under the rules in force."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from eventsync.access.access import Access
from eventsync.access.audit import Looks, Refusals
from eventsync.access.authenticator import Authenticated, Authenticator, Clock, ticket_of
from eventsync.access.jwks import Fetch
from eventsync.domain.access.auth import AuthSettings, is_loopback
from eventsync.domain.access.principal import Principal
from eventsync.domain.access.rules import AccessRules
from eventsync.errors import ConfigurationError, Forbidden, Unauthenticated, Unavailable
from eventsync.settings import Settings
from eventsync.stores.stores import Credentials


def may_be_open(settings: Settings) -> bool:
    """Return True if a server may serve everybody while no `[auth]` has been applied."""
    return settings.allow_unauthenticated or is_loopback(settings.host)


def require_rules(settings: Settings, rules: object | None) -> None:
    """Raise `ConfigurationError` for a server that listens beyond loopback without rules."""
    if rules is None and not may_be_open(settings):
        raise ConfigurationError(
            f"no [auth] has been applied, and whoever reaches {settings.host or 'this server'} could read and change "
            "everything: apply rules (`eventsync rules apply`), listen on loopback, or set "
            "EVENTSYNC_ALLOW_UNAUTHENTICATED=true"
        )


class AccessControl:
    """One a process. The feed replaces its rules, and tells it of revocations.

    `open_access` is everybody's access while no `[auth]` has been applied. It is None otherwise, and while the rules
    are not known yet.
    """

    def __init__(
        self, settings: Settings, credentials: Credentials, *, clock: Clock | None = None, fetch: Fetch | None = None
    ) -> None:
        self.authenticator = Authenticator(credentials, settings, clock=clock, fetch=fetch)
        self.open_access: Access | None = None
        self.refusals = Refusals()
        self.looks = Looks()
        self.authenticated = 0
        """Number of requests and connections with a good credential."""
        self.on_change: list[Callable[[], None]] = []
        """Called at each change of rules, revocations or keys. They must not await."""
        self.until_resumed: Callable[[], Awaitable[None]] = _at_once
        """Waits until the connections that the changes so far have suspended were woken."""
        anonymous = Authenticated(Principal(settings.principal, {"sub": settings.principal}))
        self._everything = Access(anonymous, None, 0)
        self._settings = settings
        self._credentials = credentials
        self.changes = 0
        """Number of changes so far. What was allowed before one may not be allowed any more."""
        self._rules: AccessRules | None = None
        self._number = 0
        self._is_known = False

    @classmethod
    def open(cls, credentials: Credentials, settings: Settings) -> AccessControl:
        """Return a control without a feed, which allows everything."""
        control = cls(settings, credentials)
        control.open_access, control._is_known = control._everything, True
        return control

    # --- the feed's side ------------------------------------------------------------------------------------------

    def replace(self, rules: AccessRules | None, number: int) -> None:
        """Apply the rules with this number from now on, if others are in force; None if none have been applied."""
        if self._is_known and (rules is None) is (self._rules is None) and number == self._number:
            return
        self._is_known = True
        if rules is not None and self._rules is not None:
            rules.share(self._rules)
        self._rules, self._number = rules, number
        self.authenticator.configure(AuthSettings() if rules is None else rules.auth)
        self.open_access = self._everything if rules is None and may_be_open(self._settings) else None
        self.changed()

    def changed(self) -> None:
        """Have live connections checked again."""
        self.changes += 1
        for callback in self.on_change:
            callback()

    async def load(self) -> None:
        """Read all revocations and service keys. Raises `Unavailable`."""
        await self.authenticator.load()
        self.changed()

    # --- requests -------------------------------------------------------------------------------------------------

    @property
    def rules(self) -> AccessRules | None:
        """The rules in force; None if none have been applied, or while they are not known."""
        return self._rules

    @property
    def is_pending(self) -> bool:
        """True while the rules are not known yet, on a server that serves everybody if there are none."""
        return not self._is_known and may_be_open(self._settings)

    async def authenticate(self, credential: str | None, source: str = "") -> Access:
        """Return the access of a token or service key, which comes from `source`: an address, or a subject.

        Raises `RateLimited`, `Unauthenticated` and `Unavailable`.
        """
        if (access := self._without_rules()) is not None:
            return access
        if credential is None:
            raise Unauthenticated("token_missing")
        found = await self.authenticator.authenticate(credential, source)
        self.authenticated += 1
        return self._access(found)

    async def authenticate_ticket(self, ticket: str, shapes: Iterable[str]) -> Access:
        """Return the access of a ticket. Raises `Unauthenticated`, `Unavailable`, and `Forbidden` for other shapes."""
        if (access := self._without_rules()) is not None:
            return access
        found = await self.authenticator.authenticate_ticket(ticket)
        self.authenticated += 1
        if found.shapes is None or not found.shapes.issuperset(shapes):
            raise Forbidden("the ticket is for other shapes")
        return self._access(found)

    async def create_ticket(self, access: Access, shapes: Iterable[str]) -> tuple[str, float]:
        """Store a ticket for these shapes. Return it, and its end in Unix seconds.

        Raises `RateLimited` and `Unavailable`.
        """
        now = self.authenticator.clock.now()
        ticket = ticket_of(access.authenticated, shapes, ends=now + self._settings.ticket_ttl)
        return await self._credentials.tickets.create(ticket, now=now), ticket.principal.expires or now

    def _without_rules(self) -> Access | None:
        """Return the access of everybody; None if rules are in force. Raises `Unavailable` if that is not allowed."""
        if not self._is_known:
            raise Unavailable("the rules are not known yet: MongoDB was not reached")
        if self._rules is None and self.open_access is None:
            raise Unavailable(
                "no [auth] has been applied, and this server listens beyond loopback "
                "(EVENTSYNC_ALLOW_UNAUTHENTICATED=true serves everybody)",
                retry_after=10.0,
            )
        return self.open_access

    def _access(self, found: Authenticated) -> Access:
        # Kept with what was authenticated, which all requests with a token share: roles are evaluated once for each.
        before = found.access if isinstance(found.access, Access) else None
        if before is not None and before.number == self._number:
            return before
        access = found.access = Access(found, self._rules, self._number, before)
        return access

    # --- live sessions --------------------------------------------------------------------------------------------

    def renewed(self, access: Access) -> Access:
        """Return the access of the same principal under the rules in force.

        Raises `Unauthenticated` if its credential has been revoked, has expired, or is not accepted any more; and
        `Unavailable`.
        """
        if (everything := self._without_rules()) is not None:
            return everything
        # It began before `[auth]` was applied, so there is no credential to check.
        if access.is_open:
            raise Unauthenticated("token_missing")
        self.authenticator.check(access.authenticated)
        return access if access.number == self._number else self._access(access.authenticated)

    def is_current(self, access: Access) -> bool:
        """Return True if an access is by the rules in force, and its credential is still good."""
        if access.number != self._number and not access.is_open:
            return False  # without evaluating the roles of thousands of principals
        try:
            return self.renewed(access) is access
        except (Unauthenticated, Unavailable):
            return False

    def now(self) -> float:
        """Return the time that the ends of credentials are compared with, in Unix seconds."""
        return self.authenticator.clock.now()


async def _at_once() -> None:
    """No connections are suspended."""
