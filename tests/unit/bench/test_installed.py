from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = Path("scripts/bench/peers/node")


def test_each_peer_is_pinned_to_one_version() -> None:
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    assert wanted
    assert not {name: version for name, version in wanted.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)}


@pytest.mark.parametrize("name", ["servers.mjs", "clients.mjs"])
def test_the_files_for_node_are_valid_javascript(name: str) -> None:
    if shutil.which("node") is None:
        pytest.skip("no Node")
    subprocess.run(["node", "--check", NODE / name], check=True)
