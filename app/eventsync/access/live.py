"""The access of a live connection, which may end and be renewed while the connection lasts."""

from __future__ import annotations

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.access.tokens import LEEWAY
from eventsync.errors import Unauthenticated


class LiveAccess:
    """An access, and the rules that it obeys. After its end it may be renewed for `grace` seconds."""

    __slots__ = ("_control", "_grace", "access")

    def __init__(self, control: AccessControl, access: Access, grace: float) -> None:
        self.access = access
        self._control = control
        self._grace = grace

    @property
    def ends_in(self) -> float | None:
        """Seconds until the credential ends, which may be negative; None if it has no end."""
        expires = self.access.expires
        return None if expires is None else expires - self._control.now()

    @property
    def is_silent(self) -> bool:
        """True if no data may be sent, because the credential has ended."""
        expires = self.access.expires
        return expires is not None and self._control.now() >= expires + LEEWAY

    def silent_in(self) -> float | None:
        """Return the seconds until no data may be sent, or if that is past, until the connection ends.

        None if the credential has no end. Raises `Unauthenticated` once the connection has to end.
        """
        if (left := self.ends_in) is None:
            return None
        left += LEEWAY
        if left > 0:
            return left
        if left <= -self._grace:
            raise Unauthenticated("token_expired")
        return left + self._grace

    async def renew(self, token: str) -> None:
        """Continue by another credential of the same subject. Raises `Unauthenticated` and `Unavailable`."""
        access = await self._control.authenticate(token)
        if access.principal.sub != self.access.principal.sub:
            raise Unauthenticated("subject_changed")
        self.access = access

    def recheck(self) -> None:
        """Follow the rules and revocations. Raises `Unauthenticated` and `Unavailable` if the connection has to end."""
        try:
            self.access = self._control.renewed(self.access)
        except Unauthenticated as error:
            # The end of a credential has a time of grace.
            if error.reason != "token_expired":
                raise
