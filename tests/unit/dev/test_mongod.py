from __future__ import annotations

import stat
from pathlib import Path

import pytest

from eventsync.dev import mongod
from eventsync.errors import ConfigurationError, Unavailable


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongod, "WHEEL", "no-such-wheel")


def test_mongod_is_taken_from_the_path_without_the_wheel(
    no_wheel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = script(tmp_path / "mongod", "exit 0")
    assert mongod.find_mongod() == found


def test_no_mongod_at_all_is_an_error_with_three_remedies(
    no_wheel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"--mongodb-uri.*eventsync\[embedded\].*PATH"):
        mongod.find_mongod()


def test_a_missing_library_is_named_with_its_package(tmp_path: Path) -> None:
    message = "error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    binary = script(tmp_path / "mongod", f"echo '{message}' >&2; exit 127")
    with pytest.raises(ConfigurationError, match=r"libcurl\.so\.4.*apt-get install libcurl4"):
        mongod.check_runs(binary)


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mongod").write_text("")
    with pytest.raises(ConfigurationError, match="can't be run"):
        mongod.check_runs(tmp_path / "mongod")


def test_waiting_for_mongod_can_be_given_up() -> None:
    with pytest.raises(Unavailable):
        mongod.initiate(mongod.free_port(), given_up=lambda: True)
