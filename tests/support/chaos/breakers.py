"""The nemeses of MongoDB and of the network to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import suppress

from pymongo.errors import PyMongoError

from eventsync.mongodb.client import app_name
from support.chaos.cluster import Member
from support.chaos.rig import Rig

_WORKER, _SERVER = "eventsync-(worker|lease)", "eventsync-(serve|feed)"


async def kill_primary(rig: Rig) -> None:
    """kill -9 of the primary; it comes back a little later."""
    await _kill(rig, [await rig.cluster.primary()])


async def kill_secondary(rig: Rig) -> None:
    """kill -9 of a secondary."""
    await _kill(rig, await rig.cluster.secondaries())


async def _kill(rig: Rig, members: Sequence[Member]) -> None:
    if members:
        member = rig.choose.choice(members)
        await member.kill()
        await asyncio.sleep(rig.choose.uniform(0.0, 2.5))
        member.start()
        await rig.cluster.healthy()


async def freeze_primary(rig: Rig) -> None:
    """SIGSTOP of the primary, often long enough for another to be elected."""
    await _freeze(rig, [await rig.cluster.primary()])


async def freeze_secondary(rig: Rig) -> None:
    """SIGSTOP of a secondary."""
    await _freeze(rig, await rig.cluster.secondaries())


async def _freeze(rig: Rig, members: Sequence[Member]) -> None:
    if members:
        member = rig.choose.choice(members)
        member.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(rig.choose.uniform(0.3, 3.5))
        finally:
            member.send(signal.SIGCONT)
        await rig.cluster.healthy()


async def step_down(rig: Rig) -> None:
    """The primary steps down, whether or not the others have all that it has."""
    primary = await rig.cluster.primary()
    command = {"replSetStepDown": 3, "secondaryCatchUpPeriodSecs": 1, "force": True}
    # It closes connections, sometimes this one.
    with suppress(PyMongoError):
        await primary.direct.admin.command(command)


async def close_connections(rig: Rig) -> None:
    """The next commands of the worker lose their connections: some before they are carried out."""
    commands = ["getMore", "insert", "aggregate", "update", "findAndModify", "find"]
    await _fails(rig, "worker", commands, rig.choose.randrange(1, 8), closeConnection=True)


async def break_cursors(rig: Rig) -> None:
    """The worker's next reads of the stream fail: cursor not found, interrupted, not primary, network."""
    code = rig.choose.choice((43, 11601, 10107, 91, 6, 189))
    await _fails(rig, "worker", ["getMore"], rig.choose.randrange(1, 4), errorCode=code)


async def lose_history(rig: Rig) -> None:
    """The worker's next read says that the stream can't continue: history lost, position lost, token not found."""
    await _fails(rig, "worker", ["getMore"], 1, errorCode=rig.choose.choice((286, 136, 280)))


async def doubt_writes(rig: Rig) -> None:
    """The worker's next writes are made, and answered by an error of the write concern."""
    await _fails(rig, "worker", ["insert", "update"], rig.choose.randrange(1, 4), writeConcernError=_doubt(rig))


async def doubt_server_writes(rig: Rig) -> None:
    """The servers' next writes are made, and answered by an error of the write concern."""
    commands = ["findAndModify", "insert", "update", "bulkWrite", "commitTransaction"]
    await _fails(rig, "serve", commands, rig.choose.randrange(1, 8), writeConcernError=_doubt(rig))


async def close_server_connections(rig: Rig) -> None:
    """The servers' next reads and writes lose their connections before they are carried out."""
    commands = ["find", "findAndModify", "insert", "update", "bulkWrite", "commitTransaction"]
    await _fails(rig, "serve", commands, rig.choose.randrange(1, 8), closeConnection=True)


def _doubt(rig: Rig) -> dict[str, object]:
    return {"code": rig.choose.choice((64, 91, 11602)), "errmsg": "chaos"}


async def block_appends(rig: Rig) -> None:
    """The worker's next append takes longer than its lease."""
    milliseconds = int(rig.lease * rig.choose.uniform(0.5, 2.5) * 1000)
    await _fails(rig, "worker", ["insert"], 1, blockConnection=True, blockTimeMS=milliseconds)


async def _fails(rig: Rig, role: str, commands: list[str], times: int, **how: object) -> None:
    data = {"failCommands": commands, "appName": app_name(rig.settings, role), **how}
    await _switched(rig, [await rig.cluster.primary()], "failCommand", {"times": times}, 1.0, data)


async def conflict(rig: Rig) -> None:
    """Some of all writes in the primary conflict, without a reason."""
    mode = {"activationProbability": 0.05}
    await _switched(rig, [await rig.cluster.primary()], "WTWriteConflictException", mode, 1.5)


async def stall_replication(rig: Rig) -> None:
    """No secondary gets anything new: nothing reaches a majority for a while."""
    await _switched(rig, await rig.cluster.secondaries(), "stopReplProducer", "alwaysOn", 2.0)


async def _switched(
    rig: Rig, members: Sequence[Member], name: str, mode: object, seconds: float, data: object = None
) -> None:
    """Switch a failpoint on for `seconds` at most."""
    point = {"configureFailPoint": name, "mode": mode} | ({"data": data} if data else {})
    for command in (point, {"configureFailPoint": name, "mode": "off"}):
        for member in members:
            # A member that is down has no failpoints on either.
            with suppress(PyMongoError):
                await member.direct.admin.command(command)
        if command is point:
            await asyncio.sleep(rig.choose.uniform(0.2, seconds))


async def cut_worker(rig: Rig) -> None:
    """Every connection of the workers to MongoDB is reset."""
    for member in rig.cluster.members:
        member.proxy.cut(_WORKER)


async def cut_server(rig: Rig) -> None:
    """Every connection of the servers to MongoDB is reset, some times."""
    for _ in range(rig.choose.randrange(1, 4)):
        for member in rig.cluster.members:
            member.proxy.cut(_SERVER)
        await asyncio.sleep(rig.choose.uniform(0.0, 0.1))


async def lose_answers(rig: Rig) -> None:
    """The next writes of the servers are made, and their connections are reset instead of an answer."""
    member = await rig.cluster.primary()
    member.proxy.lose(_SERVER, rig.choose.randrange(1, 20))
    await asyncio.sleep(rig.choose.uniform(0.2, 1.0))
    member.proxy.lose(_SERVER, 0)


async def leave_worker_half_open(rig: Rig) -> None:
    """The workers' connections hang: nothing arrives, and neither side notices. Later it arrives, late."""
    await _hold(rig, rig.cluster.members, _WORKER)


async def isolate_primary(rig: Rig) -> None:
    """Nobody reaches the primary, while it still reaches the others."""
    await _hold(rig, [await rig.cluster.primary()], ".*")
    await rig.cluster.healthy()


async def _hold(rig: Rig, members: list[Member], names: str) -> None:
    for member in members:
        member.proxy.hold(names)
    try:
        await asyncio.sleep(rig.choose.uniform(0.5, 3.5))
    finally:
        for member in members:
            if rig.choose.random() < 0.5:
                member.proxy.cut(names)
            member.proxy.release()
