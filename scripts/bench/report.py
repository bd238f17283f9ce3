"""What a benchmark found: figures of several rounds, as Markdown for people and JSON for the next comparison."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pymongo


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several rounds, and how far they lie apart."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        listed = list(values)
        return cls(statistics.median(listed), min(listed), max(listed))

    def __str__(self) -> str:
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        if self.low == self.high:
            return f"{self.median:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows by name; each has the same figures: column → one value a round."""

    title: str
    explanation: str
    rows: Mapping[str, Mapping[str, Sequence[float]]]

    def spreads(self) -> dict[str, dict[str, Spread]]:
        return {name: {column: Spread.of(values) for column, values in row.items()} for name, row in self.rows.items()}

    def markdown(self) -> str:
        columns = list(next(iter(self.rows.values())))
        head = f"| |{'|'.join(f' {column} ' for column in columns)}|\n|---|{'---|' * len(columns)}\n"
        body = "".join(
            f"| {name} |{'|'.join(f' {spread} ' for spread in row.values())}|\n" for name, row in self.spreads().items()
        )
        return f"## {self.title}\n\n{self.explanation}\n\n{head}{body}"


@dataclass(frozen=True, slots=True)
class Report:
    """A whole result. `setup` says what is the same for all figures: counts, sizes, the write concern."""

    title: str
    command: str
    setup: dict[str, str]
    tables: Sequence[Table]
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def markdown(self) -> str:
        facts = "".join(f"- {name}: {value}\n" for name, value in (self.setup | machine()).items())
        intro = f"# {self.title}\n\nMade by `{self.command}` on {self.at:%Y-%m-%d}. "
        intro += "Figures are medians of the rounds, with the least and the most.\n\n"
        return intro + facts + "\n" + "\n".join(table.markdown() for table in self.tables)

    def json(self) -> str:
        tables = {
            table.title: {
                name: {column: asdict(spread) for column, spread in row.items()}
                for name, row in table.spreads().items()
            }
            for table in self.tables
        }
        whole: dict[str, Any] = {"command": self.command, "at": self.at.isoformat(timespec="seconds")}
        return json.dumps(whole | {"setup": self.setup | machine(), "tables": tables}, indent=2) + "\n"


def machine() -> dict[str, str]:
    """What the figures depend on besides the code."""
    versions = {"Python": platform.python_version(), "PyMongo": f"{pymongo.version}{'' if bson.has_c() else ' (no C)'}"}
    return {
        "machine": f"{os.cpu_count()} CPUs ({_cpu_model()}), {sys.platform} {platform.machine()}",
        "load": f"{os.getloadavg()[1]:.1f} processes at the end, the benchmark's own three included (5 minutes' mean)",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
