"""A replica set of embedded mongods on loopback, each behind a proxy, to be killed, frozen and cut off."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from eventsync.dev import mongod
from eventsync.mongodb.errors import short
from eventsync.server.supervision.orphans import die_with_parent
from support.chaos.clocks import Clock
from support.chaos.disks import Disk
from support.chaos.proxy import MongoProxy, mongo_proxy
from support.data_directory import data_directory
from support.waiting import patience, scaled

_SETTINGS = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200, "catchUpTimeoutMillis": 2000}
_PAUSE = 0.05
_EAGER = ("--setParameter", "ttlMonitorSleepSecs=1")
"""Documents expire at once, and not only once a minute."""

DISK = 2048
"""MiB of a disk that can be full. It is memory: so much for a member at most, and only what is used of it."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Resources of the members. `oplog`: MiB, so small that it rolls over within seconds; 0: enough for a run.

    `clocks`: that can jump. `disks`: that can be full.
    """

    oplog: int = 0
    clocks: bool = False
    disks: bool = False


_ORDINARY = Machine()


class Member:
    """One mongod. Everybody reaches it through its proxy, but for the nemeses, who are `direct`."""

    def __init__(
        self,
        number: int,
        directory: Path,
        port: int,
        proxy: MongoProxy,
        *,
        log: Path,
        oplog: int,
        clock: Clock | None,
        disk: int,
    ) -> None:
        self.number = number
        self.proxy = proxy
        self.clock = clock
        self.disk = Disk(directory, disk) if disk else None
        self.host = f"127.0.0.1:{proxy.port}"
        self.direct: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            "127.0.0.1",
            port,
            directConnection=True,
            serverSelectionTimeoutMS=500,
            socketTimeoutMS=2000,
            # A session's id in the oplog is a UUID.
            uuidRepresentation="standard",
        )
        self.data = directory
        self._log = log
        self._command = [*mongod.command(mongod.find_mongod(), directory, port), *_EAGER]
        if oplog:
            self._command[self._command.index("--oplogSize") + 1] = str(oplog)
        if oplog or disk:
            # Checkpoints every second, not every minute: what is no longer needed goes, and what does not fit is seen.
            self._command += ["--syncdelay", "1"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                env=os.environ | (self.clock.environment() if self.clock else {}),
                # Not SIGTERM, which a frozen one would not take.
                preexec_fn=partial(die_with_parent, signal.SIGKILL, os.getpid()),  # noqa: PLW1509
            )

    @property
    def running(self) -> bool:
        """True while the process has not ended, by itself or by `kill`."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9, and wait until it is dead."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, patience(20))
            self._process = None

    async def hello(self) -> Mapping[str, Any]:
        """Its own view of its role; empty where it does not answer."""
        try:
            return await self.direct.admin.command("hello")
        except PyMongoError:
            return {}


class Cluster:
    """The replica set `rs0`."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    @property
    def uri(self) -> str:
        hosts = ",".join(member.host for member in self.members)
        return f"mongodb://{hosts}/?replicaSet={mongod.REPLICA_SET}"

    async def primary(self, *, seconds: float = 30.0) -> Member:
        """The member that takes writes: the one elected last, where two believe it. Waits for an election."""
        deadline = time.monotonic() + patience(seconds)
        while time.monotonic() < deadline:
            hellos = [(await member.hello(), member) for member in self.members]
            if found := [(item["electionId"], member) for item, member in hellos if item.get("isWritablePrimary")]:
                return max(found, key=lambda pair: pair[0])[1]
            await asyncio.sleep(_PAUSE)
        raise TimeoutError("no primary was elected")

    async def secondaries(self) -> list[Member]:
        """The members that follow now."""
        return [member for member in self.members if (await member.hello()).get("secondary")]

    async def healthy(self, *, seconds: float = 40.0) -> None:
        """Wait until there is a primary and all others follow it."""
        deadline = time.monotonic() + patience(seconds)
        while time.monotonic() < deadline:
            hellos = [await member.hello() for member in self.members]
            primaries = sum(bool(item.get("isWritablePrimary")) for item in hellos)
            if primaries == 1 and sum(bool(item.get("secondary")) for item in hellos) == len(hellos) - 1:
                return
            await asyncio.sleep(_PAUSE)
        raise TimeoutError("the replica set did not recover")

    async def initiate(self) -> None:
        """Make the members a replica set, and wait until it is healthy."""
        members = [{"_id": member.number, "host": member.host} for member in self.members]
        config = {
            "_id": mongod.REPLICA_SET,
            "members": members,
            "settings": {name: int(scaled(value)) for name, value in _SETTINGS.items()},
        }
        deadline = time.monotonic() + patience(30)
        while True:
            try:
                await self.members[0].direct.admin.command("replSetInitiate", config)
                break
            except PyMongoError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(short(error)) from error
                await asyncio.sleep(_PAUSE)
        await self.healthy()
        for member in self.members:
            # What a killed client had begun holds its documents until it is undone.
            await member.direct.admin.command(
                {"setParameter": 1, "transactionLifetimeLimitSeconds": math.ceil(scaled(2))}
            )


@asynccontextmanager
async def running_cluster(directory: Path, size: int, machine: Machine = _ORDINARY) -> AsyncIterator[Cluster]:
    """A new replica set of `size` members while the block runs; its data is gone afterwards."""
    async with AsyncExitStack() as stack:
        cluster = Cluster([await stack.enter_async_context(_member(directory, n, machine)) for n in range(size)])
        await cluster.initiate()
        yield cluster


@asynccontextmanager
async def _member(directory: Path, number: int, machine: Machine) -> AsyncIterator[Member]:
    port = mongod.free_port()
    clock = Clock(directory / f"mongod{number}.clock") if machine.clocks else None
    async with AsyncExitStack() as stack:
        data = directory / f"data{number}"
        if not machine.disks:  # which are memory already
            data = stack.enter_context(data_directory(directory / f"member{number}")) / data.name
        proxy = await stack.enter_async_context(mongo_proxy(port))
        disk = DISK if machine.disks else 0
        member = Member(
            number,
            data,
            port,
            proxy,
            log=directory / f"mongod{number}.log",
            oplog=machine.oplog,
            clock=clock,
            disk=disk,
        )
        if member.disk:
            member.disk.mount()
        try:
            member.start()
            yield member
        finally:
            await member.kill()
            await member.direct.close()
            if member.disk:
                member.disk.unmount()
            shutil.rmtree(data, ignore_errors=True)
