"""The wheel as `pip` builds and installs it, beside packages of the user's own that are named `app` and `workers`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import eventsync
from support.waiting import patience

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "python"
USERS = ("app", "workers")


def ended(*words: str | Path, cwd: Path, path: tuple[Path, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | more
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=patience(60), check=False
    )


def run(*words: str | Path, cwd: Path, path: tuple[Path, ...] = (), **more: str) -> str:
    done = ended(*words, cwd=cwd, path=path, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(project: Path, directory: Path) -> Path:
    """Build the wheel of a project in an empty directory, without a network."""
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *offline, "-w", directory, project, cwd=directory)
    (wheel,) = directory.iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


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


# --- the client package -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(CLIENT, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def with_client(client_wheel: Path) -> Path:
    """Return the directory that the command of the client's README installs it in."""
    (command,) = re.findall(r"^```sh\n(.*?)\n```$", (CLIENT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert command.startswith("pip install eventsync-client")
    site = client_wheel.parent / "site"
    run(
        *(sys.executable, "-m", *command.split()),
        cwd=client_wheel.parent,
        PIP_TARGET=str(site),
        PIP_FIND_LINKS=str(client_wheel.parent),
        PIP_NO_INDEX="1",
        PIP_NO_DEPS="1",
        PIP_QUIET="1",
    )
    return site


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


def test_the_clients_wheel_is_a_package_of_its_own(client_wheel: Path) -> None:
    with zipfile.ZipFile(client_wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"eventsync_client"}
    sources = (CLIENT / "eventsync_client").glob("*.py")
    assert {f"eventsync_client/{source.name}" for source in sources} | {"eventsync_client/py.typed"} <= set(names)
    needed = [Requirement(line) for line in metadata(client_wheel).get_all("Requires-Dist", [])]
    assert {item.name for item in needed if item.marker is None} == {"httpx", "websockets"}
    assert {str(item.marker) for item in needed if item.marker} == {'extra == "bson"', 'extra == "pydantic"'}


def test_only_an_extra_of_the_server_needs_the_client(wheel: Path, client_wheel: Path) -> None:
    needed = [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist", [])]
    (found,) = [item for item in needed if item.name == "eventsync-client"]
    assert str(found.marker) == 'extra == "client"'
    assert metadata(client_wheel)["Version"] in found.specifier


@pytest.mark.slow
def test_a_command_asks_a_server_where_the_client_is_installed(installed: Path, with_client: Path) -> None:
    words = (installed / "bin" / "eventsync", "tail", "orders", "--url", "http://127.0.0.1:1")
    asked = ended(*words, cwd=installed.parent, path=(installed, with_client))
    assert (asked.returncode, asked.stdout) == (1, "")
    assert asked.stderr.startswith("eventsync: http://127.0.0.1:1 cannot be reached: ")


@pytest.mark.slow
def test_a_command_without_the_client_names_the_extra(installed: Path, tmp_path: Path) -> None:
    # The environment of the tests has the package; here it is one that can't be imported.
    (tmp_path / "eventsync_client.py").write_text("raise ModuleNotFoundError('No module named eventsync_client')")
    words = (installed / "bin" / "eventsync", "tail", "orders", "--url", "http://127.0.0.1:1")
    asked = ended(*words, cwd=installed.parent, path=(tmp_path, installed))
    said = "--url needs the client package: pip install 'eventsync[client]' (No module named eventsync_client)"
    assert (asked.returncode, asked.stdout, asked.stderr) == (2, "", f"eventsync: {said}\n")
    assert "Use this server" in run(
        installed / "bin" / "eventsync", "tail", "--help", cwd=installed.parent, path=(tmp_path, installed)
    )
