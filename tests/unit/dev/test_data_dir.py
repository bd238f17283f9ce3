from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest

from eventsync.dev.data_dir import opened
from eventsync.dev.port import is_free
from eventsync.errors import ConfigurationError


def test_a_data_directory_is_made_with_a_gitignore(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b") as directory:
        assert directory.mongodb.is_dir()
        assert (directory.path / ".gitignore").read_text() == "*\n"


def test_a_data_directory_is_readable_by_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = os.umask(0)
    try:
        with opened(tmp_path / "new") as directory:
            directory.write_config({"mongodb_uri": "mongodb://u:secret@h"})
            assert _mode(directory.path) == _mode(directory.mongodb) == 0o700
            assert _mode(directory.config) == 0o600
            assert _mode(tmp_path / "state" / "eventsync" / "dev") == 0o700
            assert _mode(tmp_path / "state" / "eventsync" / "dev" / f"{os.getpid()}.json") == 0o600
        assert list((tmp_path / "state" / "eventsync" / "dev").iterdir()) == []
        # As an earlier version has left it.
        (tmp_path / "new").chmod(0o755)
        (tmp_path / "new" / "mongod.log").write_text("")
        with opened(tmp_path / "new") as directory:
            assert _mode(directory.path) == 0o700
            assert _mode(directory.path / "mongod.log.old") == 0o600
    finally:
        os.umask(before)


def test_a_directory_with_other_things_in_it_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home").chmod(0o755)
    with opened(tmp_path / "home"):
        assert _mode(tmp_path / "home") == 0o755


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_data_directory_in_use_is_refused_with_the_process(tmp_path: Path) -> None:
    with (
        opened(tmp_path),
        pytest.raises(ConfigurationError, match=rf"process {os.getpid()}\) uses .* --data-dir"),
        opened(tmp_path),
    ):
        pass
    with opened(tmp_path) as again:
        assert again.path == tmp_path


@pytest.mark.parametrize("place", ["file/data", "file"])
def test_a_path_that_can_not_be_a_directory_is_refused_with_the_remedy(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"can't be used .* --data-dir"), opened(tmp_path / place):
        pass


def test_an_error_of_the_run_is_not_taken_for_one_of_the_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), opened(tmp_path):
        raise OSError("mine")


def test_the_port_of_mongod_is_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        port = directory.mongod_port()
    with opened(tmp_path) as directory:
        assert directory.mongod_port() == port
        assert is_free("127.0.0.1", port)


@pytest.mark.parametrize("text", ["", "nonsense", "0", "99999"])
def test_an_invalid_recorded_port_is_replaced(tmp_path: Path, text: str) -> None:
    with opened(tmp_path) as directory:
        (tmp_path / "mongod.port").write_text(text)
        assert 0 < directory.mongod_port() < 65536


def test_the_configuration_exists_while_dev_runs_readable_by_the_owner(tmp_path: Path) -> None:
    values = {"mongodb_uri": 'mongodb://u:p"\\ä@h/', "database": "app"}
    with opened(tmp_path) as directory:
        directory.write_config(values)
        assert tomllib.loads(directory.config.read_text()) == values
        assert directory.config.stat().st_mode & 0o777 == 0o600
    assert not directory.config.exists()


def test_the_configuration_of_a_killed_dev_is_removed(tmp_path: Path) -> None:
    (tmp_path / "eventsync.toml").write_text('mongodb_uri = "mongodb://gone"')
    with opened(tmp_path) as directory:
        assert not directory.config.exists()


def test_the_log_of_the_previous_run_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mongod.log").write_text("before")
    with opened(tmp_path) as directory:
        assert not directory.mongod_log.exists()
        assert (tmp_path / "mongod.log.old").read_text() == "before"


def test_a_copy_is_recognized_even_at_the_path_of_the_original(tmp_path: Path) -> None:
    original, backup = tmp_path / "data", tmp_path / "backup"
    with opened(original) as directory:
        assert not directory.is_copy(), "of a new one nothing is known"
        directory.settle()
        assert not directory.is_copy()
    subprocess.run(["cp", "-a", original, backup], check=True)
    with opened(original) as directory:
        assert not directory.is_copy(), "copied, it stays the original"
        directory.settle()
    original.rename(tmp_path / "moved")
    with opened(tmp_path / "moved") as directory:
        assert not directory.is_copy(), "wherever it is moved"
    shutil.rmtree(tmp_path / "moved")
    subprocess.run(["cp", "-a", backup, original], check=True)
    with opened(original) as directory:
        assert directory.is_copy()
        directory.settle()
        assert not directory.is_copy()
