"""Memory of a process, as proc(5) counts it. Memory that the kernel holds for its sockets is in none of the figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """In KiB. `rss`: all resident pages; `pss`: of shared ones its share; `uss`: only those that nobody shares."""

    rss: float
    pss: float
    uss: float

    @classmethod
    def of(cls, pid: int) -> Memory:
        """Return the memory of a process right now."""
        rows: dict[str, int] = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, value = line.partition(":")
            rows[name] = int(value.split()[0])
        return cls(rows["Rss"], rows["Pss"], rows["Private_Clean"] + rows["Private_Dirty"])


def forget_peak(pid: int) -> None:
    """Let the peak (VmHWM) of a process begin anew; proc(5), clear_refs."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
