"""The accesses of live connections, which may change, end and be renewed while the connections last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from eventsync.access.access import Access
from eventsync.access.control import AccessControl
from eventsync.access.tokens import LEEWAY
from eventsync.concurrency.pacer import Pacer
from eventsync.errors import EventsyncError, Forbidden, Unauthenticated

_AT_ONCE: Final = 8
"""Connections that are woken in one iteration of the event loop. Each then binds its subscriptions again."""


class LiveAccess:
    """An access, and the rules that it obeys. After its end it may be renewed for `grace` seconds."""

    __slots__ = ("_checked", "_control", "_grace", "access", "is_queued", "suspend", "wake")

    def __init__(self, control: AccessControl, access: Access, grace: float) -> None:
        self.access = access
        self.suspend: Callable[[], object] = _nothing
        """Called at once when the access has changed: end all writes that do not ask `obey` before."""
        self.wake: Callable[[], object] = _nothing
        """Called some time after `suspend`, to have a connection that waits call `obey`."""
        self.is_queued = False
        self._control = control
        self._grace = grace
        self._checked = -1
        """Number of changes that this access obeys."""

    @property
    def is_outdated(self) -> bool:
        """True if something has changed that `obey` has not followed yet."""
        return self._checked != self._control.changes

    @property
    def ends_in(self) -> float | None:
        """Seconds until the credential ends, which may be negative; None if it has no end."""
        expires = self.access.expires
        return None if expires is None else expires - self._control.now()

    @property
    def is_silent(self) -> bool:
        """True if no data may be sent, because the credential has ended."""
        # By the same leeway as a new connection: what would be accepted now is not silenced.
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
        """Continue by another credential of the same subject.

        Raises `RateLimited`, `Unauthenticated` and `Unavailable`.
        """
        access = await self._control.authenticate(token, f"sub:{self.access.principal.sub}")
        if access.principal.sub != self.access.principal.sub:
            raise Unauthenticated("subject_changed")
        # What has changed while the credential was verified is followed by the next `obey`.
        self.access, self._checked = access, -1

    def obey(self) -> bool:
        """Follow the rules and revocations, and return True if data may be sent now. Call it before each message.

        Raises `Unauthenticated` and `Unavailable` if the connection has to end.
        """
        if self.is_outdated:
            changes = self._control.changes
            try:
                self.access = self._control.renewed(self.access)
            except Unauthenticated as error:
                # The end of a credential has a time of grace. It stays outdated: the clock may be set back.
                if error.reason != "token_expired":
                    raise
                return False
            self._checked = changes
        return not self.is_silent

    def record(self, error: EventsyncError, request: str) -> None:
        """Record an error that is the refusal of one request among others on the connection."""
        if not self.access.is_open and isinstance(error, Forbidden | Unauthenticated):
            self._control.refusals.record(error, self.access.principal, request)

    def require_data(self) -> None:
        """Follow the rules and revocations. Raises `Unauthenticated` if no data may be sent now, and `Unavailable`."""
        if not self.obey():
            raise Unauthenticated("token_expired")

    def follow_change(self) -> bool:
        """Return True if a change does not concern this access. Else call `suspend`."""
        if self._control.is_current(self.access):
            self._checked = self._control.changes
            return True
        self.suspend()
        return False


def _nothing() -> None:
    """Do nothing: the connection asks `obey` before all that it writes, and waits for nothing."""


class LiveAccesses:
    """The live accesses of a server process.

    At a change, each connection that it concerns is suspended at once, and all of them are woken over some iterations
    of the event loop: the rules of ten thousand principals take a second to evaluate.
    """

    def __init__(self, control: AccessControl) -> None:
        self._control = control
        self._live: set[LiveAccess] = set()
        self._pacer = Pacer(_AT_ONCE)
        control.on_change.append(self._follow_change)
        control.until_resumed = self._until_resumed

    @contextmanager
    def open(self, access: Access, *, grace: float = 0.0) -> Iterator[LiveAccess]:
        """Provide the live access of a connection, or of a request that waits, for the block."""
        live = LiveAccess(self._control, access, grace)
        self._live.add(live)
        try:
            yield live
        finally:
            self._live.discard(live)
            # It may still wait in the pacer to be woken.
            live.suspend = live.wake = _nothing

    def renewed(self, access: Access) -> Access:
        """Return the access of the same principal under the rules in force. Raises as `AccessControl.renewed`."""
        return self._control.renewed(access)

    async def _until_resumed(self) -> None:
        if self._pacer:
            await self._pacer.passed()

    def _follow_change(self) -> None:
        for live in self._live:
            if not live.follow_change() and not live.is_queued:
                live.is_queued = True
                self._pacer.pass_through(partial(_wake, live))


def _wake(live: LiveAccess) -> None:
    live.is_queued = False
    live.wake()
