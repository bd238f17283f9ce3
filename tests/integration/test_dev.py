"""The embedded mongod, and several of them as one set."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from eventsync.dev import mongod, replica_set
from eventsync.errors import ConfigurationError, Unavailable
from eventsync.server.supervision.orphans import die_with_parent
from support.waiting import patience


@contextmanager
def node(directory: Path, port: int) -> Iterator[None]:
    directory.mkdir(exist_ok=True)
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            mongod.command(mongod.find_mongod(), directory, port),
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs yet
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(patience(30))


def connected(uri: str) -> MongoClient[dict[str, Any]]:
    return MongoClient(uri)


def test_a_data_directory_is_taken_over_on_another_port(tmp_path: Path) -> None:
    first, second = mongod.free_port(), mongod.free_port()
    with node(tmp_path, first):
        mongod.initiate(first)
        with connected(mongod.uri(first)) as client:
            client.get_database("app")["kept"].insert_one({"_id": 1})
    with node(tmp_path, second):
        mongod.initiate(second)
        mongod.initiate(second)
        with connected(mongod.uri(second)) as client:
            assert client.get_database("app")["kept"].count_documents({}) == 1


def test_three_nodes_become_one_set_however_often_that_is_asked(tmp_path: Path) -> None:
    ports = [mongod.free_port() for _ in range(3)]
    members = [f"127.0.0.1:{port}" for port in ports]
    with node(tmp_path / "a", ports[0]), node(tmp_path / "b", ports[1]), node(tmp_path / "c", ports[2]):
        primary = replica_set.initiate(members, timeout=patience(30), election_timeout=1.0)
        assert primary in members
        assert replica_set.initiate(members, timeout=patience(30)) in members
        with connected(f"mongodb://{','.join(members)}/?replicaSet={mongod.REPLICA_SET}") as client:
            assert client.admin.command("hello")["hosts"] == members


def test_nodes_that_are_not_there_are_waited_for_in_bounds() -> None:
    with pytest.raises(Unavailable, match="no primary after"):
        replica_set.initiate([f"127.0.0.1:{mongod.free_port()}"], timeout=0.1)


@pytest.mark.parametrize("members", [[], ["host-without-port"]])
def test_members_need_a_port(members: list[str]) -> None:
    with pytest.raises(ConfigurationError):
        replica_set.initiate(members, timeout=0.1)
