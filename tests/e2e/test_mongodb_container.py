"""The container that the tests themselves use for MongoDB, where a Docker daemon answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pymongo import MongoClient

from support import mongodb_container
from support.waiting import patience

pytestmark = pytest.mark.skipif(not mongodb_container.docker_answers(), reason="no Docker daemon answers")

_HOLD = "with running(()) as uri: print(uri, flush=True); input()"


def _hold(image: str) -> subprocess.Popen[str]:
    """Start tests' stand-in, which holds a container until it gets a line."""
    code = f"from support.mongodb_container import running\n{_HOLD}"
    root = Path(__file__).parents[2]
    environment = {mongodb_container.IMAGE_VARIABLE: image, "PYTHONPATH": f"{root / 'tests'}:{root}"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


def _containers() -> set[str]:
    words = ["docker", "ps", "--all", "--quiet", "--filter", f"name={mongodb_container.NAME_PREFIX}"]
    return set(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.parametrize("ending", ["in order", "kill -9"])
def test_the_container_is_reached_by_its_one_address_and_goes_with_the_tests(ending: str) -> None:
    before = _containers()
    with _hold("mongo:7") as process:
        assert process.stdout is not None
        uri = process.stdout.readline().strip()
        made = _containers() - before
        assert len(made) == 1
        with MongoClient[dict[str, object]](uri) as client:
            client.get_database("container").get_collection("docs").insert_one({"_id": 1})
        if ending == "kill -9":
            process.send_signal(signal.SIGKILL)
    while made & _containers():
        continue


def test_an_image_that_can_not_be_had_is_an_error_that_says_so() -> None:
    with _hold("eventsync.invalid/no-such-image:1") as process:
        _, said = process.communicate(timeout=patience(300))
    assert "docker.errors." in said
    assert process.returncode == 1
