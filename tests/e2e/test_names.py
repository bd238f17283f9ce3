"""A member of the replica set is killed and its name is gone, and the name server never answers.

The test runs this file as a command in network and mount namespaces, as root: with an /etc/hosts of its own, it kills
the primary of a replica set whose members go by names, takes its name away as Docker does, and prints what became of
the HTTP writes.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from eventsync.dev import mongod, replica_set
from eventsync.server.supervision.orphans import die_with_parent
from eventsync.settings import Settings
from support.systems import Processes, tracked
from support.waiting import patience, within

_NAMES: Final = ("mongo-a", "mongo-b", "mongo-c")
_TESTS: Final = Path(__file__).parent.parent
_PATIENCE: Final = 60.0
"""Seconds: more than an election takes, less than a look-up here (the resolver asks five times, for 30 s each)."""

_SET_IFFLAGS: Final = 0x8914
_UP_AND_RUNNING: Final = 0x41


def possible() -> bool:
    """Return True if this process may make namespaces."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return False
    return subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode == 0


def failover(directory: Path) -> dict[str, Any]:
    """Run `_story` in namespaces of its own; return its result."""
    words = ["unshare", "--mount", "--net", "--kill-child", sys.executable, __file__, str(directory)]
    environment = os.environ | {"PYTHONPATH": f"{_TESTS}{os.pathsep}{_TESTS.parent}"}
    limits: Any = {"timeout": patience(300), "preexec_fn": die_with_parent}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, **limits)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _silent_name_server(directory: Path) -> Iterator[Path]:
    """Give the namespace a loopback interface, a name server that never answers, and an /etc/hosts; yield that."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, _SET_IFFLAGS, struct.pack("16sh", b"lo", _UP_AND_RUNNING))
    hosts, resolver = directory / "hosts", directory / "resolv.conf"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"127.0.0.1 {name}\n" for name in _NAMES))
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
    for file, place in ((hosts, "/etc/hosts"), (resolver, "/etc/resolv.conf")):
        subprocess.run(["mount", "--bind", str(file), place], check=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        yield hosts


_KNOWING_ALL_NAMES: Final = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')
"""A member looks names up in one thread, where the name of the dead member would hold up the others."""


@contextmanager
def _members(directory: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Start a replica set of three, each member known by its name; yield its processes by `host:port`."""
    binary = mongod.find_mongod()
    running: dict[str, subprocess.Popen[bytes]] = {}
    names = directory / "hosts of the members"
    names.write_text(Path("/etc/hosts").read_text())
    try:
        for name in _NAMES:
            data, port = directory / name, _port_beside(running)
            data.mkdir()
            with (directory / f"{name}.log").open("wb") as log:
                running[f"{name}:{port}"] = subprocess.Popen(
                    [*_KNOWING_ALL_NAMES, str(names), *mongod.command(binary, data, port)],
                    stdout=log,
                    stderr=log,
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
                )
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait(patience(20))


def _port_beside(running: Collection[str]) -> int:
    """Return a free port that no member has been given: one that starts does not listen yet."""
    taken = {member.partition(":")[2] for member in running}
    return next(port for port in iter(mongod.free_port, None) if str(port) not in taken)


async def _story(directory: Path) -> dict[str, Any]:
    """Return the statuses of the writes after the failover, and whether the last one became an event."""
    with _silent_name_server(directory) as hosts, _members(directory) as members:
        primary = replica_set.initiate(list(members), timeout=patience(120), election_timeout=1.0)
        uri = f"mongodb://{','.join(members)}/?replicaSet={mongod.REPLICA_SET}"
        system = Processes(Settings(mongodb_uri=uri, database="names", collections=("docs",)), directory)
        system.start("worker", "serve")
        try:
            await tracked(system.url, ["docs"], seconds=120)
            members[primary].send_signal(signal.SIGKILL)
            gone = primary.partition(":")[0]
            hosts.write_text("".join(line for line in hosts.read_text().splitlines(True) if gone not in line))
            return await _write_until_taken(system.url)
        finally:
            system.stop()


async def _write_until_taken(url: str) -> dict[str, Any]:
    statuses: list[int] = []
    document = "/v1/collections/docs/documents/1"
    async with httpx.AsyncClient(base_url=url, timeout=patience(_PATIENCE)) as client, within(2 * _PATIENCE):
        while 200 not in statuses and 201 not in statuses:
            statuses.append((await client.put(document, json={"n": len(statuses)})).status_code)
        start = (await client.get("/v1/state-vectors")).status_code
        events: list[Any] = []
        while not events:
            answer = await client.get(f"{document}/events")
            events = answer.json().get("events", [])
    return {"statuses": statuses, "events": len(events), "other": start}


@pytest.mark.slow
@pytest.mark.skipif(not possible(), reason="namespaces need root and unshare")
def test_a_member_whose_name_is_gone_does_not_delay_the_failover(tmp_path: Path) -> None:
    found = failover(tmp_path)
    assert found["statuses"][-1] in {200, 201}
    # Until there is a primary a write is answered, too.
    assert set(found["statuses"][:-1]) <= {503}
    assert found["other"] == 200
    assert found["events"]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_story(Path(sys.argv[1])))))  # noqa: T201 - read by `failover`
