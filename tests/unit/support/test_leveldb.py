"""Recognition of an incomplete record at the end of a log of LevelDB."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from support.leveldb import complete_length, cut_incomplete_records

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
BLOCK = 32_768


def record(kind: int, size: int) -> bytes:
    return struct.pack("<IHB", 0, size, kind) + b"x" * size


FRAGMENTS = record(FIRST, BLOCK - 7) + record(MIDDLE, BLOCK - 7) + record(LAST, 10)


@pytest.mark.parametrize("log", [b"", record(FULL, 0), record(FULL, 100) + record(FULL, 5), FRAGMENTS])
def test_a_log_of_complete_records_is_complete(log: bytes) -> None:
    assert complete_length(log) == len(log)


@pytest.mark.parametrize("log", [record(FULL, 100), FRAGMENTS])
def test_a_record_that_ends_too_early_is_incomplete_wherever_it_does(log: bytes) -> None:
    block = record(FULL, BLOCK - 7)
    for end in {*range(20), BLOCK - 10, BLOCK, 2 * BLOCK - 10, len(log) - 1} & set(range(len(log))):
        assert complete_length(block + log[:end]) == BLOCK


def test_records_behind_the_filled_end_of_a_block_count() -> None:
    nearly = record(FULL, BLOCK - 7 - 3)
    log = nearly + b"\0\0\0" + record(FULL, 4)
    assert complete_length(log) == len(log)
    assert complete_length(log[:-1]) == len(nearly)


def test_incomplete_records_are_cut_off_each_log(tmp_path: Path) -> None:
    whole, rest = record(FULL, 30), record(FULL, 30)[:-4]
    (tmp_path / "000003.log").write_bytes(whole + rest)
    (tmp_path / "MANIFEST-000001").write_bytes(whole)
    (tmp_path / "CURRENT").write_bytes(rest)
    assert cut_incomplete_records(tmp_path) == 1
    assert (tmp_path / "000003.log").read_bytes() == whole
    assert (tmp_path / "CURRENT").read_bytes() == rest
