"""A run that is ended from outside: in good order, and not without a word."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from eventsync.dev import mongod
from eventsync.errors import ConfigurationError
from support.data_directory import directories_of
from support.waiting import eventually, within


@pytest.mark.slow
async def test_a_run_that_is_ended_says_what_it_waited_for(tmp_path: Path) -> None:
    try:
        mongod.check_runs(mongod.find_mongod())
    except ConfigurationError as error:
        pytest.skip(error.message)
    arguments = ("--seed", "8", "--seconds", "3600", "--nodes", "1", "--workers", "1", "--servers", "1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.chaos", *arguments, "--nemesis", "none", "--directory", str(tmp_path)),
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=asyncio.subprocess.PIPE,
    )
    stages = tmp_path / "8" / "stages.log"
    try:
        await eventually(lambda: stages.exists() and "writes for 3600 s" in stages.read_text(), 60)
        process.terminate()
        async with within(30):
            _, output = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    said = output.decode()
    assert process.returncode == 1
    assert "scripts/chaos --seed 8 " in said
    assert "s for: writes for 3600 s" in said
    assert not (tmp_path / "8" / "member0").exists(), "what it had is gone"
    assert not directories_of(process.pid)
