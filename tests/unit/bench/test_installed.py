from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = Path("scripts/bench/peers/node")


def test_the_lock_says_what_is_installed_and_not_from_where() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    assert lock["packages"][""]["dependencies"] == wanted
    assert not any("resolved" in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


@pytest.mark.parametrize("name", ["servers.mjs", "clients.mjs"])
def test_what_node_runs_is_javascript(name: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("no Node")
    subprocess.run(["node", "--check", NODE / name], check=True)
