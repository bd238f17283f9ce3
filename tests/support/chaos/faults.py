"""The nemeses of processes and machines: kills, freezes, clocks that jump, and disks that are full."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from pymongo.errors import PyMongoError

from support.chaos.cluster import Clock
from support.chaos.rig import Rig
from support.chaos.rules import VARIANTS
from support.waiting import patience

_FULL = 15.0
"""Seconds that a member gets to notice that its disk is full."""


async def jump_worker_clock(rig: Rig) -> None:
    """The clock of any worker, or of all, jumps by seconds to hours, forwards or backwards; later it is right again."""
    names = rig.choose.choice((rig.fleet.workers, [await rig.leader()]))
    await _jump(rig, [rig.fleet.clocks[name] for name in names], most=4 * 3600)


async def jump_server_clock(rig: Rig) -> None:
    """The same of any server."""
    await _jump(rig, [rig.fleet.clocks[rig.choose.choice(rig.fleet.servers)]], most=4 * 3600)


async def jump_member_clock(rig: Rig) -> None:
    """The same of a member of the replica set, by minutes: leases run out at once, or not for a while.

    Cluster time follows the primary's clock forwards, and never goes back.
    """
    members = [await rig.cluster.primary(), rig.choose.choice(rig.cluster.members)]
    clock = rig.choose.choice(members).clock
    if clock is not None:
        await _jump(rig, [clock], most=290)
    await rig.cluster.healthy()


async def _jump(rig: Rig, clocks: Sequence[Clock], *, most: float) -> None:
    seconds = rig.choose.choice((-1, 1)) * most ** rig.choose.uniform(0.2, 1.0)
    for clock in clocks:
        clock.jump(seconds)
    try:
        # It is noticed within a second.
        await asyncio.sleep(rig.choose.uniform(1.2, 3.0))
    finally:
        for clock in clocks:
            clock.jump(0)


async def jump_monotonic_clock(rig: Rig) -> None:
    """All clocks of a worker that leads jump forwards, also the monotonic one, as when a whole machine was asleep."""
    name = rig.choose.choice(rig.fleet.workers)
    clock = rig.fleet.clocks[name]
    rig.fleet.kill(name)
    clock.monotonic = True
    rig.fleet.start(name)
    # Until it leads, as far as that can be had: the others are not asked to step aside.
    await asyncio.sleep(rig.choose.uniform(1.5, 3.0))
    clock.jump(4 * 3600 ** rig.choose.uniform(0.2, 1.0))
    await asyncio.sleep(rig.choose.uniform(1.2, 2.5))
    # It must not jump back: no machine's does. So this process has had its day.
    rig.fleet.kill(name)
    clock.jump(0)
    clock.monotonic = False
    rig.fleet.start(name)


async def fill_disk(rig: Rig) -> None:
    """A member's disk is full until it ends itself, as MongoDB then does; there is room again when it comes back."""
    member = rig.choose.choice((await rig.cluster.primary(), rig.choose.choice(rig.cluster.members)))
    if member.disk is None:
        return
    await asyncio.to_thread(member.disk.fill)
    deadline = time.monotonic() + _FULL
    while member.running and time.monotonic() < deadline:
        # A checkpoint: it has to write, whatever it would have put off.
        with suppress(PyMongoError):
            await member.direct.admin.command("fsync")
        await asyncio.sleep(0.2)
    rig.ended["a full disk ended a member"] += not member.running
    await member.kill()
    member.disk.free()
    member.start()
    await rig.cluster.healthy()


async def change_rules(rig: Rig) -> None:
    """The definition of a declared shape is changed, or taken away for a while; others stay as they are."""
    for _ in range(rig.choose.choice((1, 1, 2))):
        if rig.choose.random() < 0.5:
            await rig.rules.apply(None)
            await asyncio.sleep(rig.choose.uniform(0.0, 1.5))
        await rig.rules.apply(rig.choose.randrange(len(VARIANTS)))


async def kill_worker(rig: Rig) -> None:
    """kill -9 of any worker, and a new one."""
    _replace(rig, rig.choose.choice(rig.fleet.workers))


async def kill_all_workers(rig: Rig) -> None:
    """kill -9 of all workers at once: whatever was in their memory is gone."""
    _replace(rig, *rig.fleet.workers)


def _replace(rig: Rig, *names: str) -> None:
    rig.fleet.kill(*names)
    rig.fleet.start(*names)


async def end_worker(rig: Rig) -> None:
    """SIGTERM of any worker, and a new one."""
    name = rig.choose.choice(rig.fleet.workers)
    rig.fleet.signal(signal.SIGTERM, name)
    await rig.fleet.ended(name, seconds=patience(30))
    rig.fleet.start(name)


async def freeze_worker(rig: Rig) -> None:
    """SIGSTOP of any worker, for less or for much more than its lease."""
    await _freeze(rig, rig.choose.choice(rig.fleet.workers), rig.choose.uniform(0.2, 2.5) * rig.lease)


async def kill_leader(rig: Rig) -> None:
    """kill -9 of the worker that leads, and a new one."""
    _replace(rig, await rig.leader())


async def freeze_leader(rig: Rig) -> None:
    """SIGSTOP of the worker that leads, until another one does; then it continues with what it had at hand."""
    await _freeze(rig, await rig.leader(), rig.choose.uniform(1.2, 2.5) * rig.lease)


async def kill_server(rig: Rig) -> None:
    """kill -9 of any server, and a new one."""
    _replace(rig, rig.choose.choice(rig.fleet.servers))


async def freeze_server(rig: Rig) -> None:
    """SIGSTOP of any server."""
    await _freeze(rig, rig.choose.choice(rig.fleet.servers), rig.choose.uniform(0.2, 3.0))


async def _freeze(rig: Rig, name: str, seconds: float) -> None:
    rig.fleet.signal(signal.SIGSTOP, name)
    try:
        await asyncio.sleep(seconds)
    finally:
        rig.fleet.signal(signal.SIGCONT, name)
