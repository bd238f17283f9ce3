"""`scripts/chaos --leaks`: principals at work while rules, tokens, clocks and processes change under them."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eventsync.mongodb.client import connect
from eventsync.stores.stores import Stores
from support.chaos.cluster import clocks_missing, running_cluster
from support.chaos.evidence import Violation
from support.chaos.leaks.evidence import Jump
from support.chaos.leaks.run import LeakRun
from support.chaos.leaks.scene import COLLECTIONS, OF_SUBJECT, VARIANTS
from support.chaos.report import Stage
from support.chaos.rig import Fleet
from support.chaos.run import settings_for
from support.systems import tracked
from support.waiting import scaled

_LIFETIME = (-8.0, 5.0)
"""Tokens are in their leeway, or soon will be: within seconds, all of them end."""

_ARCHIVED = {"hot_events": 40, "segment_events": 20}
"""Settings with which all that a client has missed is often archived when it returns."""

_JUMP = 30.0
_CLOCK = 1.5
"""Seconds in which a process notices that its clock has jumped."""


@dataclass
class LeakReport:
    """Figures of a run under rules."""

    command: str
    faults: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    doors: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    fallen: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [
            f"{self.command}: faults for {self.seconds:.1f} s",
            f"faults: {', '.join(f'{name} {count}' for name, count in sorted(self.faults.items()))}",
            f"seen: {', '.join(f'{name} {count}' for name, count in sorted(self.figures.items()))}",
            f"content came by: {', '.join(f'{name} {count}' for name, count in sorted(self.doors.items()))}",
            f"ended by themselves: {', '.join(self.fallen) or 'none'}",
            f"violations: {len(self.violations)}",
        ]
        return "\n".join([*lines, *(f"  {violation}" for violation in self.violations[:40])])


@dataclass
class Campaign:
    """The system, and the principals, as the faults see them."""

    run: LeakRun
    fleet: Fleet
    choose: random.Random


async def change_rules(campaign: Campaign) -> None:
    """Other rules are put in force, for a while or until the next change."""
    await campaign.run.apply(campaign.choose.randrange(VARIANTS))
    if campaign.choose.random() < 0.5:
        await asyncio.sleep(campaign.choose.uniform(0.0, 2.0))
        await campaign.run.apply(0)


async def revoke_credentials(campaign: Campaign) -> None:
    """The present tokens or service keys of some subjects are revoked."""
    for sub in campaign.choose.sample(list(OF_SUBJECT), 2):
        await campaign.run.revoke(sub)


async def revoke_subject(campaign: Campaign) -> None:
    """All credentials that a subject was issued until now are revoked."""
    await campaign.run.revoke_subject(campaign.choose.choice(list(OF_SUBJECT)))


async def change_claims(campaign: Campaign) -> None:
    """A subject gets another team, or becomes an operator, or is none any more."""
    campaign.run.ledger.change_claims("dan", campaign.choose.choice(OF_SUBJECT["dan"]))


async def jump_clock(campaign: Campaign) -> None:
    """The clock of a server jumps by 30 s, forwards or backwards, and back."""
    name = campaign.choose.choice(campaign.fleet.servers)
    seconds, began = campaign.choose.choice((-_JUMP, _JUMP)), time.time()
    campaign.fleet.clocks[name].jump(seconds)
    try:
        await asyncio.sleep(campaign.choose.uniform(1.5, 3.0))
    finally:
        campaign.fleet.clocks[name].jump(0)
        campaign.run.jumps.append(Jump(name, began, time.time() + scaled(_CLOCK), seconds))


async def kill_server(campaign: Campaign) -> None:
    """kill -9 of a server, and a new one."""
    name = campaign.choose.choice(campaign.fleet.servers)
    campaign.fleet.kill(name)
    campaign.fleet.start(name)


async def kill_worker(campaign: Campaign) -> None:
    """kill -9 of a worker, and a new one."""
    name = campaign.choose.choice(campaign.fleet.workers)
    campaign.fleet.kill(name)
    campaign.fleet.start(name)


_FAULTS = (change_rules, revoke_credentials, revoke_subject, change_claims, jump_clock, kill_server, kill_worker)
LEAK_FAULTS: Mapping[str, Callable[[Campaign], Awaitable[None]]] = MappingProxyType(
    {fault.__name__: fault for fault in _FAULTS}
)


async def run_leaks(seed: int, seconds: float, directory: Path, *, pause: float = 1.0) -> LeakReport:
    """Run principals under faults for so long, and judge. Each fault strikes at least once.

    At most `pause` seconds lie between two faults.
    """
    report = LeakReport(f"scripts/chaos --leaks --seed {seed} --seconds {seconds:g}")
    stage, clocks = Stage(report.command, directory), clocks_missing() is None
    names = [name for name in LEAK_FAULTS if clocks or name != "jump_clock"]
    async with AsyncExitStack() as stack:
        stage.enter("a replica set, workers and servers")
        cluster = await stack.enter_async_context(running_cluster(directory, 1))
        archived = _ARCHIVED | {"archive_url": str(directory / "archive")}
        settings = settings_for(cluster.uri, COLLECTIONS).model_copy(update=archived | {"auth_grace": 1.0})
        client = await stack.enter_async_context(connect(settings, "load"))
        fleet = Fleet(settings, directory, workers=2, servers=2, clocks=clocks)
        stack.callback(fleet.stop)
        fleet.start(*fleet.workers, *fleet.servers)
        for url in fleet.urls:
            await tracked(url, COLLECTIONS, seconds=60.0)
        servers = list(zip(fleet.servers, fleet.urls, strict=True))
        run = LeakRun(client, settings, servers, directory, seed, lifetime=_LIFETIME)
        await run.begin()
        campaign = Campaign(run, fleet, random.Random(f"{seed} faults"))
        async with run.at_work():
            stage.enter("faults")
            report.seconds = await _strike(campaign, names, seconds, pause, report)
            stage.enter("the end")
        stage.enter("the verdict")
        report.violations = await run.judge()
        stores = Stores.of(client, settings)
        report.figures["archived events"] = (await stores.tiers.read((await stores.logs.require()).id)).archived_up_to
    _count(run, report)
    return report


async def _strike(campaign: Campaign, names: list[str], seconds: float, pause: float, report: LeakReport) -> float:
    began, turn = time.monotonic(), list[str]()
    while time.monotonic() < began + seconds or len(report.faults) < len(names):
        turn = turn or campaign.choose.sample(names, len(names))
        name = turn.pop()
        report.faults[name] += 1
        await LEAK_FAULTS[name](campaign)
        await asyncio.sleep(campaign.choose.uniform(0.2, 1.0) * pause)
        report.fallen += campaign.fleet.supervise()
    return time.monotonic() - began


def _count(run: LeakRun, report: LeakReport) -> None:
    received: Any = run.ledger.received
    report.doors.update(item.what.partition(" of ")[0] for item in received if item.canaries)
    states = run.evidence.states if run.evidence else ()
    report.figures.update(
        {
            "answers and messages": len(received),
            "requests of traffic": run.traffic.count,
            "bytes": sum(len(item.content) for item in received),
            "canaries": sum(len(item.canaries) for item in received),
            "refusals": sum(item.status in {401, 403, 404} for item in received),
            "refusals of writes": sum(write.status in {403, 404} for item in received for write in item.writes),
            "states": len(states),
            "credentials": len(run.ledger.credentials),
            "writes": sum(len(item.writes) for item in received),
            "rules": len(run.rules),
        }
    )
