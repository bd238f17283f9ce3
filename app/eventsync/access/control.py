"""The access control of a server process: it authenticates credentials under the rules in force."""

from __future__ import annotations

from eventsync.access.access import Access
from eventsync.domain.access.principal import Principal
from eventsync.settings import Settings


class AccessControl:
    """One a process. `open_access` is everybody's access while no `[auth]` has been applied, else None."""

    def __init__(self, settings: Settings) -> None:
        anonymous = Principal(settings.principal, {"sub": settings.principal})
        self.open_access: Access | None = Access(anonymous, is_open=True, is_operator=True)
