"""The whole system on a database of the test's own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from eventsync.settings import Settings
from support.systems import Processes
from support.waiting import STREAM_WAIT, patience, scaled, time_limits

DATA = Path(__file__).parents[1] / "data"
PACKAGE = Path(__file__).parents[2] / "clients" / "js"
SETS = ("theaters", "customers", "accounts")


@pytest.fixture(scope="session")
def data_sets() -> dict[str, list[dict[str, Any]]]:
    """The bundled parts of MongoDB's sample collections, as canonical Extended JSON."""
    return {name: [orjson.loads(line) for line in (DATA / f"{name}.ndjson").read_bytes().splitlines()] for name in SETS}


@pytest.fixture
def settings(mongodb_uri: str, database_name: str) -> Settings:
    limits: Any = time_limits(lease_period=1.0, drain_timeout=2.0)
    return Settings(
        mongodb_uri=mongodb_uri,
        database=database_name,
        collections=SETS,
        checkpoint_interval=0.25,
        stream_wait=STREAM_WAIT,
        # Small, so that catch-up comes from the store as well as from the window, and in more than one frame.
        window_bytes=64 * 1024,
        frame_bytes=16 * 1024,
        **limits,
        # A shape without news hears of its position by the heartbeat only.
        heartbeat=scaled(0.5),
    )


@pytest.fixture
def processes(settings: Settings, tmp_path: Path) -> Iterator[Processes]:
    """Processes of this test, which end with it."""
    found = Processes(settings, tmp_path)
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="session")
def script() -> str:
    """Return `tabs_page.mjs`, with all that it imports. It needs esbuild."""
    page = str(Path(__file__).with_name("tabs_page.mjs"))
    command = ["node_modules/.bin/esbuild", page, "--bundle", "--format=esm", "--target=es2022"]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=patience(60), check=True)
    return done.stdout
