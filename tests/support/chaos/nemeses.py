"""Faults by name. Each strikes once and makes good what it has done before it returns; all take bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from types import MappingProxyType

from pymongo.errors import PyMongoError

from support.chaos import abusers, breakers, clocks, destroyers, disks, machines
from support.chaos.rig import Rig

Nemesis = Callable[[Rig], Awaitable[None]]


async def kill_worker(rig: Rig) -> None:
    """kill -9 of any worker, and a new one."""
    name = rig.choose.choice(rig.fleet.workers)
    await rig.fleet.kill(name)
    rig.fleet.start(name)


async def kill_all_workers(rig: Rig) -> None:
    """kill -9 of all workers at once: whatever was in their memory is gone."""
    for name in rig.fleet.workers:
        await rig.fleet.kill(name)
    rig.fleet.start(*rig.fleet.workers)


async def end_worker(rig: Rig) -> None:
    """SIGTERM of any worker, and a new one."""
    name = rig.choose.choice(rig.fleet.workers)
    await rig.fleet.end(name)
    rig.fleet.start(name)


async def freeze_worker(rig: Rig) -> None:
    """SIGSTOP of any worker, for less or for much more than its lease."""
    await _freeze(rig, rig.choose.choice(rig.fleet.workers), rig.choose.uniform(0.2, 2.5) * rig.lease)


async def kill_leader(rig: Rig) -> None:
    """kill -9 of the worker that leads, and a new one."""
    name = await rig.leader()
    await rig.fleet.kill(name)
    rig.fleet.start(name)


async def freeze_leader(rig: Rig) -> None:
    """SIGSTOP of the worker that leads, until another one does; then it continues with what it had at hand."""
    await _freeze(rig, await rig.leader(), rig.choose.uniform(1.2, 2.5) * rig.lease)


async def kill_server(rig: Rig) -> None:
    """kill -9 of any server, and a new one."""
    name = rig.choose.choice(rig.fleet.servers)
    await rig.fleet.kill(name)
    rig.fleet.start(name)


async def freeze_server(rig: Rig) -> None:
    """SIGSTOP of any server."""
    await _freeze(rig, rig.choose.choice(rig.fleet.servers), rig.choose.uniform(0.2, 3.0))


async def _freeze(rig: Rig, name: str, seconds: float) -> None:
    rig.fleet.freeze(name)
    try:
        await asyncio.sleep(seconds)
    finally:
        rig.fleet.thaw(name)


async def step_down(rig: Rig) -> None:
    """The primary steps down, whether or not the others have all that it has."""
    primary = await rig.cluster.primary()
    command = {"replSetStepDown": 3, "secondaryCatchUpPeriodSecs": 1, "force": True}
    # It closes connections, sometimes this one.
    with suppress(PyMongoError):
        await primary.direct.admin.command(command)


_ALL: tuple[Nemesis, ...] = (
    kill_worker,
    kill_all_workers,
    end_worker,
    freeze_worker,
    kill_leader,
    freeze_leader,
    kill_server,
    freeze_server,
    breakers.kill_primary,
    breakers.freeze_primary,
    breakers.close_connections,
    breakers.break_cursors,
    breakers.doubt_writes,
    breakers.doubt_server_writes,
    breakers.close_server_connections,
    breakers.block_appends,
    breakers.conflict,
    breakers.cut_worker,
    breakers.cut_server,
    breakers.lose_answers,
    breakers.leave_worker_half_open,
    abusers.abuse_server,
)
_REPLICATED: tuple[Nemesis, ...] = (
    step_down,
    breakers.kill_secondary,
    breakers.freeze_secondary,
    breakers.stall_replication,
    breakers.isolate_primary,
)
"""What takes more than one member."""

_CLOCKS: tuple[Nemesis, ...] = (
    machines.jump_worker_clock,
    machines.jump_server_clock,
    machines.jump_monotonic_clock,
    machines.jump_member_clock,
)
_DISKS: tuple[Nemesis, ...] = (machines.fill_disk,)
"""What takes clocks that can jump, and disks that can be full."""

_FATAL: tuple[Nemesis, ...] = (breakers.lose_history,)
"""What costs the stream its history: the log is repaired then."""

_RENEWING: tuple[Nemesis, ...] = (
    destroyers.drop_log,
    destroyers.delete_events,
    destroyers.overwrite_event,
    destroyers.restore_backup,
)
"""What destroys the log or turns it back: a new one begins then, and the run is judged by `support.chaos.renewals`."""

_EVERYTHING = (*_ALL, *_REPLICATED, *_CLOCKS, *_DISKS, *_FATAL, *_RENEWING)
NEMESES = MappingProxyType({nemesis.__name__: nemesis for nemesis in _EVERYTHING})


def _names(nemeses: tuple[Nemesis, ...]) -> frozenset[str]:
    return frozenset(nemesis.__name__ for nemesis in nemeses)


FATAL, CLOCKS, DISKS, RENEWING = _names(_FATAL), _names(_CLOCKS), _names(_DISKS), _names(_RENEWING)


def known(names: str, *, nodes: int) -> tuple[str, ...]:
    """The nemeses that `names` lists, as far as they apply: comma separated, or the name of a set.

    `all`: but those that cost history or the log. `fatal`: those that cost history, too. `renewing`: `all`, and those
    that cost the log.

    Raises `ValueError`.
    """
    alone = _names(_REPLICATED) if nodes == 1 else frozenset()
    fatal = tuple(name for name in NEMESES if name not in RENEWING)
    ordinary = tuple(name for name in fatal if name not in FATAL)
    sets = {"all": ordinary, "fatal": fatal, "renewing": (*ordinary, *sorted(RENEWING)), "none": ()}
    listed = sets.get(names, tuple(name.strip() for name in names.split(",")))
    if unknown := set(listed) - set(NEMESES):
        raise ValueError(f"no nemesis is called {', '.join(sorted(unknown))}; there are {', '.join(NEMESES)}")
    return tuple(name for name in listed if name not in alone)


def unavailable(names: Iterable[str]) -> dict[str, str]:
    """Return those of `names` that this machine can't run, each with the reason."""
    reasons = {name: clocks.missing() for name in CLOCKS} | {name: disks.missing() for name in DISKS}
    return {name: reason for name in names if (reason := reasons.get(name))}
