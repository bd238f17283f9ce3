"""Large blocks go back to the system when they are freed, wherever in memory smaller ones are that stay."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.systems import MIB

SCRIPT = """
import sys
from eventsync.process.memory import return_free_memory

if sys.argv[1] == "returned" and not return_free_memory():
    sys.exit("no mallopt")

def resident():
    return 4096 * int(open("/proc/self/statm").read().split()[1])

first = bytes(30 << 20)
del first  # from here on glibc takes 30 MiB for usual
before = resident()
kept, large = [], []
for number in range(40):
    large.append(b"x" * (4 << 20))
    kept.append(b"y" * 100_000)
del large
print(resident() - before)
"""


def left(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc and glibc")
def test_large_blocks_among_small_ones_are_given_back() -> None:
    assert left("returned") < 20 * MIB
    assert left("kept") > 100 * MIB, "glibc does so by itself: app/eventsync/process/memory.py is not needed any more"
