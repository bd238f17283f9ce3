"""The access of one principal: what it may do, under the rules that were in force when it was authenticated."""

from __future__ import annotations

from dataclasses import dataclass

from eventsync.domain.access.principal import Principal


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """What `principal` may do. Equal principals may share one."""

    principal: Principal
    is_open: bool
    """True if everything is allowed, because no `[auth]` has been applied."""
    is_operator: bool
    """True if the principal may use operators' doors."""
