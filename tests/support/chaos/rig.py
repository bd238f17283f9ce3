"""The system under test as the nemeses see it."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import PyMongoError

from eventsync.mongodb.client import Client
from eventsync.settings import Settings
from eventsync.stores.stores import SEQUENCING
from support.chaos.cluster import Cluster, Member
from support.chaos.fleet import Fleet
from support.chaos.history import Recorder


@dataclass(frozen=True, slots=True)
class Rig:
    """`choose` is the nemeses' own source of randomness; `ended` is what their faults have brought about."""

    settings: Settings
    client: Client
    cluster: Cluster
    fleet: Fleet
    recorder: Recorder
    choose: random.Random
    ended: Counter[str] = field(default_factory=Counter)

    @property
    def lease(self) -> float:
        return self.settings.lease_period

    async def leader(self) -> str:
        """The worker that leads, as the lease says; any worker where it is of none that runs (or can't be read)."""
        lease: dict[str, Any] | None = None
        with suppress(PyMongoError):
            lease = await self.client[self.settings.log_db]["leases"].find_one({"_id": SEQUENCING})
        # host:pid:random
        process = int(lease["owner"].split(":")[1]) if lease else 0
        return self.fleet.named(process) or self.choose.choice(self.fleet.workers)

    async def fail_point(self, member: Member, name: str, mode: Any, **data: Any) -> None:
        """Switch a failpoint on (`mode`: {"times": 3}) or "off"."""
        command = {"configureFailPoint": name, "mode": mode} | ({"data": data} if data else {})
        await member.direct.admin.command(command)
