"""A MongoDB for the tests in a container, where a Docker daemon answers and has, or gets, the image.

The port that `mongod` listens on inside is published as it is, on loopback: so the one address in the configuration of
the set, `127.0.0.1:PORT`, is right inside and outside, without the host's network.

A process of its own removes the container when this one ends, however it does. (testcontainers' own reaper is another
image, which would have to be had, too.)
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from eventsync.dev import mongod
from support.waiting import patience

IMAGE_VARIABLE: Final = "EVENTSYNC_TEST_MONGODB_IMAGE"
"""The image; default `mongo:7`."""

DOCKER_VARIABLE: Final = "EVENTSYNC_TEST_DOCKER"
"""`0`: no container, even where a daemon answers."""

NAME_PREFIX: Final = "eventsync-test-"

# Reads until the tests end, and then removes the container; it may be gone already.
_GUARD: Final = (
    "import subprocess, sys; sys.stdin.buffer.read(); "
    "subprocess.run(['docker', 'rm', '--force', '--volumes', sys.argv[1]], capture_output=True, check=False)"
)


def docker_answers() -> bool:
    """Return whether there is a Docker daemon to be used."""
    if os.environ.get(DOCKER_VARIABLE) == "0" or not shutil.which("docker"):
        return False
    with suppress(subprocess.TimeoutExpired):
        return (
            subprocess.run(["docker", "info"], capture_output=True, timeout=patience(10), check=False).returncode == 0
        )
    return False


@contextmanager
def running(options: tuple[str, ...]) -> Iterator[str]:
    """A replica set of one in a container, with `options` for its mongod; yield its URI.

    Raises `docker.errors.DockerException` where the image can't be had or run.
    """
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.core.container import DockerContainer  # slow to import, and rarely needed

    port = mongod.free_port()
    words = ["mongod", "--replSet", mongod.REPLICA_SET, "--bind_ip_all", "--port", str(port), *options]
    name = f"{NAME_PREFIX}{secrets.token_hex(6)}"
    container = DockerContainer(os.environ.get(IMAGE_VARIABLE, "mongo:7")).with_command(words).with_name(name)
    container.ports[f"{port}/tcp"] = ("127.0.0.1", port)  # type: ignore[assignment]  # its `with_bind_ports` takes none
    with _guarded(name):
        container.start()
        mongod.initiate(port, timeout=patience(60))
        yield mongod.uri(port)


@contextmanager
def _guarded(name: str) -> Iterator[None]:
    """Have the container `name` removed at the end of the block, or of this process."""
    with subprocess.Popen([sys.executable, "-c", _GUARD, name], stdin=subprocess.PIPE, start_new_session=True):
        yield  # leaving closes the pipe, and waits
