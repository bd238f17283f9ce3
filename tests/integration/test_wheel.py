"""The wheel as `pip` builds and installs it, beside packages of the user's own that are named `app` and `workers`."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import eventsync
from support.waiting import patience

ROOT = Path(__file__).parents[2]
USERS = ("app", "workers")


def run(*words: str | Path, cwd: Path, path: tuple[Path, ...] = ()) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=patience(60), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "-w", directory, ROOT, cwd=directory)
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """Return the directory that holds the installed wheel, beside the user's own packages."""
    site = wheel.parent / "site"
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "install", *offline, "--target", site, wheel, cwd=wheel.parent)
    for name in USERS:
        package = wheel.parent / "user" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("OWNER = 'the user'\n")
    return site


def test_the_wheel_has_the_two_packages_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"eventsync", "eventsync_workers"}
    assert {"eventsync/web/index.html", "eventsync/py.typed", "eventsync_workers/py.typed"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_has_the_client_package_as_files(wheel: Path) -> None:
    """In the tree they are links into `clients/js/src`, which are no use in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for source in (ROOT / "clients" / "js" / "src").glob("*.js"):
            assert archive.read(f"eventsync/web/{source.name}") == source.read_bytes()


def test_the_command_runs_beside_the_users_own_packages(installed: Path) -> None:
    user = installed.parent / "user"
    for path in ((user, installed), (installed, user)):
        shown = run(installed / "bin" / "eventsync", "--version", cwd=user, path=path)
        assert shown == f"eventsync {eventsync.__version__}\n"
        assert "Turn committed changes into events" in run(
            installed / "bin" / "eventsync", "worker", "--help", cwd=user, path=path
        )


def test_both_packages_are_imported_from_the_wheel_and_the_users_own_stay(installed: Path) -> None:
    program = """
import app, workers
import eventsync, eventsync_workers
for name in eventsync.__all__:
    getattr(eventsync, name)
print(app.OWNER, workers.OWNER, eventsync.__file__, eventsync_workers.__file__, sep="\\n")
"""
    user = installed.parent / "user"
    shown = run(sys.executable, "-c", program, cwd=user, path=(user, installed)).splitlines()
    assert shown[:2] == ["the user", "the user"]
    assert [Path(file).parents[1] for file in shown[2:]] == [installed, installed]
