"""The modules of the pages and of the client package under Node's own test runner: each `*.test.mjs` is one test."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from support.waiting import patience

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "clients" / "js"
FOLDERS = (Path(__file__).parent, PACKAGE / "test")
FILES = sorted(str(path.relative_to(ROOT)) for folder in FOLDERS for path in folder.glob("*.test.mjs"))
ADAPTERS = {"react.test.mjs", "tanstack.test.mjs"}
"""Tests of what works with a range of versions of another package: with its newest one, and with its oldest one."""

OLDEST = Path(sys.prefix) / "peers" / "node_modules"
PAGES = ("clients/js/README.md", "docs/guides/browser.md", "docs/design/clients.md", "CHANGELOG.md")
NO_PACKAGES = "needs npm packages: scripts/peers installs them"


def test_there_is_something_to_run() -> None:
    assert {"clients/js/test/patch.test.mjs", "tests/unit/web/table.test.mjs"} <= set(FILES)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("name", FILES)
def test_module(name: str) -> None:
    if not packages_of(ROOT / name, PACKAGE / "node_modules"):
        pytest.skip(NO_PACKAGES)
    run_tests(name, ROOT)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_module_with_the_oldest_packages(name: str, tmp_path: Path) -> None:
    if not packages_of(PACKAGE / "test" / name, OLDEST):
        pytest.skip(NO_PACKAGES)
    for folder in ("src", "test"):
        shutil.copytree(PACKAGE / folder, tmp_path / folder)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "node_modules").symlink_to(OLDEST)
    run_tests(f"test/{name}", tmp_path)


def packages_of(test: Path, folder: Path) -> bool:
    """Return True if the packages that a test imports by name are installed in a folder."""
    imported = re.findall(r"""(?:from |import |import\()"((?:@[\w-]+/)?[\w-]+)""", test.read_text())
    return all((folder / name).is_dir() for name in imported if name != "node")


def run_tests(name: str, cwd: Path) -> None:
    """Run one test module; fail if a test of it fails or is skipped, or if there is none."""
    command = ["node", "--test-reporter=tap", name]  # with `--test`, each module would be a process of a second node
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n# tests 0\n" not in done.stdout
    assert "\n# skipped 0\n" in done.stdout


@pytest.mark.skipif(not (PACKAGE / "node_modules/typescript").is_dir(), reason=NO_PACKAGES)
def test_types_of_the_package_are_sound() -> None:
    tsc("--project", ".", cwd=PACKAGE)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of an application that has installed the packed package, with the package's own tools."""
    if not (PACKAGE / "node_modules/typescript").is_dir():
        pytest.skip(NO_PACKAGES)
    application = tmp_path_factory.mktemp("application")
    command = ["npm", "pack", "--silent", "--pack-destination", str(application)]
    subprocess.run(command, cwd=PACKAGE, capture_output=True, timeout=patience(120), check=True)
    (archive,) = application.glob("*.tgz")
    modules = application / "node_modules"
    modules.mkdir()
    with tarfile.open(archive) as files:
        files.extractall(modules, filter="data")
    (modules / "package").rename(modules / "eventsync")
    for installed in (PACKAGE / "node_modules").iterdir():
        if not installed.name.startswith("."):
            (modules / installed.name).symlink_to(installed)
    return application


def test_the_packed_package_has_each_export(packed: Path) -> None:
    """As modules that Node imports, beside nothing but their types, the README and the license."""
    installed = packed / "node_modules" / "eventsync"
    exports = json.loads((installed / "package.json").read_text())["exports"]
    assert {".", "./store", "./idb", "./decode", "./react", "./tanstack-db"} == set(exports)
    assert {path.name for path in installed.iterdir()} == {"LICENSE", "package.json", "README.md", "src", "types"}
    assert (installed / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", (installed / "README.md").read_text()):
        path = (installed / link).resolve()
        assert link.startswith("https://") or (path.is_relative_to(installed) and path.exists()), link
    for export in exports.values():
        assert (installed / export["types"]).is_file()
    names = [f"eventsync{export[1:]}" for export in exports]
    program = f"for (const name of {json.dumps(names)}) if (!Object.keys(await import(name)).length) throw name"
    run = ["node", "--input-type=module", "--eval", program]
    done = subprocess.run(run, cwd=packed, capture_output=True, text=True, timeout=patience(60), check=False)
    assert done.returncode == 0, done.stderr


def test_types_of_the_packed_package_let_an_application_do_what_they_say(packed: Path) -> None:
    """Each `@ts-expect-error` is above a line with an error, and there is no other one, in our declarations either."""
    programs = sorted((PACKAGE / "test" / "types").glob("*.ts"))
    for program in programs:
        shutil.copy(program, packed)
    (packed / "package.json").write_text('{"type": "module"}')
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", ""]
    names = [program.name for program in programs]
    tsc(*options, "--lib", "es2023,dom,dom.iterable,dom.asynciterable", *names, cwd=packed)


def tsc(*options: str, cwd: Path) -> None:
    command = ["node", str(PACKAGE / "node_modules/typescript/bin/tsc"), *options]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=patience(120), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not (PACKAGE / "node_modules/esbuild").is_dir(), reason=NO_PACKAGES)
@pytest.mark.parametrize(
    ("entries", "limit", "pages"),
    [
        (["engine"], 9_000, ()),
        (["client"], 18_700, PAGES),
        (["client", "adapters/idb"], 26_700, PAGES[:1]),
        (["client", "adapters/idb", "adapters/react"], 27_900, PAGES),
        (["client", "adapters/idb", "adapters/react", "decode"], 29_000, PAGES[:1]),
    ],
)
def test_an_application_loads_few_bytes(entries: list[str], limit: int, pages: tuple[str, ...]) -> None:
    """The core, the client, and the client with what is imported beside it, minified and compressed.

    The pages name the limit in kB.
    """
    program = "".join(f'export * from "./src/{entry}.js";' for entry in entries).encode()
    command = [
        "node_modules/.bin/esbuild",
        "--bundle",
        "--minify",
        "--format=esm",
        "--target=es2022",
        "--external:react",
    ]
    done = subprocess.run(command, cwd=PACKAGE, input=program, capture_output=True, timeout=patience(60), check=True)
    assert limit - 300 < len(gzip.compress(done.stdout)) <= limit
    for page in pages:
        assert f"{limit / 1000:.1f}" in (ROOT / page).read_text(), page


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
