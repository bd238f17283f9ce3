"""A replica set of embedded mongods on loopback, each behind a proxy, to be killed, frozen and cut off."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from eventsync.dev import mongod
from eventsync.server.supervision.orphans import die_with_parent
from support.data_directory import data_directory
from support.tcp_proxy import TcpProxy, tcp_proxy
from support.waiting import eventually, patience, scaled

_MIB = 1024 * 1024


class MountRefusedError(Exception):
    """The machine lets us mount nothing."""


@cache
def disks_missing() -> str | None:
    """Return the reason why no such disk can be had here, or None, by an attempt to mount one."""
    with tempfile.TemporaryDirectory(prefix="chaos-disk-") as directory:
        disk = Disk(Path(directory), 1)
        try:
            disk.mount()
        except MountRefusedError as error:
            return f"no tmpfs can be mounted: {error}"
        disk.unmount()
    return None


class Disk:
    """A tmpfs of `size` MiB at `directory`."""

    def __init__(self, directory: Path, size: int) -> None:
        self._directory = directory
        self._size = size

    @property
    def _ballast(self) -> Path:
        return self._directory / "ballast"

    def mount(self) -> None:
        """Raises `MountRefusedError`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size}m", "chaos", str(self._directory))

    def unmount(self) -> None:
        """Lazily: whoever still has a file open keeps it until its end."""
        _run("umount", "--lazy", str(self._directory))

    def fill(self) -> int:
        """Write ballast until nothing more fits; says how many bytes it took."""
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(_MIB))
            except OSError:
                return ballast.tell()

    def free(self) -> None:
        """Throw the ballast off."""
        self._ballast.unlink(missing_ok=True)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=patience(20), check=False)
    except OSError as error:
        raise MountRefusedError(str(error)) from error
    if done.returncode:
        raise MountRefusedError(done.stderr.strip())


_PLACES = ("/usr/lib", "/usr/local/lib", "/lib64", "/usr/lib64")
_LIBRARY = "libfaketimeMT.so.1"


def library() -> Path | None:
    """Return the path of libfaketime, in the variant for programs with threads; None if it is MISSING."""
    patterns = (f"faketime/{_LIBRARY}", f"*/faketime/{_LIBRARY}")
    found = (path for place in _PLACES for pattern in patterns for path in Path(place).glob(pattern))
    return next(found, None)


def clocks_missing() -> str | None:
    """Return the reason why clocks can't jump here, or None."""
    return None if library() else "libfaketime is not installed (Debian's package is `faketime`)"


class Clock:
    """One process's clock, and how far it is from the machine's.

    `monotonic`: the process that is started next has also a clock that jumps which never does on a sound machine.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.monotonic = False
        self.jump(0)

    def jump(self, seconds: float) -> None:
        """Be so far ahead of the machine's clock from now on; the process notices within a second."""
        # Replaced as a whole: half a number would be another time.
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+.3f}\n")
        new.replace(self._file)

    def environment(self) -> dict[str, str]:
        """Return the environment of a process with this clock."""
        own = "0" if self.monotonic else "1"
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": own,
            "DONT_FAKE_MONOTONIC": own,
            # Its remedy for waits on condition variables makes each of mongod's last for seconds.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }


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

    def __init__(self, number: int, directory: Path, data: Path, port: int, proxy: TcpProxy, machine: Machine) -> None:
        self.number = number
        self.proxy = proxy
        self.clock = Clock(directory / f"mongod{number}.clock") if machine.clocks else None
        self.disk = Disk(data, DISK) if machine.disks else None
        self.host = f"127.0.0.1:{proxy.port}"
        # A session's id in the oplog is a UUID.
        limits: Any = {"serverSelectionTimeoutMS": 500, "socketTimeoutMS": 2000, "uuidRepresentation": "standard"}
        self.direct: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            "127.0.0.1", port, directConnection=True, **limits
        )
        self.data = data
        self._log = directory / f"mongod{number}.log"
        self._command = [*mongod.command(mongod.find_mongod(), data, port), *_EAGER]
        if machine.oplog:
            self._command[self._command.index("--oplogSize") + 1] = str(machine.oplog)
        if machine.oplog or machine.disks:
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
        """Return its own view of its role; empty where it does not answer."""
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
        """Return the member that takes writes: the one elected last, where two believe it. Wait for an election."""
        found: Member = await eventually(self._elected, seconds, pause=_PAUSE)
        return found

    async def _elected(self) -> Member | None:
        hellos = [(await member.hello(), member) for member in self.members]
        found = [(item["electionId"], member) for item, member in hellos if item.get("isWritablePrimary")]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    async def secondaries(self) -> list[Member]:
        """Return the members that follow now."""
        return [member for member in self.members if (await member.hello()).get("secondary")]

    async def healthy(self, *, seconds: float = 40.0) -> None:
        """Wait until there is a primary and all others follow it."""
        await eventually(self._is_healthy, seconds, pause=_PAUSE)

    async def _is_healthy(self) -> bool:
        hellos = [await member.hello() for member in self.members]
        roles = Counter(role for item in hellos for role in ("isWritablePrimary", "secondary") if item.get(role))
        return roles == Counter(isWritablePrimary=1, secondary=len(hellos) - 1)

    async def initiate(self) -> None:
        """Make the members a replica set, and wait until it is healthy."""
        settings = {name: int(scaled(value)) for name, value in _SETTINGS.items()}
        members = [{"_id": member.number, "host": member.host} for member in self.members]
        config = {"_id": mongod.REPLICA_SET, "members": members, "settings": settings}

        async def initiated() -> bool:
            with suppress(PyMongoError):
                return bool(await self.members[0].direct.admin.command("replSetInitiate", config))
            return False

        await eventually(initiated, 30, pause=_PAUSE)
        await self.healthy()
        for member in self.members:
            # What a killed client had begun holds its documents until it is undone.
            limit = {"transactionLifetimeLimitSeconds": math.ceil(scaled(2))}
            await member.direct.admin.command({"setParameter": 1, **limit})


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
    async with AsyncExitStack() as stack:
        data = directory / f"data{number}"
        if not machine.disks:  # which are memory already
            data = stack.enter_context(data_directory(directory / f"member{number}")) / data.name
        proxy = await stack.enter_async_context(tcp_proxy(f"mongodb://127.0.0.1:{port}"))
        member = Member(number, directory, data, port, proxy, machine)
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
