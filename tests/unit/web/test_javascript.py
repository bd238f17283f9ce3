"""The browser's modules under Node's own test runner: each `*.test.mjs` here is one test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.waiting import patience

FOLDER = Path(__file__).parent
FILES = sorted(path.name for path in FOLDER.glob("*.test.mjs"))


def test_there_is_something_to_run() -> None:
    assert "patch.test.mjs" in FILES


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("name", FILES)
def test_module(name: str) -> None:
    command = ["node", "--test", "--test-reporter=tap", name]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n# tests 0\n" not in done.stdout
    assert "\n# skipped 0\n" in done.stdout
