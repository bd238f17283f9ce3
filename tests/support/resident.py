"""The resident memory of a process, as the kernel counts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass
class Growth:
    """Bytes by which a process grew at its peak; known once the block has ended."""

    bytes: int = 0


@contextmanager
def growth(pid: int) -> Iterator[Growth]:
    """Measure the peak of the resident memory of a process while the block runs."""
    # Sets the peak back to what is resident now (proc(5), "clear_refs").
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before = _status(pid, "VmRSS")
    found = Growth()
    yield found
    found.bytes = _status(pid, "VmHWM") - before


def _status(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(f"process {pid} has no {field}")
