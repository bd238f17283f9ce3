"""Figures of several processes, which are real ones here: each lives, ends or is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventsync.metrics import shared
from eventsync.metrics.catalogue import CONNECTIONS, PUBLISHED
from eventsync.metrics.figures import Figures
from eventsync.metrics.shared import SharedFigures, figures_directory
from support.waiting import eventually, patience

PROGRAM = """
import asyncio, sys
from pathlib import Path
from eventsync.metrics.catalogue import CONNECTIONS, PUBLISHED
from eventsync.metrics.figures import Figures
from eventsync.metrics.shared import SharedFigures

def collect():
    figures = Figures()
    figures.put(PUBLISHED, int(sys.argv[2]))
    figures.put(CONNECTIONS, 1, "sse")
    return figures

async def main():
    keeping = asyncio.create_task(SharedFigures(Path(sys.argv[1]), collect).keep())
    await asyncio.sleep(0)
    print("written", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)

asyncio.run(main())
"""


@contextmanager
def process(directory: Path, events: int) -> Iterator[subprocess.Popen[str]]:
    """A process that has counted so many events, and holds one connection."""
    words = [sys.executable, "-c", PROGRAM, str(directory), str(events)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "written\n"
        try:
            yield started
        finally:
            started.kill()


def own() -> Figures:
    figures = Figures()
    figures.put(PUBLISHED, 1)
    figures.put(CONNECTIONS, 2, "sse")
    return figures


def total(figures: SharedFigures) -> tuple[float, float, int]:
    """Return the events, the connections and the live processes of a scrape."""
    found, alive = figures.total()
    events, connections = found.value(PUBLISHED), found.value(CONNECTIONS, "sse")
    assert isinstance(events, float)
    assert isinstance(connections, float)
    return events, connections, alive


@pytest.mark.parametrize("end", ["kill", "end"])
def test_a_scrape_tells_of_all_and_no_count_is_lost_or_doubled(tmp_path: Path, end: str) -> None:
    mine = SharedFigures(tmp_path, own)
    with process(tmp_path, 10) as one, process(tmp_path, 100):
        assert total(mine) == (111, 4, 3)
        if end == "kill":
            os.kill(one.pid, signal.SIGKILL)
        else:
            one.communicate("\n", timeout=patience(10))
        one.wait(patience(10))
        assert [total(mine) for _ in range(3)] == [(111, 3, 2)] * 3
        with process(tmp_path, 1000):
            assert total(mine) == (1111, 4, 3)
            # Another process that is scraped says the same, and its own connections beside the others'.
            assert total(SharedFigures(tmp_path, own)) == (1111, 4, 3)
    assert total(mine) == (1111, 2, 1)


def test_a_crash_between_the_sum_and_the_removal_counts_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = SharedFigures(tmp_path, own)
    with process(tmp_path, 10):
        pass

    def crash(*_: object, **__: object) -> None:
        raise OSError("killed here")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", crash)
        total(mine)
    assert len(list(tmp_path.glob("*.figures"))) == 1
    assert total(mine) == (11, 2, 1)
    assert list(tmp_path.glob("*.figures")) == []
    assert total(mine) == (11, 2, 1)


async def test_the_figures_are_written_again_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_PERIOD", 0.01)
    count = 0

    def counted() -> Figures:
        figures = Figures()
        figures.put(PUBLISHED, count)
        return figures

    reader = SharedFigures(tmp_path, own)
    keeping = asyncio.create_task(SharedFigures(tmp_path, counted).keep())
    for count in (5, 7):
        await eventually(lambda: reader.total()[0].value(PUBLISHED) == 1 + count)  # noqa: B023 - awaited here
    # Nothing is awaited between the two: only the end can write it.
    count = 9
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert total(reader) == (10, 2, 1)


def test_a_directory_that_is_gone_leaves_the_own_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    mine = SharedFigures(directory, own)
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert total(mine) == (1, 2, 1)
    assert "the metrics are those of one server process" in caplog.text


def test_the_directory_is_private_and_goes_with_its_block() -> None:
    with figures_directory() as directory:
        assert directory is not None
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "file").touch()
    assert not directory.exists()
