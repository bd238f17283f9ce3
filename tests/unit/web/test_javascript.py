"""The modules of the pages and of the client package under Node's own test runner: each `*.test.mjs` is one test."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.waiting import patience

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "clients" / "js"
FOLDERS = (Path(__file__).parent, PACKAGE / "test")
FILES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in folder.glob("*.test.mjs"))


def test_there_is_something_to_run() -> None:
    assert {"clients/js/test/patch.test.mjs", "tests/unit/web/table.test.mjs"} <= set(FILES)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("name", FILES)
def test_module(name: str) -> None:
    if "fake-indexeddb" in (ROOT / name).read_text() and not (PACKAGE / "node_modules/fake-indexeddb").is_dir():
        pytest.skip("needs npm packages: scripts/peers installs them")
    command = ["node", "--test", "--test-reporter=tap", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n# tests 0\n" not in done.stdout
    assert "\n# skipped 0\n" in done.stdout


@pytest.mark.skipif(
    not (PACKAGE / "node_modules/typescript").is_dir(), reason="needs npm packages: scripts/peers installs them"
)
def test_types_of_the_package_are_sound_and_made_for_each_export(tmp_path: Path) -> None:
    emit = ["--noEmit", "false", "--declaration", "--emitDeclarationOnly", "--outDir", str(tmp_path)]
    command = ["node", "node_modules/typescript/bin/tsc", "--project", ".", *emit]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for export in json.loads((PACKAGE / "package.json").read_text())["exports"].values():
        assert (tmp_path / Path(export["types"]).relative_to("types")).is_file()
        assert (PACKAGE / export["default"]).is_file()


@pytest.mark.skipif(
    not (PACKAGE / "node_modules/esbuild").is_dir(), reason="needs npm packages: scripts/peers installs them"
)
@pytest.mark.parametrize(("entries", "limit"), [(["engine"], 12_000), (["client", "adapters/idb"], 20_000)])
def test_an_application_loads_few_bytes(entries: list[str], limit: int) -> None:
    """The core, and the whole client with its adapters, minified and compressed."""
    program = "".join(f'export * from "./src/{entry}.js";' for entry in entries).encode()
    command = ["node_modules/.bin/esbuild", "--bundle", "--minify", "--format=esm", "--target=es2022"]
    done = subprocess.run(command, cwd=PACKAGE, input=program, capture_output=True, timeout=patience(60), check=True)
    assert 1000 < len(gzip.compress(done.stdout)) <= limit


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_ten_thousand_interleavings() -> None:
    environment = os.environ | {"MODEL_RUNS": "9000", "MODEL_SEED": "1000"}
    command = ["node", "--test", "clients/js/test/model.test.mjs"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience(180), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_names_no_registry() -> None:
    assert "resolved" not in (PACKAGE / "package-lock.json").read_text()
