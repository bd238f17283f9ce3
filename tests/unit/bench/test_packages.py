"""The benchmark of the client packages: its programs run, and are exact."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.bench.packages.pages import HERE
from scripts.bench.packages.python import Methods
from support.waiting import patience

FILES = sorted(HERE.glob("*.mjs"))
WORDS = {"documents": 20, "size": 300, "patches": 300}

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")


@needs_node
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_files_for_node_and_pages_are_valid_javascript(file: Path) -> None:
    subprocess.run(["node", "--check", file], check=True)


@needs_node
def test_the_patches_are_applied_in_javascript() -> None:
    command = ["node", str(HERE / "apply.mjs"), json.dumps(WORDS)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=patience(30))
    assert {name for name, rate in json.loads(done.stdout).items() if rate > 0} == {
        "core",
        "core, alone",
        "client",
        "client, alone",
    }


async def test_the_patches_are_applied_in_python() -> None:
    rates = await Methods().rates(**WORDS)
    assert {name for name, rate in rates.items() if rate > 0} == {"core", "core, alone", "with SQLite"}
