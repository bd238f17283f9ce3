from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eventsync.dev.mongod_log import last_error


def write(path: Path, *entries: dict[str, Any] | str) -> Path:
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return path


def test_last_error_returns_the_newest_error_with_its_reason(tmp_path: Path) -> None:
    log = write(
        tmp_path / "log",
        {"s": "E", "c": "STORAGE", "msg": "older", "attr": {}},
        {"s": "E", "c": "CONTROL", "msg": "DBException in initAndListen", "attr": {"error": "no"}},
        {"s": "E", "c": "STORAGE", "msg": "Can't start", "attr": {"error": {"code": 98, "errmsg": "in use"}}},
        {"s": "I", "c": "CONTROL", "msg": "Now exiting", "attr": {"exitCode": 100}},
    )
    assert last_error(log) == f"Can't start: in use (see {log})"


def test_last_error_returns_the_loaders_output(tmp_path: Path) -> None:
    log = write(tmp_path / "log", "mongod: libcurl.so.4: cannot open shared object file")
    assert last_error(log).startswith("mongod: libcurl.so.4")


def test_last_error_without_an_error_returns_the_path(tmp_path: Path) -> None:
    assert last_error(tmp_path / "none") == f"see {tmp_path / 'none'}"
    log = write(tmp_path / "log", {"s": "I", "msg": "fine"})
    assert last_error(log) == f"see {log}"


def test_last_error_reads_the_end_of_a_long_log(tmp_path: Path) -> None:
    lines = [{"s": "I", "msg": "x" * 1000}] * 200
    log = write(
        tmp_path / "log", {"s": "E", "msg": "long ago"}, *lines, {"s": "F", "msg": "now", "attr": {"error": "e"}}
    )
    assert last_error(log) == f"now: e (see {log})"
