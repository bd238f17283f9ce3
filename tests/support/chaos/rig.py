"""The system under test as the nemeses see it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from app.settings import Settings
from support.chaos.cluster import Cluster, Member
from support.chaos.fleet import Fleet
from support.chaos.history import Recorder


@dataclass(frozen=True, slots=True)
class Rig:
    """`choose` is the nemeses' own source of randomness."""

    settings: Settings
    cluster: Cluster
    fleet: Fleet
    recorder: Recorder
    choose: random.Random

    @property
    def lease(self) -> float:
        return self.settings.lease_period

    async def fail_point(self, member: Member, name: str, mode: Any, **data: Any) -> None:
        """Switch a failpoint on (`mode`: {"times": 3}) or "off"."""
        command = {"configureFailPoint": name, "mode": mode} | ({"data": data} if data else {})
        await member.direct.admin.command(command)
