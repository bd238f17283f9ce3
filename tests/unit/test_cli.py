"""The command line without MongoDB: what is refused, and how."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from eventsync import __version__
from eventsync.cli import commands, processes
from eventsync.settings import PREFIX
from support.waiting import patience

UNREACHABLE = "mongodb://127.0.0.1:1/?replicaSet=rs0"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration but the test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def run(*words: str) -> Result:
    return CliRunner().invoke(commands, words, prog_name="eventsync")


def refused(result: Result, code: int) -> str:
    """The one line that a refusal is."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_the_version() -> None:
    assert run("--version").stdout == f"eventsync {__version__}\n"


def test_all_commands_are_listed() -> None:
    listed = run("--help").stdout
    for name in ("dev", "serve", "worker", "track", "status", "tail", "settings"):
        assert f"  {name} " in listed


@pytest.mark.parametrize("words", [["--help"], ["rules", "--help"]])
def test_the_summary_of_a_command_is_a_whole_sentence(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    summaries = run(*words).stdout.partition("Commands:\n")[2].splitlines()
    assert len(summaries) >= 4
    assert [line for line in summaries if line.endswith("...") or not line.endswith(".")] == []


def test_url_is_also_an_option_before_the_command() -> None:
    def line(*words: str, code: int = 1) -> str:
        return refused(run(*words), code)

    alone = line("--url", "http://127.0.0.1:1", "clients")
    assert alone == line("clients", "--url", "http://127.0.0.1:1")
    assert "http://127.0.0.1:1 is not reached" in alone
    own = line("--url", "http://127.0.0.1:2", "clients", "--url", "http://127.0.0.1:1")
    assert own == alone
    reason = line("--url", "http://127.0.0.1:1", "track", "orders", code=2)
    assert reason == "eventsync: `eventsync track` takes no --url"


def test_the_error_of_a_misspelt_command_names_the_nearest_one() -> None:
    assert "'status'" in run("statu").stderr


def test_a_command_imports_only_what_it_needs() -> None:
    """Processes are started often, and a worker has no use for a server's libraries."""
    program = (
        "import sys; from eventsync.cli import commands; commands(sys.argv[1:], standalone_mode=False); "
        "import eventsync_workers.__main__; print(*sys.modules, file=sys.stderr)"
    )
    words = [sys.executable, "-c", program, "worker", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=patience(30), check=True)
    needless = {
        "starlette",
        "uvicorn",
        "websockets",
        "rich",
        "eventsync.main",
        "eventsync.cli.serve",
        "eventsync.dev.supervisor",
    }
    assert "Turn committed changes into events" in done.stdout
    assert not needless & set(done.stderr.split())


def test_dev_has_exactly_the_options_that_are_promised() -> None:
    text = run("dev", "--help").stdout
    for option in ("--host", "--port", "--data-dir", "--mongodb-uri", "--database", "--collections", "--no-demo"):
        assert option in text


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--port", "0"),
        ("serve", "--port", "0", "--workers", "2"),
        ("worker",),
        ("track", "orders"),
        ("status",),
        ("tail", "orders"),
    ],
)
def test_without_mongodb_the_error_names_the_remedy(words: tuple[str, ...]) -> None:
    assert "set EVENTSYNC_MONGODB_URI" in refused(run(*words), 2)


@pytest.mark.parametrize("command", ["serve", "worker", "dev", "status"])
def test_settings_that_are_not_valid_are_refused(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSYNC_LEASE_PERIOD", "-1")
    assert refused(run(command), 2).startswith("eventsync: the settings are not valid: lease_period:")


def test_a_mongodb_that_does_not_answer_is_one_line_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSYNC_MONGODB_TIMEOUT", "0.2")
    monkeypatch.setenv("EVENTSYNC_MONGODB_URI", UNREACHABLE)
    # Processes of their own: a connection attempt that PyMongo is cancelled in leaves its socket to the collector.
    started = [
        subprocess.Popen([sys.executable, "-P", "-m", "eventsync", *words], stderr=subprocess.PIPE, text=True)
        for words in (["status"], ["track", "orders"], ["tail", "orders"])
    ]
    for process in started:
        _, said = process.communicate(timeout=patience(10))
        assert process.returncode == 1
        assert len(said.splitlines()) == 1, said
        assert "127.0.0.1:1" in said


@pytest.mark.parametrize("words", [("tail", "$where"), ("tail", "orders", "--from", "12")])
def test_track_refuses_a_collection_that_cannot_be_followed(words: tuple[str, ...]) -> None:
    assert refused(run(*words, "--mongodb-uri", UNREACHABLE), 1)


def test_an_entry_point_that_can_not_be_loaded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("broken", "no.such.module:main", processes.GROUP)
    with pytest.raises(Exception, match=r"no\.such\.module"):
        processes._load(broken)


@pytest.mark.parametrize("command", ["dev", "serve"])
def test_a_used_port_is_refused_before_anything_is_made(command: str, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in refused(run(command, "--port", str(port)), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_used_port_is_refused_for_several_processes_as_for_one() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        words = ("serve", "--workers", "2", "--mongodb-uri", UNREACHABLE, "--port", str(port))
        assert f"port {port} on 127.0.0.1 is in use" in refused(run(*words), 2)


def test_there_is_at_least_one_server_process() -> None:
    assert run("serve", "--workers", "0").exit_code == 2
    assert "--workers" in run("serve", "--help").stdout
    assert "fd" not in run("serve", "--help").stdout


def test_dev_in_a_directory_that_can_not_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--data-dir" in refused(run("dev", "--port", "0", "--data-dir", "file"), 2)


def test_python_m_app_is_the_same_program() -> None:
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "eventsync", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert shown == f"eventsync {__version__}\n"


def test_settings_tells_what_is_in_force_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTSYNC_MONGODB_URI", "mongodb://ada:hunter2@db.example/?replicaSet=rs0")
    monkeypatch.setenv("EVENTSYNC_COLLECTIONS", "a,b")
    result = run("settings", "--json")
    listed = {item["name"]: item for item in json.loads(result.stdout)}
    assert listed["mongodb_uri"]["value"] == "mongodb://ada:***@db.example/?replicaSet=rs0"
    assert listed["collections"] | {"description": ""} == {
        "name": "collections",
        "env": "EVENTSYNC_COLLECTIONS",
        "value": ["a", "b"],
        "default": [],
        "description": "",
        "source": "environment",
    }
    table = run("settings")
    assert "hunter2" not in result.stdout + table.stdout
    assert "a,b" in table.stdout


def test_the_script_tells_its_options_without_installing_anything(tmp_path: Path) -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    done = subprocess.run(
        [scripts / "dev", "--port", "1", "--help"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": "/nowhere/python"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(20),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = run("dev", "--help").stdout.replace("eventsync dev", "scripts/dev")
    assert done.stdout.split() == told.split(), "write scripts/_dev_help again from `eventsync dev --help`"
    assert list(tmp_path.iterdir()) == []
